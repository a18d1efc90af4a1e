"""Surveys on disk, batches, the class-balanced order, augmentation."""

import json

import numpy as np
import pytest
import torch

from spectra import Preprocessing, read_spectrum, simulate
from spectra import survey as survey_module
from spectra.data import Augmentation, SpectraBatches, drawn_by_class, prepared, split
from spectra.simulator import main as simulate_main
from spectra.survey import ARRAYS, open_survey
from trainer import EpochBatches, UserError, World

SMALL = Preprocessing(step=3e-3, size=128, normalisation="asinh", noise_channel=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "data"
    simulate_main([str(path), "--num", "60", "--seed", "3", "--shares", "0.4", "0.2", "0.2", "0.2"])
    return path


def test_a_survey_on_disk_is_what_simulate_gives(folder):
    stored, made = open_survey(folder), simulate(60, 3, (0.4, 0.2, 0.2, 0.2))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(stored, name), getattr(made, name))
    np.testing.assert_allclose(stored.wavelength, made.wavelength)
    assert isinstance(stored.flux, np.memmap)
    about = json.loads((folder / "survey.json").read_text(encoding="utf-8"))
    assert about["seed"] == 3
    assert len(about["sha256"]) == 64


def test_inputs_are_made_once_and_are_those_of_the_preprocessing(folder):
    stored = open_survey(folder)
    inputs = prepared(stored, SMALL)
    assert inputs.shape == (60, 2, 128)
    np.testing.assert_array_equal(inputs, SMALL.batch(stored.wavelength, stored.flux, stored.ivar))
    before = {p: p.stat().st_mtime_ns for p in folder.glob("inputs-*.npy")}
    prepared(stored, SMALL)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("inputs-*.npy")} == before
    prepared(stored, Preprocessing(step=3e-3, size=100))
    assert len(list(folder.glob("inputs-*.npy"))) == 2
    assert not list(folder.glob("*.partial"))


def test_two_processes_may_prepare_the_same_survey(folder, monkeypatch):
    stored, other = open_survey(folder), Preprocessing(step=3e-3, size=90)
    batch, calls = Preprocessing.batch, []

    def meanwhile(*arguments):
        calls.append(0)
        if len(calls) == 1:
            prepared(stored, other)  # begins and ends while the first is at work
        return batch(*arguments)

    monkeypatch.setattr(Preprocessing, "batch", meanwhile)
    np.testing.assert_array_equal(prepared(stored, other), batch(other, stored.wavelength, stored.flux, stored.ivar))
    assert len(calls) == 2
    assert not list(folder.glob("*.partial"))


def index_of(folder, spectra):
    for i, flux in enumerate(spectra):
        (folder / f"{i}.txt").write_text(",".join(map(str, flux)), encoding="utf-8")
    rows = [f"{i},{('star', 'qso')[i % 2]}\n" for i in range(len(spectra))]
    (folder / "index.csv").write_text("id,type\n" + "\n".join(rows) + ",\n", encoding="utf-8")  # with empty rows
    return ["--index", str(folder / "index.csv")]


def test_an_import_goes_on_without_a_spectrum_of_another_length(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survey_module, "CHUNK", 3)
    spectra = [[i, i + 1.0, i + 2.0] for i in range(8)]
    spectra[4] = spectra[4][:2]
    flags = index_of(tmp_path, spectra)
    survey_module.main([str(tmp_path / "out"), *flags])
    assert f"left out: {tmp_path / '4.txt'}: 2 pixels; expected 3, as in the first" in capsys.readouterr().err
    stored, kept = open_survey(tmp_path / "out"), [0, 1, 2, 3, 5, 6, 7]
    np.testing.assert_array_equal(stored.flux, [spectra[i] for i in kept])
    assert stored.labels.tolist() == [3 * (i % 2) for i in kept]
    assert stored.kind.tolist() == [""] * 7
    np.save(tmp_path / "whole.npy", np.asarray(stored.flux))
    assert (tmp_path / "out/flux.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    for i in range(8):
        (tmp_path / f"{i}.txt").unlink()
    with pytest.raises(UserError, match="none of the 8 spectra could be read"):
        survey_module.main([str(tmp_path / "none"), *flags])


def test_pixels_are_prepared_for_training_as_for_prediction(tmp_path):
    survey_module.main([str(tmp_path / "out"), *index_of(tmp_path, [[1.0, "nan", 3.0, "nan"], [4.0, 5.0, 6.0, 9.0]])])
    stored, preprocessing = open_survey(tmp_path / "out"), Preprocessing(axis="pixels", size=4)
    inputs = prepared(stored, preprocessing)
    np.testing.assert_allclose(inputs[:, 0], [[0.01, 0.02, 0.03, 0.03], [0.04, 0.05, 0.06, 0.09]])
    for i in range(2):
        np.testing.assert_array_equal(inputs[i], preprocessing(read_spectrum(tmp_path / f"{i}.txt")))
    with pytest.raises(UserError, match="this survey has no errors; --noise-channel needs them"):
        prepared(stored, Preprocessing(axis="pixels", size=4, noise_channel=True))


def test_surveys_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(UserError, match="no survey there"):
        open_survey(tmp_path)
    for name in [*(f"{a}.npy" for a in ARRAYS), "survey.json"]:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int64))
    with pytest.raises(UserError, match=r"labels\.npy: shape \(3,\); survey.json says \(60,\)"):
        open_survey(tmp_path)
    (tmp_path / "flux.npy").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        open_survey(tmp_path)
    with pytest.raises(UserError, match="has wavelengths: --axis log"):
        prepared(open_survey(folder), Preprocessing(axis="pixels"))


