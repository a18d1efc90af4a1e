"""The train commands of the two Hinton papers as a user runs them, on the embedded digits and small networks."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from capsnet import evaluate, predict, train, train_matrix, train_sabour
from capsnet.data import load
from capsnet.hinton_data import PLACEMENTS, PlacedDigits, Placement, affine, standardized
from capsnet.norb import VIEWPOINTS, Norb
from capsnet.sabour import capsnet_loss
from losses import spread
from trainer import UserError, load_checkpoint, run_main

SMALL = ["--recipe", "small", "--epochs", "2", "--batch-size", "16", "--train-images", "64"]
MATRIX = ["--widths", "4", "1", "2", "2", "--epochs", "2", "--batch-size", "16", "--train-images", "64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train_sabour.main([*SMALL, "--task", "multimnist", "--out", str(folder), "--name", "pairs"])
    return folder / "capsnet" / "pairs"


@pytest.fixture(scope="module")
def matrix_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train_matrix.main([*MATRIX, "--out", str(folder), "--name", "matrix"])
    return folder / "capsnet" / "matrix"


def pictures_in_tensorboard(folder: Path) -> set[str]:
    """Their names; every one at the step of the weights that it was made with."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    names = set(events.Tags()["images"])
    step = load_checkpoint(folder / "best.pt")["global_step"]
    assert all([image.step for image in events.Images(name)] == [step] for name in names)
    return names


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]


