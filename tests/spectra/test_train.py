"""The commands as a user runs them, on a small simulated survey and a network small enough for seconds."""

import csv
import gzip
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

from spectra import evaluate, predict, simulate, train
from spectra.evaluate import load_run
from spectra.reader import read_spectrum
from spectra.redshift import estimate
from spectra.saliency import saliency
from spectra.simulator import main as simulate_main
from spectra.spectrum import CLASSES, make_spectrum
from trainer import UserError, load_checkpoint, run_main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--widths", "4", "4", "8", "--step", "3e-3", "--size", "128", "--batch-size", "16", "--epoch-steps", "6"]
STAGES = ["--epochs", "2", "--f1-epochs", "2"]
OURS = ["--normalisation", "asinh", "--noise-channel", "--redshift-jitter", "2", "--noise", "0.2", "--splice", "0.05"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "survey"
    simulate_main([str(folder), "--num", "160", "--seed", "3", "--shares", "0.4", "0.2", "0.2", "0.2"])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, data) -> Path:
    """A finished run of both stages, with augmentation and the noise channel."""
    out = tmp_path_factory.mktemp("runs")
    flags = [*SMALL, *STAGES, *OURS, "--data", str(data), "--test", str(data), "--out", str(out), "--name", "run"]
    train.main(flags)
    return out / "spectra" / "run"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def fails(main, argv, capsys) -> str:
    """What the command says, in one line and without a traceback, and its exit status 2."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main([str(a) for a in argv]))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_a_checkpoint_lacks_is_named(run, tmp_path):
    content = load_checkpoint(run / "best.pt")
    del content["settings"]["preprocessing"]
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best.pt: not a whole checkpoint of this version: 'preprocessing' is missing"):
        load_run(tmp_path)


def test_a_run_leaves_everything(run):
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics = content["metrics"]
    assert {"validation_macro_f1", "stage1_validation_macro_f1", "temperature", "test_even_f1_qso"} <= set(metrics)
    assert {"stage1_test_macro_f1", "test_survey_macro_f1_low", "best_epoch", "stage1_best_epoch"} <= set(metrics)
    assert {"stage1_temperature", "validation_survey_macro_f1"} <= set(metrics)
    assert evaluate.load_run(run / "stage1").temperature == metrics["stage1_temperature"] != metrics["temperature"]
    assert {"settings", "commit", "data_sha256", "versions", "seconds"} <= set(content)
    assert metrics["test_macro_f1_low"] <= metrics["test_macro_f1"] <= metrics["test_macro_f1_high"]
    for folder in (run, run / "stage1"):
        assert {"best.pt", "last.pt", "settings.json"} <= {p.name for p in folder.iterdir()}
        assert list(folder.glob("events.out.tfevents.*"))
    assert {p.name for p in (run / "figures").iterdir()} == {"confusion.png", "reliability.png", "f1_by_snr.png"}
    for picture in (run / "figures").iterdir():
        with Image.open(picture) as image:
            assert min(image.size) > 100


def test_stage_two_starts_from_the_best_of_stage_one(run, data, tmp_path):
    """With a learning rate of next to nothing, its weights are those of stage 1's best epoch."""
    flags = [*SMALL, *STAGES, "--f1-lr", "1e-20", "--data", str(data), "--out", str(tmp_path), "--name", "a"]
    train.main(flags)
    best = load_checkpoint(tmp_path / "spectra/a/stage1/best.pt")["model"]
    found = weights(tmp_path / "spectra/a")
    assert all(torch.allclose(best[key], found[key], rtol=0, atol=1e-15) for key in best)  # biases left zero by 1e-20
    assert not same(load_checkpoint(run / "stage1/best.pt")["model"], weights(run))


def test_kill_9_then_resume_reaches_the_same_weights(run, data, tmp_path):
    """Killed in stage 1, then in stage 2."""
    arguments = [*SMALL, *STAGES, *OURS, "--data", str(data), "--test", str(data), "--out", str(tmp_path)]
    arguments += ["--name", "killed", "--checkpoint-steps", "2"]
    folder = tmp_path / "spectra" / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for watched, resume in ((folder / "stage1/last.pt", []), (folder / "last.pt", ["--resume"])):
        command = [sys.executable, "-m", "spectra.train", *arguments, *resume]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while not watched.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert load_checkpoint(watched)["global_step"] < 12
    train.main([*arguments, "--resume"])
    assert same(weights(run), weights(folder))
    assert same(weights(run / "stage1"), weights(folder / "stage1"))