def test_the_competition_and_labelled_fits_files_become_surveys(tmp_path, data_root, capsys):
    rng = np.random.default_rng(0)
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(",".join(f"{x:.3f}" for x in rng.normal(1, 1, 200)), encoding="utf-8")
    rows = "".join(f"{i},{name}\n" for i, name in enumerate(["star", "unknown", "galaxy", "qso"]))
    (tmp_path / "index.csv").write_text("id,type\n" + rows + "9,star\n", encoding="utf-8")
    survey_module.main([str(tmp_path / "out"), "--index", str(tmp_path / "index.csv")])
    assert "left out:" in capsys.readouterr().err  # 9.txt is not there
    stored = open_survey(tmp_path / "out")
    assert stored.wavelength is None
    assert stored.labels.tolist() == [0, 1, 2, 3]
    inputs = prepared(stored, Preprocessing(axis="pixels", size=200))
    np.testing.assert_allclose(inputs[2, 0], read_spectrum(tmp_path / "2.txt").flux / 100, rtol=1e-6)
    with pytest.raises(UserError, match="say so with --size 200"):
        prepared(stored, Preprocessing(axis="pixels", size=300))
    pattern = str(data_root / "spectra" / "sdss" / "spec-9367*.fits.gz")
    survey_module.main([str(tmp_path / "real"), "--files", pattern])
    real = open_survey(tmp_path / "real")
    assert sorted(real.labels.tolist()) == [0, 3, 3, 3, 3]
    assert np.isfinite(prepared(real, SMALL)).all()
    with pytest.raises(UserError, match="either --files or --index"):
        survey_module.main([str(tmp_path / "x")])
    with pytest.raises(UserError, match="no file fits"):
        survey_module.main([str(tmp_path / "x"), "--files", str(tmp_path / "*.fits")])


def test_the_order_draws_classes_by_their_shares():
    labels = np.repeat([0, 1, 2, 3], [500, 300, 20, 10])
    order = drawn_by_class(labels, (0.8, 0.1, 0.05, 0.05), 20_000, seed=1)
    drawn = order(0)
    shares = np.bincount(labels[drawn.numpy()], minlength=4) / 20_000
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.05, 0.05), atol=0.012)  # 4 sigma of the largest
    assert len(set(drawn[labels[drawn.numpy()] == 3].tolist())) == 10  # each of a class can come
    assert torch.equal(drawn, order(0))
    assert not torch.equal(drawn, order(1))
    batches = EpochBatches(order, 160, World(0, 1, torch.device("cpu")))
    assert len(batches) == 125
    with pytest.raises(UserError, match=r"no qso to train on, but 0\.05 of every batch"):
        drawn_by_class(labels[:-10], (0.8, 0.1, 0.05, 0.05), 10, 0)


def test_split_takes_its_share_of_each_class():
    labels = np.repeat([0, 1, 2, 3], [500, 300, 20, 2])
    train, held = split(labels, 0.1)
    assert np.bincount(labels[held]).tolist() == [50, 30, 2, 1]
    assert np.intersect1d(train, held).size == 0
    assert np.union1d(train, held).size == len(labels)


def test_batches_serve_rows_and_repeat_their_draws(folder):
    stored = open_survey(folder)
    inputs = prepared(stored, SMALL)
    rows = np.arange(10, 60)
    plain = SpectraBatches(inputs, stored.labels, rows, SMALL)
    batch, labels = plain.__getitems__([4, 0, 4])
    np.testing.assert_array_equal(batch.numpy(), inputs[[14, 10, 14]])
    assert labels.tolist() == stored.labels[[14, 10, 14]].tolist()
    one, _ = plain[4]
    assert torch.equal(one, batch[0])
    moved = SpectraBatches(inputs, stored.labels, rows, SMALL, Augmentation(5, 0.5, 0.1), seed=2)
    first = moved.__getitems__([4, 0])[0]
    assert torch.equal(first, moved.__getitems__([4, 0])[0])
    moved.set_epoch(1)
    assert not torch.equal(first, moved.__getitems__([4, 0])[0])


def test_augmentation_does_what_it_says():
    rng = np.random.default_rng(0)
    inputs = np.zeros((3, 2, 128), np.float32)
    inputs[:, 0] = np.arcsinh(1.0)
    inputs[:, :, 60] = 2.0
    labels = np.array([0, 2, 3])
    moved = Augmentation(redshift_jitter=7)(inputs, labels, SMALL, rng)
    assert moved[0, 0].argmax() == 60  # a star stays
    shifts = [moved[i, 0].argmax() - 60 for i in (1, 2)]
    assert all(abs(s) <= 7 for s in shifts)
    assert any(shifts)
    assert [moved[i, 1].argmax() - 60 for i in (1, 2)] == shifts  # both channels together
    stepped = Augmentation(splice=0.2)(inputs, labels, SMALL, rng)
    red = SMALL.wavelength >= 5900
    np.testing.assert_array_equal(stepped[:, 0, ~red], inputs[:, 0, ~red])
    factor = np.sinh(stepped[:, 0, red]) / np.sinh(inputs[:, 0, red])
    np.testing.assert_allclose(factor, factor[:, :1] * np.ones_like(factor), rtol=1e-4)
    noisy = inputs.copy()
    noisy[:, 0] = np.arcsinh(1 + 0.1 * rng.standard_normal((3, 128)))
    louder = Augmentation(noise=1.0)(noisy, labels, SMALL, rng)
    added = np.sinh(louder[:, 0]) - np.sinh(noisy[:, 0])
    assert (added.std(axis=1) < 0.13).all()
    assert added.std() > 0.005
    assert not Augmentation()
    assert Augmentation(noise=0.1)