def fails(main, argv, capsys) -> str:
    """What the command says, in one line and without a traceback, and its exit status 2."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_capsnet_run_leaves_everything(run):
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert {"error", "margin", "validation_error", "validation_margin", "epoch"} == set(content["metrics"])
    assert content["metrics"]["epoch"] == 2  # the last, whatever the validation said
    assert content["settings"]["task"] == "multimnist"
    assert pictures_in_tensorboard(run) == {p.stem for p in (run / "figures").iterdir()}
    pictures = {p.stem for p in (run / "figures").iterdir()}
    assert {"couplings_by_iteration", "reconstructions"} <= pictures
    assert len(pictures) == 4
    for picture in (run / "figures").iterdir():
        with Image.open(picture) as image:
            assert min(image.size) > 100


@pytest.mark.parametrize("which", ["run", "matrix_run"])
def test_resume_reaches_the_same_weights(which, request, tmp_path, monkeypatch):
    finished = request.getfixturevalue(which)
    script, flags = (train_sabour, [*SMALL, "--task", "multimnist"]) if which == "run" else (train_matrix, MATRIX)
    arguments = [*flags, "--out", str(tmp_path), "--name", "cut", "--checkpoint-steps", "3"]
    whole = script.Trainer._train_step

    def stop_after_three(self, batch, bar):
        if self.progress.global_step == 3:
            raise KeyboardInterrupt
        whole(self, batch, bar)

    monkeypatch.setattr(script.Trainer, "_train_step", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        script.main(arguments)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "capsnet" / "cut" / "last.pt")["global_step"] == 3
    script.main([*arguments, "--resume"])
    expected, found = weights(finished), weights(tmp_path / "capsnet" / "cut")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_affnist_with_the_control_and_bf16(tmp_path):
    flags = [*SMALL, "--task", "affnist", "--model", "cnn", "--precision", "bf16", "--epochs", "1"]
    metrics = train_sabour.main([*flags, "--out", str(tmp_path)])["metrics"]
    assert 0 <= metrics["affine_error"] <= 100
    assert (tmp_path / "capsnet" / "affnist-digits-small-cnn-seed0" / "metrics.json").exists()


def learning_rates(settings: train_sabour.Settings, steps: int, *at: int) -> list[float]:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], settings.lr)
    rate = train_sabour.make_scheduler(optimizer, settings, steps).lr_lambdas[0]
    return [settings.lr * rate(step) for step in at]


def test_learning_rates_by_step():
    official = learning_rates(train_sabour.Settings(), 100, 0, 2000, 10**6)
    assert official == pytest.approx([1e-3, 0.96e-3, 1e-6])
    cycle = train_sabour.Settings(lr=3e-3, schedule="one_cycle")
    assert learning_rates(cycle, 100, 0, 9, 19, 60, 100) == pytest.approx([1.5e-4, 1.5e-3, 3e-3, 1.5e-3, 1e-6])
    assert learning_rates(train_sabour.Settings(lr=1e-8), 100, 0, 2000, 10**6) == pytest.approx([1e-8] * 3)


def training(script, argv, monkeypatch, tmp_path):
    """The trainer of this command line, before its first step."""
    made = []
    monkeypatch.setattr(script.Trainer, "fit", lambda self, *rest: made.append(self))
    monkeypatch.setattr(script, "test", lambda *arguments: {})
    script.main([*argv, "--out", str(tmp_path)])
    return made[0]


def test_every_flag_reaches_the_training_of_capsnet(tmp_path, monkeypatch):
    flags = ["--rotation", "9", "--scale", "0.2", "--shear", "0.3", "--seed", "5", "--schedule", "one_cycle"]
    routing = ["--routing", "kmeans", "--num-iters", "2", "--detach"]
    trainer = training(train_sabour, [*SMALL, *flags, *routing, "--task", "multimnist"], monkeypatch, tmp_path)
    classes = trainer.model.classes
    assert (classes.routing, classes.num_iters, classes.detach, classes.fused) == ("kmeans", 2, True, False)
    assert trainer.dataset.placement == PLACEMENTS["multimnist"]
    assert trainer.dataset.seed == 5
    ranges = trainer.dataset.augmentation
    assert (ranges.rotation, ranges.scale, ranges.shear) == (9, 0.2, 0.3)
    steps = 2 * 4  # two epochs of 64 digits, 16 a step
    rates = [trainer.scheduler.lr_lambdas[0](step) for step in range(steps + 1)]
    assert rates[1] == 1
    assert rates[-1] == pytest.approx(1e-6 / 3e-3)
    fused = train_sabour.build({**train_sabour.Settings().plain(), "fused": True})
    assert fused.classes.fused


def test_the_decoder_draws_the_true_digits(tmp_path, monkeypatch):
    trainer = training(train_sabour, [*SMALL, "--task", "multimnist"], monkeypatch, tmp_path)
    batch = trainer.dataset.__getitems__([0, 1, 2])
    asked = []
    draw = trainer.model.draw
    monkeypatch.setattr(trainer.model, "draw", lambda capsules, which: asked.append(which) or draw(capsules, which))
    trainer.model.eval()
    terms = trainer.loss_terms(trainer.model, list(batch))
    assert torch.equal(asked[0], batch[1])
    lengths, drawn = trainer.model(batch[0], batch[1])
    expected = capsnet_loss(lengths, batch[1], drawn, batch[2])
    torch.testing.assert_close(terms, expected)


def test_affnist_is_tested_on_distorted_digits(tmp_path):
    settings = train_sabour.Settings(task="affnist").plain()
    tests, digits = train_sabour.load_tests(settings), load("digits", "test", tmp_path)
    assert set(tests) == {"error", "affine_error"}
    for index in (0, 77):
        image, label, _ = tests["affine_error"][index]
        assert torch.equal(image[0], affine(digits).images[index] / 255)
        assert label == digits.labels[index]
    moved = PlacedDigits(digits, PLACEMENTS["affnist"], train_sabour.TEST_SEED, fixed=True)
    assert torch.equal(tests["error"][77][0], moved[77][0])


def test_every_flag_reaches_the_training_of_matrix_capsules(tmp_path, monkeypatch):
    flags = ["--num-iters", "3", "--final-temperature", "2.5", "--seed", "5", "--lr", "4e-3", "--margin-share", "0.5"]
    trainer = training(train_matrix, [*MATRIX, *flags], monkeypatch, tmp_path)
    for layer in (trainer.model.conv_caps1, trainer.model.conv_caps2, trainer.model.classes):
        assert (layer.num_iters, layer.final_temperature, layer.fused) == (3, 2.5, False)
    placed = trainer.dataset.placed
    assert (placed.seed, placed.placement) == (5, Placement(28, 2))
    steps = 2 * 4  # two epochs of 64 digits, 16 a step
    rates = [trainer.scheduler.lr_lambdas[0](step) for step in range(steps + 1)]
    assert rates[1] == 1
    assert rates[-1] == 0
    images, labels = batch = trainer.dataset.__getitems__([3, 8, 1])
    torch.testing.assert_close(images, standardized(placed.__getitems__([3, 8, 1])[0]))
    scores = trainer.model(images)
    for step, margin in ((0, 0.2), (2, 0.55), (4, 0.9), (7, 0.9)):  # it grows for half of the steps
        trainer.progress.global_step = step
        terms = trainer.loss_terms(trainer.model, list(batch))
        assert float(terms["margin"]) == pytest.approx(margin)
        torch.testing.assert_close(terms["loss"], spread(scores, labels, margin))
    found = train_matrix.errors(trainer.model, trainer.dataset, bf16=False)
    everything = trainer.dataset.__getitems__(list(range(len(trainer.dataset))))
    with torch.no_grad():
        expected = float(spread(trainer.model(everything[0]), everything[1], 0.9))
    assert found["loss_at_0.9"] == pytest.approx(expected, rel=1e-5)
    assert train_matrix.build({**train_matrix.Settings().plain(), "fused": True}).classes.fused


def test_digits_are_not_moved_for_matrix_capsules_tests(tmp_path):
    digits = load("digits", "test", tmp_path)
    served = train_matrix.load_tests(train_matrix.Settings().plain())["error"]
    torch.testing.assert_close(served.__getitems__([4])[0], standardized(digits.images[4][None, None].float() / 255))


def test_errors_count_a_pair_as_right_when_both_are_found(tmp_path):
    digits = train_sabour.load("digits", "test", tmp_path)
    dataset = PlacedDigits(digits, PLACEMENTS["multimnist"], fixed=True)
    truth = torch.nn.functional.one_hot(digits.labels[dataset.members], 10).sum(dim=1).float()  # (N, 10)

    class Oracle(torch.nn.Linear):
        """Both digits of every image, except of the first 36 its second."""

        def forward(self, images):
            start = self.served
            self.served += len(images)
            scores = truth[start : self.served].clone()
            for row in range(max(0, min(36 - start, len(images)))):
                scores[row, dataset.digits.labels[dataset.members[start + row, 1]]] = -1
            return scores

    oracle = Oracle(1, 1)
    oracle.served = 0
    assert train_sabour.errors(oracle, dataset, False)["error"] == pytest.approx(10.0)  # 36 of 360


def test_a_matrix_run_leaves_everything_repeats_and_replaces(matrix_run, tmp_path):
    metrics = json.loads((matrix_run / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {p.name for p in (matrix_run / "figures").iterdir()} == {"vote_distances.png", "poses.png"}
    assert pictures_in_tensorboard(matrix_run) == {"vote_distances", "poses"}
    assert {"error", "validation_error", "validation_loss_at_0.9", "epoch"} == set(metrics)
    again = tmp_path / "capsnet" / "again"
    (again / "figures").mkdir(parents=True)
    for name in ("last.pt", "evaluation.json", "figures/of_another_run.png"):
        (again / name).touch()
    train_matrix.main([*MATRIX, "--out", str(tmp_path), "--name", "again", "--overwrite"])
    assert not (again / "evaluation.json").exists()
    assert not (again / "figures" / "of_another_run.png").exists()
    first, second = weights(matrix_run), weights(again)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("which", ["run", "matrix_run"])
def test_evaluate_repeats_the_errors_and_the_figures(which, request, capsys):
    folder = request.getfixturevalue(which)
    trained = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    pictures = {p.name for p in (folder / "figures").iterdir()}
    for picture in pictures:
        (folder / "figures" / picture).unlink()
    values = evaluate.main([str(folder)])
    assert values["error"] == trained["error"]
    assert {p.name for p in (folder / "figures").iterdir()} == pictures
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == values
    assert "test error" in capsys.readouterr().out


def test_evaluate_names_a_foreign_checkpoint(matrix_run, tmp_path, capsys):
    content = load_checkpoint(matrix_run / "best.pt")
    torch.save({**content, "model_name": "SentenceEncoder"}, tmp_path / "best.pt")
    assert "a checkpoint of SentenceEncoder; expected one of DigitCapsNet" in fails(
        evaluate.main, [str(tmp_path)], capsys
    )


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda content: content.pop("model"), "'model'"),
        (lambda content: content.pop("model_name"), "'model_name'"),
        (lambda content: content["settings"].pop("network"), "'network'"),
        (lambda content: content["settings"].update(task="foo"), "'foo'"),
    ],
)
def test_evaluate_names_what_a_checkpoint_lacks(run, change, missing, tmp_path, capsys):
    content = load_checkpoint(run / "best.pt")
    change(content)
    torch.save(content, tmp_path / "best.pt")
    assert f"not a whole checkpoint of this version: {missing} is missing" in fails(
        evaluate.main, [str(tmp_path)], capsys
    )


def test_predict_fits_pictures_to_the_network(run, matrix_run, tmp_path, capsys):
    digit = load("digits", "test", tmp_path).images[0]
    wide = torch.cat([digit, digit[:, :14]], dim=1)  # 28x42: its longer side becomes 28, its shorter one 19
    paths = [tmp_path / "digit.png", tmp_path / "wide.png"]
    for path, image in zip(paths, (digit, wide), strict=True):
        Image.fromarray(image.numpy()).save(path)
    canvas = predict.read_picture(paths[1], 28, "auto", 36)
    inked = canvas.nonzero()
    assert canvas.shape == (36, 36)
    assert inked.amin(0).min() >= 4
    assert inked[:, 0].max() - inked[:, 0].min() < 19
    for folder in (run, matrix_run):
        model, trained, _ = evaluate.load_run(folder)
        predict.main([str(folder), *map(str, paths), "-o", str(tmp_path / "digits.csv")])
        with open(tmp_path / "digits.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        size = predict.sees(trained)
        margin = (size - 28) // 2
        image = torch.nn.functional.pad(digit, [margin] * 4)[None, None] / 255
        scores = model(standardized(image) if folder == matrix_run else image)[0].detach()
        assert [float(x) for x in rows[1][2:]] == pytest.approx(scores.tolist(), abs=1e-4)
    fails(predict.main, [str(run), str(paths[1]), "--short-side", "0"], capsys)  # 42 pixels into 36
    for flag, value in (("--short-side", "3000000000"), ("--short-side", "-1"), ("--threshold", "nan")):
        assert f"{flag} must be from 0 to" in fails(predict.main, [str(run), str(paths[1]), flag, value], capsys)
    with pytest.raises(UserError, match="smallNORB's pairs"):
        predict.sees({"data": "norb"})


@pytest.mark.parametrize(("script", "data"), [(train, "digits"), (train_sabour, "digits"), (train_matrix, "norb")])
def test_a_missing_test_part_is_said_before_training(script, data, tmp_path, monkeypatch, capsys):
    def made(*arguments):
        if "test" in arguments:
            raise UserError("the testing part is missing")
        if data == "norb":
            return Norb(torch.zeros(90, 2, 96, 96, dtype=torch.uint8), torch.arange(90) % 5, torch.zeros(90, 4))
        return load(*arguments)

    monkeypatch.setattr(script, "load_norb" if data == "norb" else "load", made)
    monkeypatch.setattr(script.Trainer, "fit", lambda *arguments: pytest.fail("trained"))
    said = fails(script.main, ["--data", data, "--out", str(tmp_path), "--name", "some"], capsys)
    assert "the testing part is missing" in said


def test_toys_from_familiar_and_novel_viewpoints(tmp_path, monkeypatch):
    def made(part, root):
        generator = torch.Generator().manual_seed(len(part))
        images = torch.randint(256, (180, 2, 96, 96), generator=generator, dtype=torch.uint8)
        info = torch.zeros(180, 4, dtype=torch.long)
        info[:, 2] = torch.arange(180) % 18 * 2
        return Norb(images, torch.arange(180) // 36, info)

    monkeypatch.setattr(train_matrix, "load_norb", made)
    flags = [*MATRIX, "--epochs", "1", "--data", "norb", "--viewpoints", "azimuth", "--train-images", "32"]
    metrics = train_matrix.main([*flags, "--out", str(tmp_path), "--name", "toys"])["metrics"]
    assert {"error", "novel_error"} < set(metrics)
    settings = train_matrix.Settings(data="norb", viewpoints="azimuth")
    tests = train_matrix.load_tests(settings.plain())
    assert {name: len(part) for name, part in tests.items()} == {"error": 60, "novel_error": 120}
    train, validation, _ = train_matrix.load_parts(settings, torch.device("cpu"))
    assert (len(train), len(validation)) == (55, 5)  # of the 60 of VIEWPOINTS["azimuth"]
    assert len(VIEWPOINTS["azimuth"][1]) == 6
    with pytest.raises(UserError, match="--validation-share makes a validation part of 0 images"):
        train_matrix.load_parts(train_matrix.Settings(data="norb", validation_share=1e-3), torch.device("cpu"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--widths", "6", "2", "3"], "--widths"),
        (["--margin-share", "0"], "--margin-share must be above 0, at most 1, got 0"),
        (["--viewpoints", "azimuth"], "--viewpoints must be all"),
        (["--fused"], "--fused must be left out"),
        (["--final-temperature", "-1"], "--final-temperature must be positive and"),
        (["--data", "norb"], "smallNORB is not fetched from here"),
        (["--validation-share", "1e-5"], "--validation-share makes a validation part of 0 images"),
    ],
)
def test_wrong_flags_of_matrix(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    root = ["--data-root", str(tmp_path), "--out", str(tmp_path)]
    assert message in fails(train_matrix.main, [*argv, *root], capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "norb"], "affnist"),
        (["--num-iters", "0"], "--num-iters must be at least 1, got 0"),
        (["--lr", "0"], "--lr must be positive and finite, got 0"),
        (["--lr", "inf"], "--lr must be positive and finite, got inf"),
        (["--rotation", "-1"], "--rotation must be from 0 to 180, got -1"),
        (["--rotation", "inf"], "--rotation must be from 0 to 180, got inf"),
        (["--scale", "1"], "--scale must be from 0 to 0.9, got 1"),
        (["--shear", "1e30"], "--shear must be from 0 to 10, got 1e+30"),
        (["--task", "affnist", "--shear", "0.1"], "--shear must be 0 with --task affnist"),
        (["--routing", "em"], "kmeans"),
        (["--batch-size", "2000"], "--batch-size 2000 is more than the 1317 training examples"),
        (["--model", "cnn", "--num-iters", "5"], "--num-iters must be left out with --model cnn, got 5"),
        (["--model", "cnn", "--no-decoder"], "--decoder must be left out with --model cnn"),
        (["--task", "multimnist", "--train-images", "1"], "--train-images leaves 1 images of one class"),
        (["--task", "multimnist", "--validation-share", "0.0007"], "--validation-share leaves 1 images of one class"),
    ],
)
def test_wrong_flags(argv, message, capsys, tmp_path):
    assert message in fails(train_sabour.main, [*argv, "--out", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"device": "cpu"}, "--fused must be left out with --device cpu"),
        ({"detach": True}, "--fused must be left out with --detach"),
        ({"routing": "kmeans"}, "--fused must be left out with --detach and with other routings"),
    ],
)
def test_what_fused_does_not_go_with(flags, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=message):
        train_sabour.Settings(fused=True, **flags)
    if "device" in flags:
        with pytest.raises(UserError, match=message):
            train_matrix.Settings(fused=True, **flags)
