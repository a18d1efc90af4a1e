r"""smallNORB (LeCun, Huang & Bottou 2004): its binary .mat files, its viewpoints, and the crops of the paper.

48,600 pairs of images 96x96 of toys of 5 classes, from 18 azimuths (0 to 340 degrees), 9 elevations, 6 lightings; the
toys of the test part do not occur in training. The files are not fetched from here: put the six of them, gzipped or
not, into one folder under their own names. Everything about them is checked before use.

The paper's other question is about viewpoints: train on some, test on all others (`VIEWPOINTS`).

Shapes: ``N`` examples; a pair of images is (2, H, W).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from capsnet.data import read_bytes
from capsnet.hinton_data import standardized
from trainer import UserError

Part = Literal["train", "test"]
Viewpoints = Literal["all", "azimuth", "elevation"]

STEMS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
# The toys of each class are the second number in the names of the files: 0, 1, 2, 3, 5 in the test part.
TOYS = {part: tuple(map(int, stem.split("x")[1])) for part, stem in STEMS.items()}
NUM_EXAMPLES, NUM_CLASSES, IMAGE_SIZE = 24_300, 5, 96
TYPES: dict[int, np.dtype] = {
    0x1E3D4C55: np.dtype("u1"),
    0x1E3D4C54: np.dtype("<i4"),
}  # by the magic number that begins a file
# What one trains on; the rest is novel. Azimuths are stored as degrees / 10, elevations as 0 (30 degrees) to 8 (70).
VIEWPOINTS = {"azimuth": (2, (30, 32, 34, 0, 2, 4)), "elevation": (1, (0, 1, 2))}  # column of `info`, values


@dataclass(frozen=True)
class Norb:
    """Pairs (N, 2, H, W) uint8, labels (N,) and info (N, 4): toy, elevation, azimuth, lighting."""

    images: Tensor
    labels: Tensor
    info: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Norb":
        return Norb(self.images[index], self.labels[index], self.info[index])

    def to(self, device: torch.device) -> "Norb":
        """The same pairs on another device."""
        return Norb(self.images.to(device), self.labels.to(device), self.info.to(device))

    def familiar(self, viewpoints: Viewpoints) -> Tensor:
        """(N,) whether the example is seen from a viewpoint that one trains on."""
        if viewpoints == "all":
            return torch.ones(len(self), dtype=torch.bool)
        column, values = VIEWPOINTS[viewpoints]
        return torch.isin(self.info[:, column], torch.tensor(values))


def load_norb(part: Part, root: Path) -> Norb:
    """Read one part.

    Args:
        part: ``train`` or ``test``.
        root: folder of the files, or the folder above a ``smallnorb/`` that holds them.

    Raises:
        UserError: a file is missing or damaged, or does not hold smallNORB.
    """
    arrays = [read_matrix(_find(root, f"{STEMS[part]}-{kind}.mat")) for kind in ("dat", "cat", "info")]
    images, labels, info = (torch.from_numpy(array) for array in arrays)
    _check(images, labels, info, part, root)
    return Norb(images, labels.long(), info.long())


def read_matrix(path: Path) -> np.ndarray:
    """Read a file of the set's binary format, gzipped or not: magic number, number of axes, at least three sizes
    (little-endian int32 each; sizes beyond the axes are 1), values.

    Raises:
        UserError: another format or type, or not as many bytes as promised.
    """
    data = read_bytes(path)
    if len(data) < 20:
        raise UserError(f"{path}: {len(data)} bytes are too few for the header of a smallNORB matrix")
    magic, num_dims = struct.unpack("<Ii", data[:8])
    if magic not in TYPES or not 1 <= num_dims <= 8:
        raise UserError(f"{path}: not a smallNORB matrix of bytes or integers: it starts with {data[:8].hex()}")
    header = 8 + 4 * max(3, num_dims)
    shape = struct.unpack(f"<{num_dims}i", data[8 : 8 + 4 * num_dims]) if len(data) >= header else ()
    expected = int(np.prod(shape, dtype=object)) * TYPES[magic].itemsize
    if len(data) - header != expected or min(shape, default=0) < 1:
        raise UserError(
            f"{path}: the header promises {expected} bytes for shape {shape}, the file holds {len(data) - header}; "
            "it is truncated or damaged: fetch it again"
        )
    return np.frombuffer(data, TYPES[magic], offset=header).reshape(shape).copy()


def _find(root: Path, name: str) -> Path:
    for folder in (root / "smallnorb", root):
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    names = ", ".join(f"{stem}-{kind}.mat" for stem in STEMS.values() for kind in ("dat", "cat", "info"))
    raise UserError(
        f"{root}: no {name}(.gz). smallNORB is not fetched from here: get it from its authors (search for "
        f"'smallNORB dataset, v1.0'), and put these files into {root} or {root / 'smallnorb'}: {names}"
    )


def _check(images: Tensor, labels: Tensor, info: Tensor, part: Part, root: Path) -> None:
    """Shapes, and that every toy is there from every viewpoint under every light exactly once."""
    expected = {
        "dat": (images, (NUM_EXAMPLES, 2, IMAGE_SIZE, IMAGE_SIZE)),
        "cat": (labels, (NUM_EXAMPLES,)),
        "info": (info, (NUM_EXAMPLES, 4)),
    }
    for kind, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            found = tuple(tensor.shape)
            raise UserError(f"{root}: {STEMS[part]}-{kind}.mat has shape {found}, expected {shape}")
    grid = torch.cartesian_prod(
        torch.arange(NUM_CLASSES),
        torch.tensor(TOYS[part]),
        torch.arange(9),
        torch.arange(0, 36, 2),
        torch.arange(6),
    )
    found = torch.cat([labels.long().unsqueeze(1), info.long()], dim=1).unique(dim=0)
    if not torch.equal(found, grid):
        raise UserError(
            f"{root}: the {part} labels are not those of smallNORB: not each toy once from each of 18 azimuths and "
            "9 elevations under each of 6 lights; fetch the files again"
        )


class NorbBatches(Dataset[tuple[Tensor, Tensor]]):
    """Pairs as the paper shows them: 48x48, each image of mean 0 and variance 1, then a crop of 32x32.

    For training the crop is random, and so are brightness and contrast, drawn once an epoch from seed and epoch alone;
    for testing the crop is the centre. A list of indices gives (B, 2, 32, 32), (B,), on the device of the pairs.

    Args:
        norb: the pairs.
        training: whether anything is random.
        seed: of what is.
    """

    crop = 32

    def __init__(self, norb: Norb, training: bool, seed: int = 0) -> None:
        self.labels, self.training, self.seed = norb.labels, training, seed
        halved = [F.avg_pool2d(part.float(), 2) for part in norb.images.split(1000)]
        images = torch.cat(halved)  # (N, 2, 48, 48)
        self.images = standardized(images)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's crops, brightness and contrast."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        self.draws = torch.rand(len(self), 4, generator=generator).to(self.labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        device = self.labels.device
        index = torch.as_tensor(indices, device=device)
        images, free = self.images[index], self.images.shape[2] - self.crop
        if not self.training:
            start = free // 2
            return images[:, :, start : start + self.crop, start : start + self.crop], self.labels[index]
        down, across, bright, contrast = self.draws[index].unbind(1)
        frame = torch.arange(self.crop, device=device)
        rows = ((down * (free + 1)).long()[:, None] + frame)[:, None, :, None]
        columns = ((across * (free + 1)).long()[:, None] + frame)[:, None, None, :]
        batch, eye = torch.arange(len(index), device=device), torch.arange(2, device=device)
        images = images[batch[:, None, None, None], eye[:, None, None], rows, columns]
        # the paper gives no ranges: a quarter of a deviation, and half to one and a half times the contrast
        images = images * (0.5 + contrast)[:, None, None, None] + (0.5 * bright - 0.25)[:, None, None, None]
        return images, self.labels[index]