def test_one_stage_bf16_and_the_article_s_settings(data, tmp_path):
    flags = ["--precision", "bf16", "--f1-epochs", "0", "--epochs", "1", "--recipe", "ours", "--data", str(data)]
    metrics = train.main([*flags, *SMALL, "--out", str(tmp_path)])["metrics"]
    assert 0 <= metrics["validation_macro_f1"] <= 1
    assert not (tmp_path / "spectra/survey-ours-seed0/stage1").exists()
    settings = train.Settings()
    assert settings.shares == (0.8, 0.1, 0.05, 0.05)
    assert (settings.epochs, settings.f1_epochs, settings.epoch_steps, settings.batch_size) == (50, 50, 500, 160)
    assert (settings.lr, settings.f1_lr, settings.dropout) == (1e-3, 1e-4, 0.5)
    assert settings.preprocessing.size == 2600
    assert settings.preprocessing.scale == 100


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "2"], "--epoch"),
        (["--shares", "0.5", "0.1", "0.1", "0.1"], "--shares must be four shares of sum 1"),
        (["--kernel", "4"], "--kernel must be odd and positive, got 4"),
        (["--kernel", "-1"], "--kernel must be odd and positive, got -1"),
        (["--redshift-jitter", "-2"], "--redshift-jitter must be 0 or more, got -2"),
        (["--redshift-jitter", "0.5"], "--redshift-jitter"),
        (["--splice", "-0.1"], "--splice must be 0 or more, got -0.1"),
        (["--noise", "nan"], "--noise must be 0 or more, got nan"),
        (["--splice", "0.1", "--axis", "pixels"], "--splice is 0.1; expected 0 with --axis pixels"),
        (["--validation-share", "0"], "--validation-share must be between 0 and 1"),
        (["--size", "100"], "--size must be at least 128 for 8 blocks, got 100"),
        (["--data", "nowhere"], "nowhere: no survey there"),
        (["--axis", "pixels"], "has wavelengths: --axis log"),
        (["--resume"], "no checkpoint there"),
    ],
)
def test_wrong_flags(argv, message, capsys, tmp_path, data):
    assert message in fails(train.main, ["--data", data, "--out", tmp_path, *argv], capsys)


def test_evaluate_reloads_the_run(run, data, capsys):
    values = evaluate.main([str(run), "--data", str(data)])
    trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {f"test_{key}": value for key, value in values.items()}.items() <= trained.items()
    assert json.loads((run / "evaluation.json").read_text(encoding="utf-8")) == values
    assert "95 % interval" in capsys.readouterr().out
    assert "no checkpoint there" in fails(evaluate.main, [run.parent], capsys)


@pytest.fixture(scope="module")
def files(tmp_path_factory, data) -> Path:
    """Six spectra as text, and eight files that are wrong each in its own way."""
    folder = tmp_path_factory.mktemp("files")
    made = simulate(6, 3, (0.4, 0.2, 0.2, 0.2))
    for i in range(6):
        columns = np.stack([made.wavelength, made.flux[i], made.ivar[i]], axis=1)
        np.savetxt(folder / f"{i}.csv", columns, delimiter=",", header="wavelength,flux,ivar", comments="")
    wave, ones = made.wavelength, np.ones(len(made.wavelength))
    np.save(folder / "nan.npy", np.stack([wave, np.nan * ones, ones]))
    np.save(folder / "zeros.npy", np.stack([wave, 0 * ones, ones]))
    np.save(folder / "ten.npy", np.stack([wave[:10], ones[:10], ones[:10]]))
    np.save(folder / "nanometres.npy", np.stack([wave / 10, ones, ones]))
    np.save(folder / "noaxis.npy", ones)
    np.save(folder / "noerrors.npy", np.stack([wave, ones]))
    (folder / "broken.fits").write_bytes(b"SIMPLE  = no")
    (folder / "words.txt").write_text("no spectrum", encoding="utf-8")
    return folder


