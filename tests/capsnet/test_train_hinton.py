"""The train commands of the two Hinton papers as a user runs them, on the embedded digits and small networks."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from capsnet import train_matrix, train_sabour
from capsnet.hinton_data import PLACEMENTS, PlacedDigits
from trainer import load_checkpoint, run_main

SMALL = ["--recipe", "small", "--epochs", "2", "--batch-size", "16", "--train-images", "64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train_sabour.main([*SMALL, "--task", "multimnist", "--out", str(folder), "--name", "pairs"])
    return folder / "capsnet" / "pairs"


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
    assert list(run.glob("events.out.tfevents.*"))
    pictures = {p.stem for p in (run / "figures").iterdir()}
    assert {"couplings_by_iteration", "reconstructions"} <= pictures
    assert len(pictures) == 4
    for picture in (run / "figures").iterdir():
        with Image.open(picture) as image:
            assert min(image.size) > 100


def test_resume_reaches_the_same_weights(run, tmp_path, monkeypatch):
    arguments = [*SMALL, "--task", "multimnist", "--out", str(tmp_path), "--name", "cut", "--checkpoint-steps", "3"]
    whole = train_sabour.Trainer._train_step

    def stop_after_three(self, batch, bar):
        if self.progress.global_step == 3:
            raise KeyboardInterrupt
        whole(self, batch, bar)

    monkeypatch.setattr(train_sabour.Trainer, "_train_step", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        train_sabour.main(arguments)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "capsnet" / "cut" / "last.pt")["global_step"] == 3
    train_sabour.main([*arguments, "--resume"])
    expected, found = weights(run), weights(tmp_path / "capsnet" / "cut")
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


def test_a_matrix_run_leaves_everything_and_repeats(tmp_path):
    flags = ["--widths", "4", "1", "2", "2", "--epochs", "1", "--batch-size", "16", "--train-images", "32"]
    results = [train_matrix.main([*flags, "--out", str(tmp_path), "--name", name]) for name in ("one", "two")]
    folder = tmp_path / "capsnet" / "one"
    assert {p.name for p in (folder / "figures").iterdir()} == {"vote_distances.png", "poses.png"}
    assert {"error", "validation_error", "validation_loss", "epoch"} == set(results[0]["metrics"])
    first, again = (weights(tmp_path / "capsnet" / name) for name in ("one", "two"))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--widths", "6", "2", "3"], "--widths"),
        (["--margin-share", "0"], "--margin-share must be above 0, at most 1, got 0"),
        (["--viewpoints", "azimuth"], "--viewpoints must be all"),
        (["--fused"], "--fused must be left out"),
        (["--data", "norb"], "smallNORB is not fetched from here"),
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
        (["--lr", "0"], "--lr must be positive, got 0"),
        (["--routing", "em"], "kmeans"),
        (["--batch-size", "2000"], "--batch-size 2000 is more than the 1317 training examples"),
    ],
)
def test_wrong_flags(argv, message, capsys, tmp_path):
    assert message in fails(train_sabour.main, [*argv, "--out", str(tmp_path)], capsys)
