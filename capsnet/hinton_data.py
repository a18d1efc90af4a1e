r"""Digits as the two Hinton papers show them, made here from MNIST and never stored: placed, overlapping, distorted.

One class places digits on a canvas at whole pixels:

=============================  ============================================  =======================================
``PLACEMENTS["mnist"]``        28x28, moved by up to 2 pixels each way       training (Sabour et al. 2017, section 4)
``PLACEMENTS["multimnist"]``   36x36, two digits of different classes, each  MultiMNIST (section 6)
                               moved by up to 4 pixels each way, added up
``PLACEMENTS["affnist"]``      40x40, anywhere                               what the affNIST test trains on
=============================  ============================================  =======================================

`affine` makes the affNIST-like test set, with affNIST's published ranges (Tieleman 2013).

Shapes: ``N`` digits of the set, ``B`` batch, ``n`` digits in an image, ``S`` side of the canvas in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from capsnet.augment import Augmentation, augment
from capsnet.data import NUM_CLASSES, Digits

ROTATION, SHEAR, SCALE = 20.0, 0.2, 0.2  # degrees; shift per unit of height; relative, each axis for itself
CHUNK = 1000  # images distorted at a time


@dataclass(frozen=True)
class Placement:
    """How digits are put on a canvas."""

    size: int
    """pixels, of both sides of the canvas"""
    shift: int
    """pixels: each digit moves from the centre by -shift .. shift along both axes; what leaves the canvas is lost"""
    count: int = 1
    """digits an image: 1, or 2 of different classes"""


PLACEMENTS = {"mnist": Placement(28, 2), "multimnist": Placement(36, 4, 2), "affnist": Placement(40, 6)}
AFFNIST_SIZE = PLACEMENTS["affnist"].size


class PlacedDigits(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Digits on canvases, drawn anew each epoch from seed and epoch alone (so a resumed run sees the same images).

    A list of indices gives a batch: images (B, 1, S, S) in [0, 1], labels (B, n), and each digit alone on its canvas
    (B, n, 1, S, S), which is what the decoder is to draw. The first digit is the index's own; its partner is any digit
    of another class of the same set. Batches are made and served on the device that holds the digits.

    Args:
        digits: the set.
        placement: see `Placement`.
        seed: of moves and partners.
        fixed: the same draw in every epoch, for tests.
        augmentation: how each digit is distorted before it is placed, by draws of its own; None: not at all. Its label
            noise is not used.

    Raises:
        ValueError: two digits are asked for, but the set holds one class alone.
    """

    def __init__(
        self,
        digits: Digits,
        placement: Placement,
        seed: int = 0,
        fixed: bool = False,
        augmentation: Augmentation | None = None,
    ) -> None:
        if placement.count == 2 and len(digits.labels.unique()) < 2:
            raise ValueError("pairs of different classes need digits of two classes at least")
        self.digits, self.placement, self.seed, self.fixed = digits, placement, seed, fixed
        self.augmentation = augmentation
        self.epoch = -1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's partners and moves."""
        epoch = 0 if self.fixed else epoch
        if epoch == self.epoch:
            return
        self.epoch = epoch
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        own = torch.arange(len(self))
        members = own.unsqueeze(1)
        if self.placement.count == 2:
            members = torch.stack([own, _partners(self.digits.labels.cpu(), generator)], dim=1)
        reach = self.placement.shift
        moves = torch.randint(-reach, reach + 1, (*members.shape, 2), generator=generator)
        self.members = members.to(self.digits.labels.device)  # (N, n)
        self.moves = moves.to(self.digits.labels.device)  # (N, n, 2): down, across
        if self.augmentation is not None:
            draws = self.augmentation.draw(members.numel(), self.seed, epoch).unflatten(0, members.shape)
            self.draws = draws.to(self.digits.labels.device)  # (N, n, NUM_DRAWS)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        images, labels, alone = self.__getitems__([index])
        return images[0], labels[0], alone[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.as_tensor(indices, device=self.digits.labels.device)
        members = self.members[index]  # (B, n)
        images = self.digits.images[members].float() / 255  # (B, n, H, W)
        if self.augmentation is not None:
            each, draws = images.flatten(0, 1).unsqueeze(1), self.draws[index].flatten(0, 1)
            labels = self.digits.labels[members].flatten()
            images = augment(each, labels, self.augmentation, draws)[0].view_as(images)
        alone = place(images, self.moves[index], self.placement.size).unsqueeze(2)  # (B, n, 1, S, S)
        return alone.sum(dim=1).clamp(max=1.0), self.digits.labels[members], alone


def place(images: Tensor, moves: Tensor, size: int) -> Tensor:
    """Put images on black canvases, from the centre by so many pixels down and across; what leaves them is lost.

    Shape: images (B, n, H, W), moves (B, n, 2) -> (B, n, size, size).
    """
    batch, count, height, width = images.shape
    image, digit, axis = (torch.arange(n, device=images.device) for n in (batch, count, size))
    rows = (axis - (size - height) // 2 - moves[..., :1]).unsqueeze(3)  # (B, n, size, 1) of the images
    columns = (axis - (size - width) // 2 - moves[..., 1:]).unsqueeze(2)  # (B, n, 1, size)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (B, n, size, size)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return images[image.view(-1, 1, 1, 1), digit.view(-1, 1, 1), rows, columns] * inside


def standardized(images: Tensor) -> Tensor:
    """Each image and channel of (B, C, H, W) with mean 0 and variance 1, as matrix capsules are shown them; a blank
    one is 0 (Hinton, Sabour & Frosst 2018).
    """
    deviation, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
    return (images - mean) / (deviation + 1e-6)


def _partners(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For each of the (N,) labels the index of a digit of another class, every such digit as likely as the others."""
    by_class = labels.argsort(stable=True)  # (N,), the classes one after the other
    sizes = torch.bincount(labels, minlength=NUM_CLASSES)
    starts = sizes.cumsum(0) - sizes
    own = sizes[labels]
    draw = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    place_in_rest = (draw * (len(labels) - own)).long()
    skip = place_in_rest >= starts[labels]  # the rest is what stands before and after the own class
    return by_class[place_in_rest + torch.where(skip, own, 0)]


def affine(digits: Digits, seed: int = 0, size: int = AFFNIST_SIZE) -> Digits:
    r"""affNIST-like test images: each digit once, distorted, somewhere on a canvas of 40x40.

    affNIST's ranges, all uniform: rotation by -20 to 20 degrees, shear by -0.2 to 0.2 (0.2 leans by a fifth of the
    height), each axis scaled by 0.8 to 1.2 for itself; then a place drawn among all at which the whole of the ink fits.
    Ink that is too large for the canvas (clothes fill their frames, digits do not) is centred and loses its edges.

    *Deviation:* places are whole pixels, and the published set itself (32 variants an image) is not reproduced.

    Args:
        digits: square images (N, H, H) uint8, one at least.
        seed: of the distortions.
        size: side of the canvas in pixels.

    Returns:
        Digits with images (N, size, size) uint8 and the same labels.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(digits), 6, generator=generator)
    parts = []
    starts = range(0, len(digits), CHUNK)
    for start in tqdm(starts, desc="affine digits", disable=len(starts) < 5, leave=False):
        rows = slice(start, start + CHUNK)
        centred = _distort(digits.images[rows], draws[rows, :4], 2 * size)
        parts.append(_drop(centred, draws[rows, 4:], size))
    return Digits(torch.cat(parts), digits.labels)


def _distort(images: Tensor, draws: Tensor, size: int) -> Tensor:
    """Rotate, shear and scale about the centre: (M, H, H) uint8, (M, 4) in [0, 1) -> (M, size, size) uint8."""
    angle, shear, tall, wide = (2 * draws - 1).unbind(1)
    angle, shear = angle * math.radians(ROTATION), shear * SHEAR
    tall, wide = 1 + tall * SCALE, 1 + wide * SCALE
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # where a pixel of the canvas comes from: undo the scaling, then the shear, then the rotation
    rows = [
        torch.stack([cos / wide, (sin - cos * shear) / tall, zero], dim=1),
        torch.stack([-sin / wide, (cos + sin * shear) / tall, zero], dim=1),
    ]
    matrix = torch.stack(rows, dim=1) * (size / images.shape[-1])  # both frames span -1 .. 1
    grid = F.affine_grid(matrix, [len(images), 1, size, size], align_corners=False)
    moved = F.grid_sample(images.unsqueeze(1).float(), grid, align_corners=False)
    return moved.squeeze(1).round().clamp(0, 255).to(torch.uint8)


def _drop(images: Tensor, draws: Tensor, size: int) -> Tensor:
    """Cut a frame of ``size`` around the ink of each image, at a place drawn by (M, 2) in [0, 1); from the middle of
    ink that is larger.
    """
    starts = []
    for axis, draw in ((2, draws[:, 0]), (1, draws[:, 1])):  # rows have ink where the maximum over columns has
        ink = images.amax(dim=axis) > 0  # (M, 2 size)
        first = ink.int().argmax(dim=1)
        last = ink.shape[1] - 1 - ink.flip(1).int().argmax(dim=1)
        last = torch.where(ink.any(dim=1), last, first)  # a black image fits anywhere
        free = size - (last - first + 1)
        drawn = last - size + 1 + (draw * (free + 1)).long()  # from the earliest frame that holds the last of it
        start = torch.where(free < 0, first - free // 2, drawn)
        starts.append(start.clamp(0, images.shape[1] - size))
    frame = torch.arange(size)
    rows, columns = starts[0][:, None, None] + frame[:, None], starts[1][:, None, None] + frame
    return images[torch.arange(len(images))[:, None, None], rows, columns]