@pytest.mark.parametrize("workers", ["0", "2"])
def test_predict_goes_through_a_folder_and_leaves_out_what_is_wrong(run, files, tmp_path, workers, capsys, monkeypatch):
    monkeypatch.setattr(predict, "BATCH", 3)  # several chunks go through each worker, of which one is all wrong
    output = tmp_path / "classes.csv"
    counts = predict.main([str(run), str(files), "-o", str(output), "--workers", workers])
    assert counts == (6, 8)
    said = capsys.readouterr().err
    for name, message in {
        "nan.npy": "no usable pixel", "zeros.npy": "the flux is zero everywhere", "ten.npy": "10 pixels cover 0 %",
        "nanometres.npy": "they look like nm", "noaxis.npy": "no wavelength axis in it",
        "noerrors.npy": "no errors in it", "broken.fits": "not a readable FITS file",
        "words.txt": "no numbers in it",
    }.items():  # fmt: skip
        assert any(name in line and message in line for line in said.splitlines())
    with open(output, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == [f"{i}.csv" for i in range(6)]
    made = simulate(6, 3, (0.4, 0.2, 0.2, 0.2))
    for i, row in enumerate(rows):
        chances = [float(row[f"p_{name}"]) for name in CLASSES]
        assert sum(chances) == pytest.approx(1, abs=3e-4)  # four digits each
        assert row["class"] == (CLASSES[int(np.argmax(chances))] if max(chances) >= 0.5 else "unknown")
        if made.labels[i] != 1:  # a ruined spectrum has less than was asked for
            assert abs(float(row["snr"]) - made.snr[i]) < 0.5 * made.snr[i] + 0.5
        assert row["model"] == predict.model_hash(load_run(run))
    assert not list(tmp_path.glob("*.partial"))


def test_priors_and_the_unknown_rule(run, files, tmp_path, capsys):
    def rows(*flags):
        output = tmp_path / "out.csv"
        predict.main([str(run), str(files / "*.csv"), "-o", str(output), "--no-redshift", *flags])
        return list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))

    assert {row["class"] for row in rows("--priors", "0", "0", "0", "1")} == {"qso"}
    assert {row["class"] for row in rows("--min-probability", "1.01")} == {"unknown"}
    even, survey = rows(), rows("--survey")
    assert all(float(s["p_star"]) >= float(e["p_star"]) for e, s in zip(even, survey, strict=True))
    assert all(row["redshift"] == "" for row in even)
    flags = [run, files / "0.csv"]
    assert "--priors" in fails(predict.main, [*flags, "--priors", "1", "1", "0", "0"], capsys)
    assert "--priors" in fails(predict.main, [*flags, "--priors", "nan", "0", "0", "1"], capsys)
    assert "--workers must be 0 or more, got -1" in fails(predict.main, [*flags, "--workers", "-1"], capsys)
    assert "seed is -1; expected 0 or more" in fails(simulate_main, [files / "s", "--seed", "-1"], capsys)
    assert "no file fits" in fails(predict.main, [run, str(files / "*.nothing")], capsys)
    assert "no spectrum in this folder" in fails(predict.main, [run, run / "figures"], capsys)
    assert "none of the 1 files could be read" in fails(predict.main, [run, files / "nan.npy"], capsys)
    assert "no spectrum given" in fails(predict.main, [run], capsys)


def test_an_error_that_nobody_foresaw_costs_one_file(run, files, tmp_path, monkeypatch, capsys):
    def read(path, **options):
        if path.name == "1.csv":
            raise IndexError("nobody knows")
        return read_spectrum(path, **options)

    monkeypatch.setattr(predict, "read_spectrum", read)
    flags = [str(run), str(files / "0.csv"), str(files / "1.csv"), str(files / "2.csv"), "-o", str(tmp_path / "o")]
    assert predict.main(flags) == (2, 1)
    assert f"{files / '1.csv'}: cannot be used (IndexError: nobody knows)" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_and_an_axis_beside_fits_files(
    run, files, tmp_path, monkeypatch, data_root, capsys
):
    def refuse(path):
        raise PermissionError("not yours")

    sdss = next((data_root / "spectra" / "sdss").glob("*.fits.gz"))
    np.save(tmp_path / "axis.npy", np.linspace(4000, 9000, 3000))
    flags = [str(run), str(sdss), str(files / "0.csv"), "--wavelength", str(tmp_path / "axis.npy")]
    assert predict.main([*flags, "-o", str(tmp_path / "o")]) == (2, 0)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"0\.csv: cannot be read \(not yours\)"):
        read_spectrum(files / "0.csv")


