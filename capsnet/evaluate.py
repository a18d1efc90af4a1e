"""Reload a run of this package, score it on its test images once more, write its figures.

python -m capsnet.evaluate runs/capsnet/mnist-ours-capsules-kmeans-seed0
python -m capsnet.evaluate runs/capsnet/multimnist-mnist-small-dynamic3-seed0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import nn

from capsnet import train, train_matrix, train_sabour
from trainer import UserError, entries_of, load_checkpoint, load_weights, run_main, world, write_json

# the script that trains a model; each has `build` and `report`
SCRIPTS: dict[str, Any] = {
    "DigitCapsNet": train,
    "PooledCNN": train,
    "CapsNet": train_sabour,
    "BaselineCNN": train_sabour,
    "MatrixCapsNet": train_matrix,
}


@dataclass(frozen=True)
class Settings:
    """Print the scores of a trained run and write its figures beside its metrics."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run, or a checkpoint in it"""
    data_root: Path | None = None
    """folder of the data; empty: the one the run was trained from"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one"""


def load_run(path: Path) -> tuple[nn.Module, dict[str, Any], Path]:
    """Model in evaluation mode, settings and folder of a run, from its best.pt or the checkpoint named.

    Raises:
        UserError: no checkpoint of this package's there, or one that is not whole or whose weights do not fit its
            settings.
    """
    path = path / "best.pt" if path.is_dir() else path
    checkpoint = load_checkpoint(path)
    with entries_of(path):
        name, settings = checkpoint["model_name"], checkpoint["settings"]
        if name not in SCRIPTS:
            raise UserError(f"{path}: a checkpoint of {name}; expected one of {', '.join(SCRIPTS)}")
        model = SCRIPTS[name].build(settings)
        load_weights(model, checkpoint["model"], path)
    return model.eval(), settings, path.parent


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate a run on its test images; writes evaluation.json beside metrics.json."""
    settings = tyro.cli(Settings, args=argv, prog="python -m capsnet.evaluate")
    model, trained, folder = load_run(settings.run)
    if settings.data_root is not None:
        trained = {**trained, "data_root": str(settings.data_root)}
    with world(settings.device) as place:
        values = SCRIPTS[type(model).__name__].report(folder, model.to(place.device), trained)
    print(f"figures: {folder / 'figures'}")
    write_json(folder / "evaluation.json", values)
    return values


if __name__ == "__main__":
    run_main(main)
