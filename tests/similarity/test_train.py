"""The training command on made-up questions: what a run leaves, exact resume, every loss and recipe, wrong flags."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from losses import am_softmax
from similarity import Architecture, SentenceEncoder, Vocabulary, evaluate, train
from similarity.data import GroupPairs, LabelledSentences, load_split
from similarity.groups import Groups, Split
from similarity.optimizer import RowAdagrad
from similarity.paraphrase import made_up_groups
from similarity.text import normalize
from similarity.threshold import leave_one_out
from trainer import World, load_checkpoint, run_main

ROOT = Path(__file__).resolve().parents[2]
ARTICLE = ["--epochs", "2", "--batch-size", "64", "--dim", "16", "--hidden", "16", "--embedding-dim", "16"]
OURS = ["--recipe", "ours", "--epochs", "2", "--dim", "32", "--buckets", "4096"]  # 8 batches of 50 groups
RUNS = {"article": ARTICLE, "ours": OURS}
TINY_BAG = Architecture(dim=32, hidden=0, max_length=64, buckets=4096)  # of OURS


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A finished run of each recipe."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        train.main([*flags, "--out", str(folder), "--name", name])
    return folder / "similarity"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_everything(runs, name):
    content = json.loads((runs / name / "metrics.json").read_text(encoding="utf-8"))
    scores = {"top1", "top5", "top10", "mrr", "map_r", "roc_auc"}
    rejection = {"threshold", "promised", "kept", "coverage", "answerable_auc"}
    assert rejection | scores | {f"validation_{k}" for k in scores} | {"best_epoch"} == set(content["metrics"])
    assert content["data_sha256"] == load_split([], 0.05, 0.1, progress=False).sha256()
    assert {"last.pt", "best.pt", "encoder.pt", "settings.json"} <= {p.name for p in (runs / name).iterdir()}
    assert list((runs / name).glob("events.out.tfevents.*"))
    assert list((runs / name).rglob("metadata.tsv"))  # the projector's
    model = SentenceEncoder.load(runs / name)
    parts = load_split([], 0.05, 0.1, progress=False)
    again = evaluate.pool_scores(model, parts.test)
    assert again == {key: content["metrics"][key] for key in again}


def test_ours_learns_on_made_up_questions_what_it_was_not_shown(runs):
    """Test groups are new intents about known topics; untrained vectors are tf-idf to within the projection."""
    content = json.loads((runs / "ours" / "metrics.json").read_text(encoding="utf-8"))
    parts = load_split([], 0.05, 0.1, progress=False)
    vocabulary = Vocabulary.fit(parts.train.sentences, 2)
    torch.manual_seed(0)
    untrained = SentenceEncoder(vocabulary, TINY_BAG)
    assert content["metrics"]["top1"] > evaluate.pool_scores(untrained, parts.test)["top1"]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_command_gives_the_same_weights_and_another_seed_others(runs, name, tmp_path):
    train.main([*RUNS[name], "--out", str(tmp_path), "--name", "again"])
    train.main([*RUNS[name], "--out", str(tmp_path), "--name", "other", "--seed", "1"])
    first, again, other = (
        weights(f) for f in (runs / name, tmp_path / "similarity/again", tmp_path / "similarity/other")
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", RUNS)
def test_kill_9_then_resume_reaches_the_same_weights(runs, name, tmp_path):
    arguments = [*RUNS[name], "--out", str(tmp_path), "--name", "killed", "--checkpoint-steps", "3"]
    command = [sys.executable, "-m", "similarity.train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "similarity" / "killed" / "last.pt"
    deadline = time.monotonic() + 400
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train.main([*arguments, "--resume"])
    expected, found = weights(runs / name), weights(last.parent)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize(
    "flags",
    [
        [*ARTICLE, "--loss", "normalized_softmax", "--padding", "original"],
        [*ARTICLE, "--loss", "simpler_a_softmax", "--chunk-size", "0", "--precision", "bf16"],
        [*ARTICLE, "--loss", "a_softmax", "--sub-centers", "2", "--bidirectional", "--pooling", "max"],
        [*ARTICLE, "--loss", "arc_face", "--margin", "0.2", "--sample-rate", "0.5", "--schedule", "linear"],
        [*OURS, "--hidden", "16", "--embedding-dim", "8", "--pooling", "mean", "--dropout", "0.1"],
        [*OURS, "--loss", "normalized_softmax", "--neighbours", "0"],
    ],
)
def test_every_loss_and_kind_of_encoder_trains(flags, tmp_path):
    content = train.main([*flags, "--epochs", "1", "--final", "validation", "--out", str(tmp_path)])
    assert content["metrics"]["top1"] == content["metrics"]["validation_top1"]
    assert 0.02 < content["metrics"]["top10"] <= 1


@pytest.fixture
def raw(tmp_path) -> list[str]:
    """Flags of a run on groups and, beside them, sentences without a group."""
    groups, text = tmp_path / "groups.tsv", tmp_path / "raw.txt"
    rows = [f"{i}\t{s}\n" for i, group in enumerate(made_up_groups()[:200]) for s in group]
    groups.write_text("".join(rows), encoding="utf-8")
    sentences = [s for group in made_up_groups()[200:] for s in group]
    text.write_text("".join(f"{s}\n" for s in sentences), encoding="utf-8")
    flags = ["--sentences", "raw", "--ngram-drop", "0.3", "--data", str(groups), str(text)]
    return [*OURS, *flags, "--out", str(tmp_path), "--name", "raw"]


def test_pretraining_on_raw_sentences_then_groups(raw, tmp_path, capsys):
    """The second run starts from the weights of the first, and from its vocabulary though it counts others."""
    content = train.main(raw)
    assert content["metrics"]["top1"] > 0  # asked are groups, whatever was trained on
    # 85 % of 1,200 sentences in groups and of 1,632 without, each for itself
    assert f"{170 * 6 + 1387:,} training groups" in capsys.readouterr().out
    flags = ["--data", str(tmp_path / "groups.tsv"), "--start", str(tmp_path / "similarity" / "raw")]
    second = train.main([*OURS, *flags, "--out", str(tmp_path), "--name", "on", "--lr", "1e-9"])
    assert "0 validation and 0 test groups left out" in capsys.readouterr().out
    assert second["metrics"]["best_epoch"] >= 1
    before, after = (SentenceEncoder.load(tmp_path / "similarity" / name) for name in ("raw", "on"))
    assert after.vocabulary.characters == before.vocabulary.characters
    torch.testing.assert_close(after.bag.weight, before.bag.weight)


def interrupted(flags: list[str], monkeypatch, steps: int = 5) -> None:
    """Stop the run at this step, two after its last checkpoint."""
    calls = iter(range(steps))
    terms = train.in_batch_terms

    def stop(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return terms(*arguments)

    monkeypatch.setattr(train, "in_batch_terms", stop)
    with pytest.raises(KeyboardInterrupt):
        train.main([*flags, "--checkpoint-steps", "3"])
    monkeypatch.setattr(train, "in_batch_terms", terms)


def test_a_raw_run_and_one_with_a_start_go_on_to_the_same_weights(raw, runs, tmp_path, monkeypatch):
    start = [*OURS, "--start", str(runs / "ours"), "--out", str(tmp_path), "--name", "start"]
    for flags in (raw, start):
        train.main(flags)
        expected = weights(tmp_path / "similarity" / flags[-1])
        flags = [*flags[:-1], "again"]
        interrupted([*flags, "--overwrite"], monkeypatch)
        train.main([*flags, "--resume"])
        found = weights(tmp_path / "similarity" / "again")
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_run_does_not_go_on_with_other_sentences_or_another_start(raw, runs, tmp_path, monkeypatch, capsys):
    text = tmp_path / "raw.txt"
    interrupted(raw, monkeypatch)
    whole = text.read_text(encoding="utf-8")
    text.write_text(whole[: len(whole) // 2], encoding="utf-8")
    said = fails(train.main, [*raw, "--resume"], capsys)
    assert "raw/last.pt: --resume needs the inputs the run began with; changed: training sentences" in said
    text.write_text(whole, encoding="utf-8")
    train.main([*raw, "--resume"])

    encoder = tmp_path / "encoder.pt"
    encoder.write_bytes((runs / "ours" / "encoder.pt").read_bytes())
    flags = [*OURS, "--start", str(encoder), "--out", str(tmp_path), "--name", "start"]
    interrupted(flags, monkeypatch)
    model = SentenceEncoder.load(encoder)
    with torch.no_grad():
        model.bag.weight[0, 0] += 1
    model.save(encoder)
    said = fails(train.main, [*flags, "--resume"], capsys)
    assert said.endswith("start/last.pt: --resume needs the inputs the run began with; changed: --start\n")


def test_overwrite_leaves_the_old_run_until_the_inputs_are_read_and_then_nothing_of_it(tmp_path, monkeypatch, capsys):
    flags = [*OURS, "--epochs", "1", "--out", str(tmp_path), "--name", "run"]
    folder = tmp_path / "similarity" / "run"
    train.main(flags)
    evaluate.main([str(folder)])
    before = {path.name for path in folder.iterdir()}
    assert {"encoder.pt", "evaluation.json", "metrics.json", "inputs.json"} <= before
    for wrong in (
        ["--data", "nowhere.tsv"],
        ["--start", "nowhere"],
        ["--batch-size", "5000", "--objective", "classes"],
    ):
        fails(train.main, [*flags, *wrong, "--overwrite"], capsys)
    assert {path.name for path in folder.iterdir()} == before
    interrupted([*flags, "--overwrite"], monkeypatch)
    left = {path.name for path in folder.iterdir() if path.is_file()}
    assert {name for name in left if "tfevents" not in name} == {"settings.json", "inputs.json", "last.pt"}


def test_held_out_groups_that_a_start_was_trained_on_are_left_out(runs, tmp_path, capsys):
    """Also by the run that started from it, by the one after that, and by evaluate."""
    data = tmp_path / "shorter.tsv"  # its groups have other first sentences, and so other places in the split
    rows = [f"{i}\t{s}\n" for i, group in enumerate(made_up_groups()) for s in sorted(group, key=normalize)[1:]]
    data.write_text("".join(rows), encoding="utf-8")
    whole = load_split([data], 0.2, 0.3, progress=False)
    seen = load_split([], 0.05, 0.1, progress=False).train
    validation, test = evaluate.unseen(whole.validation, seen), evaluate.unseen(whole.test, seen)
    assert 1 < len(test) < len(whole.test)
    assert 1 < len(validation) < len(whole.validation)
    gone = [len(whole.validation) - len(validation), len(whole.test) - len(test)]
    start = runs / "ours"
    for name in ("second", "third"):
        flags = ["--epochs", "1", "--validation-share", "0.2", "--test-share", "0.3", "--data", str(data)]
        content = train.main([*OURS, *flags, "--start", str(start), "--out", str(tmp_path), "--name", name])
        said = capsys.readouterr().out
        assert f"{gone[0]} validation and {gone[1]} test groups left out" in said
        assert content["data_sha256"] == Split(whole.train, validation, test).sha256()
        start = tmp_path / "similarity" / name
    values = evaluate.main([str(start)])
    assert values == {key: content["metrics"][key] for key in values}
    assert f"{gone[1]} of {len(whole.test)} groups left out" in capsys.readouterr().out
    text = tmp_path / "all.tsv"
    rows = [f"{i}\t{s}\n" for i, group in enumerate(made_up_groups()) for s in group]
    text.write_text("".join(rows), encoding="utf-8")
    evaluate.main([str(start), "--data", str(text), "--part", "all"])
    left = evaluate.unseen(evaluate.unseen(made_up_groups(), whole.train), seen)
    assert f"{472 - len(left)} of 472 groups left out" in capsys.readouterr().out
    wide = ["--test-share", "0.3", "--start", str(runs / "ours")]  # test takes all that the start held out
    said = fails(train.main, [*OURS, *wide, "--out", str(tmp_path)], capsys)
    assert "was trained on all validation or test groups; give --data that it never saw" in said


def test_a_start_of_unknown_origin_is_warned_of(runs, tmp_path, capsys):
    encoder = tmp_path / "encoder.pt"
    encoder.write_bytes((runs / "ours" / "encoder.pt").read_bytes())
    assert evaluate.training_parts(encoder) == []
    assert f"warning: {encoder}: may have been trained on held-out groups" in capsys.readouterr().out
    [own] = evaluate.training_parts(runs / "ours" / "encoder.pt")
    assert own.sha256() == load_split([], 0.05, 0.1, progress=False).train.sha256()
    again = [*OURS, "--epochs", "1", "--out", str(tmp_path), "--name", "again"]
    train.main(again)
    folder = tmp_path / "similarity" / "again"
    other = folder / "other.pt"
    other.write_bytes(encoder.read_bytes())
    assert evaluate.training_parts(other) == []
    assert f"{other}: not the encoder of the run in its folder" in capsys.readouterr().out
    train.main([*again, "--start", str(folder), "--overwrite"])  # of the first of the two nothing is left
    capsys.readouterr()
    assert len(evaluate.training_parts(folder)) == 1
    assert "the run that it started from was overwritten" in capsys.readouterr().out


def test_a_sentence_without_group_is_its_own_fellow_and_dropped_ngrams_tell_the_two_apart():
    groups = Groups([["怎么还款"], ["天气很好啊", "今天天气好"]])
    vocabulary = Vocabulary.fit(groups.sentences, 1)
    dataset = GroupPairs(groups, vocabulary, 32, seed=0)
    for epoch in range(5):
        dataset.set_epoch(epoch)
        (ids,) = dataset.__getitems__([0, 1])
        assert torch.equal(ids[0], ids[2])
        assert not torch.equal(ids[1], ids[3])
    torch.manual_seed(0)
    encoder = SentenceEncoder(vocabulary, Architecture(dim=32, hidden=0, buckets=4096, ngram_drop=0.3)).train()
    vectors = encoder(ids)
    assert not torch.allclose(vectors[0], vectors[2])


def test_one_batch_is_overfitted():
    torch.manual_seed(0)
    groups = Groups(made_up_groups().groups[:20])
    vocabulary = Vocabulary.fit(groups.sentences, 1)
    dataset = GroupPairs(groups, vocabulary, 32, seed=0)
    encoder = SentenceEncoder(vocabulary, TINY_BAG).train()
    optimizer = RowAdagrad(encoder.parameters(), 0.1)
    (ids,) = dataset.__getitems__(range(20))
    for _ in range(30):
        terms = train.in_batch_terms(encoder(ids), am_softmax, {"scale": 20.0, "margin": 0.1})
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert terms["found"] == 1
    assert terms["loss"] < 0.1


def test_in_batch_terms_equal_plain_loops():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    terms = train.in_batch_terms(vectors, am_softmax, {"scale": 7.0, "margin": 0.2})
    losses, found = [], []
    for i in range(6):
        fellow = (i + 3) % 6
        cosines = {j: float(vectors[i] @ vectors[j]) for j in range(6) if j != i}
        own = np.exp(7 * (cosines[fellow] - 0.2))
        rest = sum(np.exp(7 * c) for j, c in cosines.items() if j != fellow) + np.exp(-7)  # itself, at cosine -1
        losses.append(-np.log(own / (own + rest)))
        found.append(max(cosines, key=cosines.get) == fellow)
    assert float(terms["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(terms["found"]) == pytest.approx(np.mean(found))


def test_rows_of_adagrad_and_adam_equal_plain_loops():
    torch.manual_seed(0)
    table = torch.nn.EmbeddingBag(5, 3, mode="sum", sparse=True)
    dense = torch.nn.Parameter(torch.randn(3))
    expected, sums = table.weight.detach().double().numpy().copy(), np.zeros(5)
    reference = torch.nn.Parameter(dense.detach().clone())
    adam = torch.optim.Adam([reference], 0.1 * 0.02, eps=1e-10)
    optimizer = RowAdagrad([*table.parameters(), dense], lr=0.1)
    for step in range(4):
        ids = torch.tensor([[0, 2, 2], [4, 0, step % 2]])
        (table(ids) * dense).sum().backward()
        gradient = np.zeros((5, 3))
        for row in ids.flatten().tolist():
            gradient[row] += dense.detach().numpy()
        reference.grad = dense.grad.clone()
        optimizer.step()
        adam.step()
        for row in set(ids.flatten().tolist()):
            sums[row] += (gradient[row] ** 2).mean()
            expected[row] -= 0.1 * gradient[row] / np.sqrt(sums[row])
        np.testing.assert_allclose(table.weight.detach(), expected, atol=1e-5)
        torch.testing.assert_close(dense, reference)
        optimizer.zero_grad()
    with pytest.raises(ValueError, match="cannot be negative"):
        RowAdagrad([dense], lr=-1)


@pytest.fixture(scope="module")
def groups() -> Groups:
    return made_up_groups()


def test_batches_by_length_are_a_permutation_of_whole_batches(groups):
    dataset = LabelledSentences(groups, Vocabulary.fit(groups.sentences), 32)
    order = dataset.order(0, 50, by_length=True)
    first, again, next_epoch = order(0), order(0), order(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_epoch)
    assert len(first) == len(dataset) // 50 * 50
    assert len(set(first.tolist())) == len(first)
    spread = [np.ptp(dataset.sentences.lengths[batch]) for batch in first.numpy().reshape(-1, 50)]
    assert np.mean(spread) < 2  # characters between shortest and longest, of 4 to 25 in the corpus
    ids, labels = dataset.__getitems__(first[:50].tolist())
    assert labels.tolist() == groups.labels[first[:50]].tolist()
    assert ids.shape[0] == 50
    assert sorted(dataset.order(0, 50, by_length=False)(0).tolist()) == list(range(len(dataset)))


def test_pairs_are_two_sentences_of_each_group(groups):
    vocabulary = Vocabulary.fit(groups.sentences, 1)
    dataset = GroupPairs(groups, vocabulary, 64, seed=0)
    seen = set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        assert (groups.labels[dataset.one] == np.arange(len(groups))).all()
        assert (groups.labels[dataset.other] == np.arange(len(groups))).all()
        assert (dataset.one != dataset.other).all()
        seen |= {(dataset.one[0], dataset.other[0])}
    assert len(seen) > 20  # of the 30 ordered pairs of a group of six
    (ids,) = dataset.__getitems__([3, 5])
    expected = [groups.sentences[i] for i in (*dataset.one[[3, 5]], *dataset.other[[3, 5]])]
    assert torch.equal(ids, vocabulary.encode(expected, 64))


def test_similar_groups_share_a_batch(groups):
    dataset = GroupPairs(groups, Vocabulary.fit(groups.sentences), 32, seed=0)
    angles = torch.linspace(0, 3.1, len(groups))
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    order = dataset.order(0, vectors, neighbours=16)
    assert sorted(order(3).tolist()) == list(range(len(groups)))
    assert torch.equal(order(3), order(3))
    assert not torch.equal(order(3), order(4))
    steps = (order(0)[1:] - order(0)[:-1]).abs().float().median()
    random = dataset.order(0, vectors, neighbours=0)(0)
    assert steps < 0.3 * (random[1:] - random[:-1]).abs().float().median()


def fails(main, argv, capsys) -> str:
    """What the command says, in one line and without a traceback, and its exit status 2."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--loss", "hinge"], "simpler_a_softmax"),
        (["--margin", "wide"], "--margin"),
        (["--scale", "0"], "--scale must be positive and finite, got 0"),
        (["--validation-share", "0.7"], "--validation-share must be between 0 and 0.5"),
        (["--promised", "1"], "--promised must be between 0 and 1, got 1"),
        (["--sample-rate", "2"], "--sample-rate must be above 0 and up to 1"),
        (["--hidden", "0"], "an encoder needs a GRU"),
        (["--padding", "original", "--pooling", "max"], "--padding original is the article's network"),
        (["--batch-size", "5000"], "--batch-size 5000 is more than the"),
        (["--data", "nowhere.tsv"], "nowhere.tsv: cannot be read"),
        (["--resume"], "no checkpoint there"),
        (["--sentences", "raw"], "--sentences must be groups without a bag"),
        (["--recipe", "ours", "--sentences", "raw"], "--sentences must be groups without a bag"),
        (["--start", "nowhere"], "nowhere: no checkpoint there"),
    ],
)
def test_wrong_flags(argv, message, capsys, tmp_path):
    assert message in fails(train.main, [*argv, "--out", str(tmp_path)], capsys)


