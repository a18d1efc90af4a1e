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
from capsnet.hinton_data import PLACEMENTS, PlacedDigits, standardized
from capsnet.norb import VIEWPOINTS, Norb
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
    assert {"error", "loss", "validation_error", "epoch"} <= set(content["metrics"])
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


def test_the_official_learning_rate():
    settings = train_sabour.Settings()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], settings.lr)
    scheduler = train_sabour.make_scheduler(optimizer, settings, 100)
    rate = scheduler.lr_lambdas[0]
    assert settings.lr * rate(2000) == pytest.approx(0.96e-3)
    assert settings.lr * rate(10**6) == pytest.approx(1e-6)


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
    assert {"error", "validation_error", "validation_loss", "epoch"} == set(metrics)
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
        (["--rotation", "-1"], "--rotation must be 0 or more, got -1"),
        (["--scale", "1"], "--scale must be below 1, got 1"),
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
