"""Random affine changes of an image, and label noise, as a pure function of numbers drawn beforehand.

Shapes: ``B`` batch, ``H, W`` image size in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_DRAWS = 9  # angle, scale, shear, two shifts, two wraps; whether the label is noise, which label


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; each is drawn uniformly between minus and plus its range."""

    shift: float = 0.0
    """pixels, along both axes"""
    rotation: float = 0.0
    """degrees"""
    scale: float = 0.0
    """relative change of size: 0.1 is 90 % to 110 %"""
    shear: float = 0.0
    """horizontal shift per unit of height"""
    wrap: int = 0
    """pixels, along both axes: what leaves on one side enters on the other, so that a digit meets a piece of itself at
    its edges as it later meets its neighbours; three images of four stay as they are along each axis"""
    label_noise: float = 0.0
    """share of the training labels replaced by a random class, 0 to 1"""

    def __bool__(self) -> bool:
        return self != Augmentation()

    def draw(self, count: int, seed: int, epoch: int) -> Tensor:
        """The random numbers of one epoch, (count, NUM_DRAWS) in [0, 1). Which labels are noise is fixed by the
        seed.
        """
        draws = torch.rand(count, NUM_DRAWS, generator=_generator(seed, epoch + 1))
        draws[:, 7:] = torch.rand(count, 2, generator=_generator(seed, 0))
        return draws


def augment(images: Tensor, labels: Tensor, ranges: Augmentation, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Apply one row of draws to each image; what moves out of the frame is lost, what moves in is black.

    Shape: images (B, 1, H, W), labels (B,), draws (B, NUM_DRAWS) -> images (B, 1, H, W), labels (B,).
    """
    if ranges.shift or ranges.rotation or ranges.scale or ranges.shear:
        images = F.grid_sample(images, _grid(images, ranges, draws), align_corners=False)
    if ranges.wrap:
        images = _wrap(_wrap(images, 2, draws[:, 5], ranges.wrap), 3, draws[:, 6], ranges.wrap)
    if ranges.label_noise:
        noisy = draws[:, 7] < ranges.label_noise
        labels = torch.where(noisy, (draws[:, 8] * 10).long(), labels)
    return images, labels


def _grid(images: Tensor, ranges: Augmentation, draws: Tensor) -> Tensor:
    """The sampling grid (B, H, W, 2) that rotates, scales, shears and shifts around the centre of the image."""
    height, width = images.shape[2:]
    angle, scale, shear, across, down = (2 * draws[:, :5] - 1).unbind(1)
    angle = torch.deg2rad(angle * ranges.rotation)
    scale = 1 + scale * ranges.scale
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [
        torch.stack([cos, shear * ranges.shear - sin, across * (2 * ranges.shift / width)], dim=1),
        torch.stack([sin, cos, down * (2 * ranges.shift / height)], dim=1),
    ]
    return F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)


def _wrap(images: Tensor, axis: int, draw: Tensor, most: int) -> Tensor:
    """Roll each image along an axis by -most..most pixels where its draw is below a quarter, by none elsewhere."""
    moves = torch.where(draw < 0.25, (4 * draw * (2 * most + 1)).floor().long() - most, 0)  # (B,)
    size = images.shape[axis]
    index = (torch.arange(size) - moves.unsqueeze(1)) % size  # (B, size)
    shape = [len(images), 1, 1, 1]
    shape[axis] = size
    return images.gather(axis, index.view(shape).expand_as(images))


def _generator(seed: int, stream: int) -> torch.Generator:
    """A generator of its own for each seed and epoch; the multiplier keeps neighbouring seeds apart."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)