def test_a_folder_gives_all_that_the_reader_takes(files, tmp_path):
    for ending in predict.ENDINGS:
        content = (files / "0.csv").read_bytes()
        (tmp_path / f"a{ending}").write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    (tmp_path / "notes.md").write_text("no spectrum", encoding="utf-8")
    found = predict.expand([str(tmp_path)])
    assert len(found) == len(predict.ENDINGS) == 16
    for path in found:
        if any(text in path.name for text in (".csv", ".txt", ".tsv")):
            assert len(read_spectrum(path)) > 3000
        else:
            with pytest.raises(UserError, match=r"not a (readable FITS|numpy) file"):
                read_spectrum(path)


def test_plots_of_files_of_one_name(run, files, tmp_path):
    for name in ("a/0.csv", "b/0.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((files / "0.csv").read_bytes())
    (tmp_path / "a/0.csv.gz").write_bytes(gzip.compress((files / "0.csv").read_bytes()))
    patterns = [str(tmp_path / "a"), str(tmp_path / "b")]
    predict.main([str(run), *patterns, "--plot", str(tmp_path / "p"), "-o", str(tmp_path / "o"), "--no-redshift"])
    found = sorted(str(path.relative_to(tmp_path / "p")) for path in (tmp_path / "p").rglob("*.png"))
    assert found == ["a/0.csv.gz.png", "a/0.csv.png", "b/0.csv.png"]


def test_plots(run, files, tmp_path):
    predict.main(
        [str(run), str(files / "0.csv"), str(files / "1.csv"), "--plot", str(tmp_path / "p"), "-o", str(tmp_path / "o")]
    )
    pictures = sorted((tmp_path / "p").iterdir())
    assert [p.name for p in pictures] == ["0.csv.png", "1.csv.png"]
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 300


def test_saliency_sees_what_the_score_is_made_of():
    """A network that looks at one stretch of the spectrum alone."""

    class Window(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 40:50].sum(dim=1), -x[:, 0, 40:50].sum(dim=1)], dim=1)

    inputs = np.random.default_rng(0).normal(0, 1, (2, 100)).astype(np.float32)
    band = saliency(Window(), inputs, 1, width=3)
    assert band.max() == 1
    assert band.min() == 0
    assert (band[:38] == 0).all()
    assert (band[52:] == 0).all()
    assert (band[41:49] > 0).all()


def test_redshifts_are_found():
    made = simulate(90, 11, (0.2, 0.0, 0.4, 0.4))
    good = {"star": [], "galaxy": [], "qso": []}
    for i in np.flatnonzero(made.snr > 4):
        name = CLASSES[made.labels[i]]
        z, strength = estimate(make_spectrum(made.flux[i], made.wavelength, made.ivar[i]), name)
        good[name].append(abs(z - made.redshift[i]) < {"star": 0.001, "galaxy": 0.003, "qso": 0.02}[name] * (1 + z))
        assert strength > 0
    assert all(len(found) >= 10 and np.mean(found) > 0.85 for found in good.values())  # 0.95 to 1 over 300 spectra
    z, strength = estimate(make_spectrum(made.flux[0], made.wavelength, made.ivar[0]), "unknown")
    assert np.isnan(z)
    assert strength == 0


def test_the_redshift_does_not_depend_on_the_unit():
    made = simulate(6, 3, (0.0, 0.0, 0.5, 0.5))
    for flux, ivar, label in zip(made.flux.astype(float), made.ivar.astype(float), made.labels, strict=True):
        for errors in (ivar, None):
            z, strength = estimate(make_spectrum(flux, made.wavelength, errors), CLASSES[label])
            physical = make_spectrum(1e-19 * flux, made.wavelength, None if errors is None else 1e38 * errors)
            found, same_strength = estimate(physical, CLASSES[label])
            assert found == z
            assert same_strength == pytest.approx(strength, rel=1e-3)  # float32


def test_templates_take_the_place_of_models(data_root, tmp_path):
    from spectra.templates import load_templates

    templates = load_templates(data_root / "spectra" / "templates")
    made = simulate(80, 1, (0.4, 0.0, 0.3, 0.3), templates)
    plain = simulate(80, 1, (0.4, 0.0, 0.3, 0.3))
    assert np.isfinite(made.flux).all()
    assert {"template"} < set(made.kind) - set(plain.kind)
    for label in (0, 2, 3):
        rows = (made.labels == label) & (made.kind != plain.kind)
        assert rows.sum() > 3
    with pytest.raises(UserError, match="no spEigenStar"):
        load_templates(tmp_path)
