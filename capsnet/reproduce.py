"""`make reproduce`: capsules beside the pooling control, trained on single digits, asked about two, three and four.

Uses MNIST where its files are in the data root, and the embedded 8x8 digits otherwise, so that it always runs offline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from capsnet import figures, train
from capsnet.data import has_files
from capsnet.train import table
from trainer import run_main, write_atomically


@dataclass(frozen=True)
class Settings:
    """Train both networks with our recipe and print their tables."""

    data_root: Path = Path("data")
    """folder of the IDX files of MNIST; without them the embedded 8x8 digits are used"""
    out: Path = Path("runs")
    """folder of the runs"""
    epochs: int = 0
    """of each network; 0: 3 on MNIST, 40 on the small digits"""


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run both, print both tables, write the figure of scores by number of digits."""
    settings = tyro.cli(Settings, args=argv, prog="python -m capsnet.reproduce")
    data = "mnist" if has_files(settings.data_root, "mnist") else "digits"
    epochs = settings.epochs or {"mnist": 3, "digits": 40}[data]
    shared = ["--data", data, "--data-root", str(settings.data_root), "--out", str(settings.out), "--overwrite"]
    shared += ["--recipe", "ours", "--epochs", str(epochs), "--precision", "bf16"]
    results = {}
    for name, flags in (("capsules", []), ("cnn", ["--model", "cnn"])):
        print(f"== {name}, {data}, {epochs} epochs")
        results[name] = train.main([*shared, *flags, "--name", f"reproduce-{name}"])["metrics"]
    path = settings.out / "capsnet" / "reproduce.png"
    figure = figures.counts_figure(results)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    for name, values in results.items():
        print(f"\n{name}: trained on single {'MNIST ' if data == 'mnist' else '8x8 '}digits only\n{table(values)}")
    print(f"\nfigure: {path}")
    return results


if __name__ == "__main__":
    run_main(main)