def test_a_start_of_another_architecture_is_refused(runs, tmp_path, capsys):
    said = fails(train.main, [*OURS, "--start", str(runs / "article"), "--out", str(tmp_path)], capsys)
    assert "similarity/article: has Architecture(dim=16" in said
    assert "this run has Architecture(dim=32" in said


def test_our_recipe_under_torchrun_is_refused(monkeypatch, tmp_path, capsys):
    """The article's recipe runs there: tests/trainer/test_distributed.py has the machinery."""
    monkeypatch.setattr(train, "world", lambda device: nullcontext(World(0, 2, torch.device("cpu"))))
    said = fails(train.main, [*OURS, "--out", str(tmp_path)], capsys)
    assert "(--recipe ours) need one process" in said
    assert not list(tmp_path.iterdir())


def test_a_diverging_run_names_the_step(capsys, tmp_path):
    said = fails(train.main, [*OURS, "--out", str(tmp_path), "--lr", "1e38"], capsys)
    assert "the loss is not finite at step" in said


def test_evaluate_reloads_the_run_and_other_files(runs, tmp_path, capsys):
    values = evaluate.main([str(runs / "ours")])
    trained = json.loads((runs / "ours" / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert values == {key: trained[key] for key in values}
    assert "nearest 1" in capsys.readouterr().out
    seen = load_split([], 0.05, 0.1, progress=False).train[0]
    other = tmp_path / "other.tsv"
    new = [
        ["海水为什么是咸的", "海水是咸的什么原因"],
        ["月亮上有水吗", "月球有没有水"],
        ["鲸鱼怎么睡觉", "鲸是如何睡的"],
    ]
    rows = [f"{i}\t{s}\n" for i, group in enumerate([seen, *new]) for s in group]
    rows += [f"f{i}\t填充的句子{chr(0x4E00 + i)}{j}\n" for i in range(20) for j in range(2)]
    other.write_text("".join(rows), encoding="utf-8")
    values = evaluate.main([str(runs / "ours"), "--data", str(other), "--part", "all"])
    said = capsys.readouterr().out
    assert "1 of 24 groups left out" in said
    assert "46 questions of 23 groups" in said
    assert 0 <= values["top1"] <= 1


def test_a_promise_is_tried_on_pools_of_the_validation_size(runs, capsys):
    model = SentenceEncoder.load(runs / "ours")
    groups = made_up_groups().groups
    validation, test = Groups(groups[:100]), Groups(groups[200:401])
    values = evaluate.rejection(model, validation, test, 0.6)
    pools = [Groups(test.groups[i::2]) for i in range(2)]  # of 101 and 100 groups
    trials = [leave_one_out(model.encode(pool.sentences), pool.labels) for pool in pools]
    answered = [t.scores >= values["threshold"] for t in trials]
    right = sum((t.weights * t.right)[a].sum() for t, a in zip(trials, answered, strict=True))
    told = sum(t.weights[a].sum() for t, a in zip(trials, answered, strict=True))
    assert values["kept"] == pytest.approx(right / told)
    assert values["coverage"] == pytest.approx(told / 2)
    assert "precision promised 0.600" in capsys.readouterr().out
    assert evaluate.rejection(model, test, validation, 0.6)["promised"] == 0.6  # the larger part may be the first
    impossible = evaluate.rejection(model, Groups([["怎么还款", "天气好"], ["怎么还款呢", "天气很好"]]), test, 0.99)
    assert np.isnan(impossible["kept"])
    assert 0 < impossible["answerable_auc"] < 1


def test_evaluate_names_what_is_wrong(runs, tmp_path, capsys):
    assert "no checkpoint there" in fails(evaluate.main, [str(tmp_path)], capsys)
    said = fails(evaluate.main, [str(runs / "ours"), "--part", "all"], capsys)
    assert "--part all without --data would ask the training groups" in said
