"""The arrays that the peers' benchmarks read, from the surveys that ours read: same spectra, same preprocessing.

python benchmarks/spectra_export.py FOLDER --data data/train --test data/test
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from spectra.data import prepared, split
from spectra.preprocess import Preprocessing
from spectra.survey import open_survey
from trainer import run_main


@dataclass(frozen=True)
class Settings:
    """Write x, y, x_valid, y_valid, x_test, y_test as .npy."""

    out: Annotated[Path, tyro.conf.Positional]
    """folder to write"""
    data: Path = Path("data/train")
    """survey whose validation part is that of spectra.train"""
    test: Path = Path("data/test")
    """survey of the test spectra"""
    validation_share: float = 0.1
    """as in spectra.train"""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare and write."""
    settings = tyro.cli(Settings, args=argv, config=(tyro.conf.OmitArgPrefixes,))
    survey, test = open_survey(settings.data), open_survey(settings.test)
    train, held = split(np.asarray(survey.labels), settings.validation_share)
    settings.out.mkdir(parents=True, exist_ok=True)
    inputs = prepared(survey, settings.preprocessing)
    parts = {"": (inputs, survey.labels, train), "_valid": (inputs, survey.labels, held)}
    parts["_test"] = (prepared(test, settings.preprocessing), test.labels, np.arange(len(test)))
    for name, (x, y, rows) in parts.items():
        np.save(settings.out / f"x{name}.npy", x[rows, 0])
        np.save(settings.out / f"y{name}.npy", y[rows])
        print(f"x{name}: {len(rows)} spectra of {x.shape[2]}")


if __name__ == "__main__":
    run_main(main)
