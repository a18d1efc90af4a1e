"""One thing at a time changed in our recipe for spectra, scored on the validation part of the training survey alone.

    python benchmarks/spectra_ablation.py --data data/train    # seven rows, one to four minutes of a core each

The macro-F1 is at the article's class shares, probabilities calibrated and shifted to them, and at even ones, as
trained, after each stage. A finished run is not run again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from finished import finished

from spectra import train
from trainer import parse, run_main

RECIPE = ("--recipe", "ours", "--precision", "bf16", "--epochs", "3", "--f1-epochs", "1", "--epoch-steps", "240")
ROWS: dict[str, tuple[str, ...]] = {
    "our recipe": (),
    "noise channel": ("--noise-channel",),
    "no augmentation": ("--redshift-jitter", "0", "--noise", "0", "--splice", "0"),
    "dilations 1 4 16": ("--dilations", "1", "4", "16"),
    "half as wide again": ("--widths", "24", "24", "48", "48", "96", "96", "192", "192"),
    "the article's flux / 100": ("--normalisation", "scale", "--noise", "0"),
    "the article's batches": ("--shares", "0.8", "0.1", "0.05", "0.05"),
}


@dataclass(frozen=True)
class Settings:
    """Ablation on validation spectra."""

    data: Path = Path("data/train")
    """folder of a survey"""
    out: Path = Path("runs")
    """folder of the runs"""
    seeds: tuple[int, ...] = (0,)
    only: str = ""
    """just the rows with this in their name"""


def main(argv: Sequence[str] | None = None) -> None:
    settings = tyro.cli(Settings, args=argv)
    print("| changed | seed | stage 1: article's shares, even | stage 2 | seconds |\n|---|---|---|---|---|")
    for seed in settings.seeds:
        for row, flags in ROWS.items():
            if settings.only not in row:
                continue
            name = f"ablation-{row.replace(' ', '-').replace('/', 'by')}-seed{seed}"
            folder = settings.out / "spectra" / name
            flags = [*RECIPE, *flags, "--data", str(settings.data), "--out", str(settings.out)]
            flags += ["--seed", str(seed), "--name", name, "--overwrite"]
            wanted = parse(train.Settings, flags, "", train.RECIPES)
            if not finished(folder, wanted, but=("epochs",)):  # the second stage's there, the first's here
                train.main(flags)
            content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            stages = [
                f"{content['metrics'][f'{stage}validation_survey_macro_f1']:.3f}, "
                f"{content['metrics'][f'{stage}validation_macro_f1_even']:.3f}"
                for stage in ("stage1_", "")
            ]
            print(f"| {row} | {seed} | {' | '.join(stages)} | {content['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    run_main(main)
