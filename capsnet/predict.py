"""Digits in a user's own pictures, each class read at most once a picture: of any size and with any number of digits by
the networks of `capsnet.train`; by those of `capsnet.train_sabour` and `capsnet.train_matrix`, which see one size, a
picture is fitted into a square of theirs.

python -m capsnet.predict runs/capsnet/mnist-ours-capsules-kmeans-seed0 photo1.png photo2.jpg -o digits.csv
python -m capsnet.predict runs/capsnet/mnist-mnist-small-dynamic3-seed0 photo1.png
"""

import csv
import io
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from capsnet.evaluate import load_run
from capsnet.figures import class_names
from capsnet.hinton_data import PLACEMENTS, place, standardized
from capsnet.matrix import MatrixCapsNet
from capsnet.multidigit import predict
from trainer import UserError, run_main, world, write_atomically

# what Pillow's readers let out on damaged files, beside OSError and ValueError
DAMAGED = (SyntaxError, EOFError, IndexError, TypeError, struct.error)

MAX_SIDE = 4096  # pixels: more is surely a slip, and would fill the memory


@dataclass(frozen=True)
class Settings:
    """Read the digits in pictures with a trained run; a row a picture, as CSV."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run, or a checkpoint in it"""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """pictures, in any format that Pillow reads"""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """CSV file; empty: standard output"""
    threshold: float = 0.5
    """class score (0 to 1) above which a digit counts as seen"""
    short_side: int = 28
    """pixels that the shorter side of a picture is scaled to, for networks of one size the longer side (28: a digit and
    its margin in MNIST); 0: as it is
    """
    ink: Literal["auto", "bright", "dark"] = "auto"
    """whether digits are brighter or darker than their ground; auto: the rarer brightness is ink"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one"""


def read_picture(path: Path, side: int = 28, ink: str = "auto", square: int = 0) -> Tensor:
    """A picture as (H, W) uint8 with bright digits on black.

    Args:
        path: of the file.
        side: pixels that its shorter side is scaled to; 0: as it is.
        ink: see `Settings`.
        square: pixels of a black square that the picture is put into the middle of, and ``side`` is then its longer
            side; 0: none.

    Raises:
        UserError: not a file, or not a picture.
    """
    try:
        with Image.open(path) as picture:
            grey = picture.convert("L")
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture that Pillow can read; expected PNG, JPEG or the like") from error
    except (OSError, ValueError, *DAMAGED, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if side:
        factor = side / (max(grey.size) if square else min(grey.size))
        size = (max(1, round(grey.width * factor)), max(1, round(grey.height * factor)))
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    if ink == "dark" or (ink == "auto" and np.median(pixels) > 127):
        pixels = 255 - pixels
    picture = torch.from_numpy(pixels.copy())
    if not square:
        return picture
    if max(picture.shape) > square:
        found = f"{picture.shape[1]}x{picture.shape[0]}"
        raise UserError(f"{path}: {found} pixels, but the network sees {square}x{square}; try --short-side 28")
    return place(picture[None, None], torch.zeros(1, 1, 2, dtype=torch.long), square)[0, 0]


class Standardized(nn.Module):
    """Images as matrix capsules are shown them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(standardized(images))


def sees(trained: Mapping[str, Any]) -> int:
    """Pixels of the one square that the network of these settings sees; 0: it sees any size."""
    if trained["data"] == "norb":
        raise UserError("this run was trained on smallNORB's pairs of images of toys; name one trained on digits")
    if "task" in trained:
        return PLACEMENTS[trained["task"]].size
    return PLACEMENTS["mnist"].size if "viewpoints" in trained else 0


def read_digits(model: nn.Module, path: Path, settings: Settings, square: int) -> Tensor:
    """Class scores (K,) of one picture; ``square``: see `sees`."""
    picture = read_picture(path, settings.short_side, settings.ink, square)
    if square:
        return predict(model, picture.unsqueeze(0))[0]
    least = model.features.min_size  # type: ignore[union-attr]
    if min(picture.shape) < least:  # type: ignore[operator]
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise UserError(
            f"{path}: {size} pixels, but the network needs at least {least} along each side; try --short-side 28"
        )
    return predict(model, picture.unsqueeze(0))[0]


def main(argv: Sequence[str] | None = None) -> list[list[str]]:
    """Write the table; a picture that cannot be read is reported and left out."""
    settings = tyro.cli(Settings, args=argv, prog="python -m capsnet.predict")
    if not settings.images:
        raise UserError("no picture given: name one or more after the run")
    if not 0 <= settings.short_side <= MAX_SIDE:
        raise UserError(f"--short-side must be from 0 to {MAX_SIDE} pixels, got {settings.short_side}")
    if not 0 <= settings.threshold <= 1:
        raise UserError(f"--threshold must be from 0 to 1, got {settings.threshold}")
    model, trained, _ = load_run(settings.run)
    square = sees(trained)
    model = Standardized(model) if isinstance(model, MatrixCapsNet) else model
    names = class_names(trained["data"])
    rows = [["file", "digits", *names]]
    with world(settings.device) as place:
        model = model.to(place.device)
        for path in settings.images:
            try:
                scores = read_digits(model, path, settings, square)
            except UserError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            seen = [name for name, score in zip(names, scores, strict=True) if score > settings.threshold]
            rows.append([str(path), " ".join(seen), *(f"{score:.4f}" for score in scores)])
    if len(rows) == 1:
        raise UserError("none of the pictures could be read")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if settings.output is None:
        print(text.getvalue(), end="")
    else:
        write_atomically(settings.output, lambda file: file.write(text.getvalue().encode()))
    return rows


if __name__ == "__main__":
    run_main(main)
