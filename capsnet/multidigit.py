"""Several digits in one image, for networks that only ever saw one: how they are composed, and how the answer is
scored.

Shapes: ``M`` composed images, ``n`` digits in each, ``K`` classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from capsnet.data import NUM_CLASSES, Digits
from capsnet.hinton_data import PLACEMENTS, place

Layout = Literal["stacked", "row", "overlap"]
COUNTS = (2, 3, 4)
MULTIMNIST = PLACEMENTS["multimnist"]


@dataclass(frozen=True)
class Composed:
    """Images (M, H, W) uint8 and the digits in each, labels (M, n)."""

    images: Tensor
    labels: Tensor


def compose(digits: Digits, count: int, layout: Layout, seed: int = 0) -> Composed:
    """Put ``count`` different digits into each image.

    Every digit serves once in each place (a permutation a place, as in the original script), and images that show a
    class twice are dropped, for the answer is a set.

    Args:
        count: digits an image, 1 to ``NUM_CLASSES``.
        layout: ``stacked`` along the height (the article's), ``row`` along the width, ``overlap``: all on MultiMNIST's
            canvas, each moved by up to 4 pixels each way, pixels added up and cut at white.
        seed: of the permutations and moves.

    Shape: images (M, count * 28, 28), (M, 28, count * 28) or (M, 36, 36).
    """
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.randperm(len(digits), generator=generator) for _ in range(count)], dim=1)  # (N, n)
    labels = digits.labels[places]
    distinct = F.one_hot(labels, NUM_CLASSES).sum(dim=1).amax(dim=1) == 1
    places, labels = places[distinct], labels[distinct]
    parts = digits.images[places]  # (M, n, 28, 28)
    if layout == "stacked":
        return Composed(parts.flatten(1, 2), labels)
    if layout == "row":
        return Composed(parts.transpose(1, 2).flatten(2), labels)
    shift = MULTIMNIST.shift
    moves = torch.randint(-shift, shift + 1, (2, len(parts), count), generator=generator).movedim(0, 2)
    alone = place(parts, moves, MULTIMNIST.size)  # (M, n, 36, 36)
    return Composed(alone.sum(dim=1).clamp(max=255).to(torch.uint8), labels)


def set_scores(scores: Tensor, labels: Tensor, threshold: float = 0.5) -> dict[str, float]:
    """The article's two scores, in per cent.

    ``top``: the n highest of the K class scores are the digits shown; ``confident``: they are, and the lowest of them
    is above ``threshold``, so that a reader who does not know n would have found all of them.

    Shape: scores (M, K), labels (M, n).
    """
    highest = scores.topk(labels.shape[1], dim=1)
    right = (highest.indices.sort(dim=1).values == labels.sort(dim=1).values).all(dim=1)
    confident = right & (highest.values[:, -1] > threshold)
    return {"top": 100 * right.float().mean().item(), "confident": 100 * confident.float().mean().item()}


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, bf16: bool = False, desc: str = "") -> Tensor:
    """Class scores (M, K) on the CPU of uint8 images (M, H, W); a progress bar where ``desc`` names one."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    outputs = []
    batches = list(_batches(images))
    for batch in tqdm(batches, desc=desc, disable=not desc, leave=False):
        batch = batch.to(device).unsqueeze(1).float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs.append(model(batch.to(memory_format=torch.channels_last)).float().cpu())
    model.train(training)
    return torch.cat(outputs)


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Batches of about the same number of pixels, small enough for their features to stay near the processor."""
    size = max(1, 200 * 28 * 28 // (images.shape[1] * images.shape[2]))
    yield from images.split(size)


def evaluate(model: nn.Module, digits: Digits, bf16: bool = False, progress: bool = True) -> dict[str, float]:
    """Every score of the experiment on one part of the data, in per cent.

    ``single`` is the accuracy on single digits; ``stacked_2_top``, ``row_4_confident``, .. are the set scores by
    layout and number of digits, equal digits left out; ``overlap_2_top`` that of two overlapping digits.
    """
    scores = predict(model, digits.images, bf16, "single digits" if progress else "")
    values = {"single": 100 * (scores.argmax(dim=1) == digits.labels).float().mean().item()}
    layouts: list[tuple[Layout, int]] = (
        [("stacked", n) for n in COUNTS] + [("row", n) for n in COUNTS] + [("overlap", 2)]
    )
    for layout, count in layouts:
        composed = compose(digits, count, layout)
        scores = predict(model, composed.images, bf16, f"{count} digits, {layout}" if progress else "")
        for name, value in set_scores(scores, composed.labels).items():
            values[f"{layout}_{count}_{name}"] = value
    return values
