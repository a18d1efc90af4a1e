"""The commands as a user runs them, on the embedded digits and a network small enough for seconds."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from capsnet import data, evaluate, predict, train
from trainer import UserError, load_checkpoint, run_main

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--epochs",
    "2",
    "--batch-size",
    "64",
    "--widths",
    "8",
    "8",
    "16",
    "16",
    "--shift",
    "2",
    "--label-noise",
    "0.1",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A finished run of each network."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("capsules", "cnn"):
        train.main([*SMALL, "--out", str(folder), "--name", name, "--model", name])
    return folder / "capsnet"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]


def test_a_run_leaves_everything(runs):
    for name in ("capsules", "cnn"):
        folder = runs / name
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert {"single", "stacked_2_top", "row_4_confident", "overlap_2_top", "best_epoch"} <= set(content["metrics"])
        assert {"settings", "commit", "data_sha256", "versions", "device", "seconds", "peak_memory_mib"} <= set(content)
        assert content["settings"]["model"] == name
        assert json.loads((folder / "settings.json").read_text(encoding="utf-8")) == content["settings"]
        assert {"best.pt", "last.pt"} <= {p.name for p in folder.iterdir()}
        assert list(folder.glob("events.out.tfevents.*"))
        for picture in (folder / "figures").iterdir():
            with Image.open(picture) as image:
                assert min(image.size) > 100
    assert len(list((runs / "capsules" / "figures").iterdir())) == 4


def test_the_same_command_gives_the_same_weights_and_another_seed_others(runs, tmp_path):
    train.main([*SMALL, "--out", str(tmp_path), "--name", "again"])
    train.main([*SMALL, "--out", str(tmp_path), "--name", "other", "--seed", "1"])
    first, again, other = (
        weights(f) for f in (runs / "capsules", tmp_path / "capsnet/again", tmp_path / "capsnet/other")
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["capsules.weight"], other["capsules.weight"])


def test_kill_9_then_resume_reaches_the_same_weights(runs, tmp_path):
    arguments = [*SMALL, "--out", str(tmp_path), "--name", "killed", "--checkpoint-steps", "3"]
    command = [sys.executable, "-m", "capsnet.train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "capsnet" / "killed" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = load_checkpoint(last)
    assert 0 < saved["global_step"] < 40
    train.main([*arguments, "--resume"])
    expected, found = weights(runs / "capsules"), weights(last.parent)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_mixed_precision_and_one_cycle_train_too(tmp_path):
    flags = ["--precision", "bf16", "--recipe", "ours", "--epochs", "1", "--out", str(tmp_path)]
    metrics = train.main([*flags, "--widths", "8", "8", "16"])["metrics"]
    assert 0 <= metrics["single"] <= 100
    assert (tmp_path / "capsnet" / "digits-ours-capsules-kmeans-seed0" / "metrics.json").exists()


def fails(main, argv, capsys) -> str:
    """What the command says, in one line and without a traceback, and its exit status 2."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "2"], "--epoch"),
        (["--routing", "em"], "kmeans_hard"),
        (["--num-iters", "0"], "--num-iters must be at least 1, got 0"),
        (["--validation-share", "1.5"], "--validation-share must be between 0 and 1, got 1.5"),
        (["--widths", "8"], "--widths must be two or more positive numbers"),
        (["--batch-size", "2000"], "--batch-size 2000 is more than the 1317 training examples"),
        (["--device", "cuda"], "--device cuda: torch sees no GPU here"),
        (["--resume"], "no checkpoint there"),
    ],
)
def test_wrong_flags(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message in fails(train.main, [*argv, "--out", str(tmp_path)], capsys)


def test_a_diverging_run_names_the_step(capsys, tmp_path):
    said = fails(train.main, [*SMALL, "--out", str(tmp_path), "--lr", "1e30"], capsys)
    assert "the loss is not finite at step" in said


def test_resume_refuses_a_checkpoint_of_another_model(runs, tmp_path, capsys):
    folder = tmp_path / "capsnet" / "mixed"
    folder.mkdir(parents=True)
    content = load_checkpoint(runs / "cnn" / "last.pt")
    content["settings"]["model"] = "capsules"
    torch.save(content, folder / "last.pt")
    said = fails(train.main, [*SMALL, "--out", str(tmp_path), "--name", "mixed", "--resume"], capsys)
    assert "a checkpoint of PooledCNN, not of DigitCapsNet" in said


def test_evaluate_reloads_the_run(runs, capsys):
    values = evaluate.main([str(runs / "capsules"), "--data-root", str(ROOT)])
    trained = json.loads((runs / "capsules" / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {key: trained[key] for key in values} == values
    assert "2 stacked" in capsys.readouterr().out


def test_evaluate_names_what_is_wrong(runs, tmp_path, capsys):
    assert "no checkpoint there" in fails(evaluate.main, [str(tmp_path)], capsys)
    content = load_checkpoint(runs / "capsules" / "best.pt")
    content["model"].pop("capsules.weight")
    torch.save(content, tmp_path / "best.pt")
    assert "capsules.weight missing" in fails(evaluate.main, [str(tmp_path)], capsys)


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Two digits side by side: as they are, and as dark ink on white paper of another size."""
    digits = data.load("digits", "test", tmp_path)
    row = torch.cat([digits.images[0], digits.images[1]], dim=1).numpy()
    paths = [tmp_path / "bright.png", tmp_path / "dark.png"]
    Image.fromarray(row).save(paths[0])
    Image.fromarray(255 - row).resize((168, 84), Image.Resampling.BILINEAR).save(paths[1])
    return paths


def test_predict_reads_pictures_of_any_size(runs, pictures, tmp_path):
    bright, dark = (predict.read_picture(path) for path in pictures)
    assert bright.shape == dark.shape == (28, 56)
    assert (bright.float() - dark.float()).abs().mean() < 6  # resized there and back
    output = tmp_path / "digits.csv"
    predict.main([str(runs / "capsules"), *map(str, pictures), "-o", str(output)])
    with open(output, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "digits", *map(str, range(10))]
    assert [row[0] for row in rows[1:]] == [str(path) for path in pictures]
    assert all(0 <= float(score) <= 1 for row in rows[1:] for score in row[2:])
    scores = predict.predict(evaluate.load_run(runs / "capsules")[0], bright.unsqueeze(0))[0]
    assert rows[1][2:] == [f"{score:.4f}" for score in scores]
    assert rows[1][1].split() == [str(i) for i in range(10) if scores[i] > 0.5]


def test_predict_leaves_out_what_is_no_picture(runs, pictures, tmp_path, capsys):
    text, tiny = tmp_path / "notes.png", tmp_path / "tiny.png"
    text.write_text("no picture", encoding="utf-8")
    Image.new("L", (40, 9)).save(tiny)
    broken = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)).save(broken)
    content = broken.read_bytes()
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    broken.write_bytes(content[:second] + b"\0\0\0\0" + content[second + 4 :])  # Pillow: SyntaxError
    paths = [text, pictures[0], tmp_path / "none.png", broken]
    rows = predict.main([str(runs / "capsules"), *map(str, paths)])
    assert len(rows) == 2
    said = capsys.readouterr().err
    assert "broken.png: cannot be read (broken PNG file" in said
    assert "notes.png: not a picture that Pillow can read" in said
    assert "none.png: cannot be read" in said
    flags = [str(runs / "capsules"), str(tiny), "--short-side", "0"]
    said = fails(predict.main, flags, capsys)
    assert "tiny.png: 40x9 pixels, but the network needs at least 14" in said
    assert "none of the pictures could be read" in said
    with pytest.raises(UserError, match="--short-side must be from 0 to 4096 pixels, got -5"):
        predict.main([str(runs / "capsules"), str(pictures[0]), "--short-side", "-5"])
    with pytest.raises(UserError, match="no picture given"):
        predict.main([str(runs / "capsules")])
