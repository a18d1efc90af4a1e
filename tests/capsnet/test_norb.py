"""smallNORB's reader on files made here with the published labels, its splits and crops."""

import gzip
import struct

import numpy as np
import pytest
import torch

from capsnet import norb
from trainer import UserError


def write_matrix(path, array):
    """As the format is published: magic, axes, at least three sizes, little-endian values."""
    magic = {np.uint8: 0x1E3D4C55, np.int32: 0x1E3D4C54}[array.dtype.type]
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    data = struct.pack("<Ii", magic, array.ndim) + struct.pack(f"<{len(sizes)}i", *sizes) + array.tobytes()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def labels_of(part):
    toys = {"train": (4, 6, 7, 8, 9), "test": (0, 1, 2, 3, 5)}[part]  # as published
    grid = np.array(np.meshgrid(range(5), toys, range(9), range(0, 36, 2), range(6), indexing="ij"), np.int32)
    rows = grid.reshape(5, -1).T
    return rows[np.random.default_rng(0).permutation(len(rows))]  # (24300, 5): class, toy, elevation, azimuth, light


@pytest.fixture(scope="module")
def root(tmp_path_factory, request):
    """Labels and info of the test part, whose images one test adds; the training part is missing."""
    folder = tmp_path_factory.mktemp("norb")
    rows = labels_of("test")
    stem = norb.STEMS["test"]
    write_matrix(folder / f"{stem}-cat.mat.gz", rows[:, 0].copy())
    write_matrix(folder / f"{stem}-info.mat", rows[:, 1:].copy())
    return folder


def test_read_matrix(tmp_path):
    for array in (np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([5, -1], np.int32)):
        for name in ("a.mat", "a.mat.gz"):
            write_matrix(tmp_path / name, array)
            assert np.array_equal(norb.read_matrix(tmp_path / name), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], "promises 24 bytes for shape .2, 3, 4., the file holds 23"),
        (lambda d: d + b"x", "the file holds 25"),
        (lambda d: b"\x00" * 4 + d[4:], "it starts with 00000000"),
        (lambda d: d[:10], "10 bytes are too few"),
        (lambda d: gzip.compress(d)[:30], "the gzip stream is damaged"),
        (lambda d: d[:8] + struct.pack("<i", -2) + d[12:], "truncated or damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, change, message):
    path = tmp_path / "a.mat"
    write_matrix(path, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        norb.read_matrix(path)


def test_missing_files_are_asked_for(root):
    with pytest.raises(UserError, match=r"training-dat.mat\(.gz\). smallNORB is not fetched from here"):
        norb.load_norb("train", root)


def test_the_whole_test_part(root, monkeypatch):
    images = np.zeros((norb.NUM_EXAMPLES, 2, 2, 2), np.uint8)
    images[:, 1] = 7
    monkeypatch.setattr(norb, "IMAGE_SIZE", 2)  # 448 MB of pixels would say no more
    write_matrix(root / f"{norb.STEMS['test']}-dat.mat", images)
    found = norb.load_norb("test", root)
    rows = torch.from_numpy(labels_of("test")).long()
    assert torch.equal(found.labels, rows[:, 0])
    assert torch.equal(found.info, rows[:, 1:])
    assert found.images[:, 1].min() == 7
    azimuth, elevation = found.familiar("azimuth"), found.familiar("elevation")
    assert azimuth.sum() == norb.NUM_EXAMPLES // 3  # 6 of 18 azimuths, 3 of 9 elevations
    assert elevation.sum() == norb.NUM_EXAMPLES // 3
    assert set(found.info[azimuth, 2].tolist()) == {30, 32, 34, 0, 2, 4}
    assert set(found.info[~elevation, 1].tolist()) == {3, 4, 5, 6, 7, 8}
    assert found.familiar("all").all()
    broken = rows[:, 1:].int().numpy().copy()
    broken[5] = broken[6]
    write_matrix(root / f"{norb.STEMS['test']}-info.mat", broken)
    with pytest.raises(UserError, match="not each toy once"):
        norb.load_norb("test", root)
    write_matrix(root / f"{norb.STEMS['test']}-info.mat", broken[:-1])
    with pytest.raises(UserError, match=r"info.mat has shape \(24299, 4\), expected \(24300, 4\)"):
        norb.load_norb("test", root)


def test_crops_and_normalisation():
    images = torch.randint(0, 256, (6, 2, 96, 96), dtype=torch.uint8)
    pairs = norb.Norb(images, torch.arange(6) % 5, torch.zeros(6, 4, dtype=torch.long))
    fixed = norb.NorbBatches(pairs, training=False)
    x, labels = fixed.__getitems__([4, 1])
    halved = images[4, 1].float().view(48, 2, 48, 2).mean(dim=(1, 3))
    expected = (halved - halved.mean()) / halved.std()
    torch.testing.assert_close(x[0, 1], expected[8:40, 8:40], rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [4, 1]
    random = norb.NorbBatches(pairs, training=True, seed=1)
    first = random.__getitems__([0, 3])[0]
    random.set_epoch(1)
    assert not torch.equal(random.__getitems__([0, 3])[0], first)
    random.set_epoch(0)
    again = random.__getitems__([3, 0])[0].flip(0)
    assert torch.equal(again, first)
    assert torch.equal(random[3][0], first[1])
    # undo brightness and contrast: the crop is a part of the image
    draw = random.draws[3]
    plain = (first[1] - (0.5 * draw[2] - 0.25)) / (0.5 + draw[3])
    top, left = int(draw[0] * 17), int(draw[1] * 17)
    torch.testing.assert_close(plain, random.images[3, :, top : top + 32, left : left + 32], rtol=1e-4, atol=1e-4)
