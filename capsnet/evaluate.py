"""Reload a run, print its table, write its figures.

python -m capsnet.evaluate runs/capsnet/mnist-ours-capsules-kmeans-seed0
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from capsnet import figures
from capsnet.data import Digits, load
from capsnet.multidigit import COUNTS, compose, evaluate, predict
from capsnet.networks import DigitCapsNet, PooledCNN
from trainer import load_checkpoint, load_weights, run_main, write_atomically, write_json


@dataclass(frozen=True)
class Settings:
    """Print the table of a trained run and write its figures beside its metrics."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run, or a checkpoint in it"""
    data_root: Path | None = None
    """folder of the data; empty: the one the run was trained from"""


def build(settings: Mapping[str, Any]) -> nn.Module:
    """The network of these settings (of the command line, or of a checkpoint)."""
    shared = {key: settings[key] for key in ("widths", "batch_norm")}
    if settings["model"] == "cnn":
        return PooledCNN(**shared)
    own = {key: settings[key] for key in ("routing", "num_iters", "squash_constant", "capsule_gain")}
    return DigitCapsNet(**own, **shared)


def load_run(path: Path) -> tuple[nn.Module, dict[str, Any], Path]:
    """Model in evaluation mode, settings and folder of a run, from its best.pt or the checkpoint named."""
    path = path / "best.pt" if path.is_dir() else path
    checkpoint = load_checkpoint(path)
    settings = checkpoint["settings"]
    model = build(settings)
    load_checkpoint(path, type(model).__name__)
    load_weights(model, checkpoint["model"], path)
    return model.eval().to(memory_format=torch.channels_last), settings, path.parent


def table(values: Mapping[str, float]) -> str:
    """The scores of `evaluate` as text."""
    rows = [f"{'digits':>12} {'top n':>8} {'and > 0.5':>10}   (%)", f"{'single':>12} {values['single']:8.2f}"]
    for layout in ("stacked", "row", "overlap"):
        for count in COUNTS:
            key = f"{layout}_{count}"
            if f"{key}_top" in values:
                rows.append(f"{f'{count} {layout}':>12} {values[f'{key}_top']:8.2f} {values[f'{key}_confident']:10.2f}")
    return "\n".join(rows)


def report(
    folder: Path, model: nn.Module, settings: Mapping[str, Any], digits: Digits, writer: SummaryWriter | None = None
) -> dict[str, float]:
    """Score the model on these digits, print the table, write the figures (``folder/figures``, TensorBoard)."""
    bf16 = settings["precision"] == "bf16"
    values = evaluate(model, digits, bf16)
    print(table(values))
    names = figures.class_names(settings["data"])
    pairs = compose(digits, 2, "stacked")
    pictures = {
        "scores_by_count": figures.counts_figure({str(settings["model"]): values}),
        "two_digits": figures.examples_figure(pairs, predict(model, pairs.images, bf16)),
    }
    if isinstance(model, DigitCapsNet):
        pictures["couplings_one_digit"] = figures.coupling_figure(model, digits.images[0], names)
        pictures["couplings_two_digits"] = figures.coupling_figure(model, pairs.images[0], names)
    for name, figure in pictures.items():
        if writer is not None:
            writer.add_figure(name, figure, close=False)
        write_atomically(
            folder / "figures" / f"{name}.png", lambda file, f=figure: f.savefig(file, format="png", dpi=120)
        )
    print(f"figures: {folder / 'figures'}")
    return values


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate a run on the test digits; writes evaluation.json beside metrics.json."""
    settings = tyro.cli(Settings, args=argv, prog="python -m capsnet.evaluate")
    model, trained, folder = load_run(settings.run)
    root = settings.data_root if settings.data_root is not None else Path(trained["data_root"])
    values = report(folder, model, trained, load(trained["data"], "test", root))
    write_json(folder / "evaluation.json", values)
    return values


if __name__ == "__main__":
    run_main(main)
