"""The experiment of archives/4819 and 5112, all of it: every network and recipe over several seeds, as one table.

    python benchmarks/two_digits.py faithful --data-root DATA        # the article's networks and routings
    python benchmarks/two_digits.py ours --data-root DATA            # our recipe, and the control under it
    python benchmarks/two_digits.py ablation --data-root DATA        # our recipe with one thing taken away at a time

A run that is finished with the same settings is not run again, an interrupted one goes on; `--only NAME` runs one row,
and `--table` prints what there is. Work: 231 MFLOP a training image for the article's network (forward and backward,
counted from its four convolutions), 88 MFLOP for ours.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from finished import finished

from capsnet import train
from capsnet.figures import counts_figure
from trainer import parse, run_main

CAPSULE_ROUTINGS = ("kmeans", "fixed_point", "dynamic")
SETS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "faithful": {
        **{routing: ["--routing", routing, "--epochs", "10"] for routing in CAPSULE_ROUTINGS},
        "cnn": ["--model", "cnn", "--epochs", "10"],
    },
    "ours": {"capsules": ["--recipe", "ours"], "cnn": ["--recipe", "ours", "--model", "cnn"]},
    # each row takes one thing away from our recipe; on fewer images and epochs, and scored on validation digits
    "ablation": {
        name: ["--recipe", "ours", "--epochs", "5", "--train-images", "10000", "--final", "validation", *flags]
        for name, flags in {
            "ours": [],
            "fixed_point routing": ["--routing", "fixed_point"],
            "dynamic routing": ["--routing", "dynamic"],
            "no routing (1 iteration)": ["--num-iters", "1"],
            "squash constant 1": ["--squash-constant", "1"],
            "mean pooling (control)": ["--model", "cnn"],
            "no augmentation": ["--shift", "0", "--rotation", "0", "--scale", "0", "--shear", "0", "--wrap", "0"],
            "shift augmentation only": ["--rotation", "0", "--scale", "0", "--shear", "0", "--wrap", "0"],
            "no wrap": ["--wrap", "0"],
            "article's margins": ["--positive", "0.9", "--negative", "0.1", "--down-weight", "0.25"],
        }.items()
    },
}
COLUMNS = ["single", "stacked_2_top", "stacked_2_confident", "stacked_3_top", "stacked_4_top", "stacked_4_confident"]
COLUMNS += ["row_2_top", "row_3_top", "row_4_top", "overlap_2_top"]


@dataclass(frozen=True)
class Settings:
    """Run one set of the experiment and print its table."""

    set: Annotated[Literal["faithful", "ours", "ablation"], tyro.conf.Positional]
    """which rows"""
    data: Literal["mnist", "fashion", "digits"] = "mnist"
    """data set"""
    data_root: Path = Path("data")
    """folder of the IDX files"""
    out: Path = Path("runs/two_digits")
    """folder of the runs"""
    seeds: int = 3
    """runs a row, seeds from 0"""
    only: str = ""
    """run this row alone"""
    precision: Literal["fp32", "bf16"] = "bf16"
    """see capsnet.train"""
    table: bool = False
    """train nothing"""
    figure: Path | None = None
    """draw the scores by number of digits, the faithful and our rows together, into this PNG"""


def run(settings: Settings, name: str, seed: int) -> dict[str, float] | None:
    """Metrics of one run, trained now unless it is finished already."""
    slug = f"{settings.data}-{settings.set}-{name.replace(' ', '_')}-seed{seed}"
    folder = settings.out / "capsnet" / slug
    flags = ["--data", settings.data, "--data-root", str(settings.data_root), "--precision", settings.precision]
    flags += ["--out", str(settings.out), "--name", slug, "--seed", str(seed), *SETS[settings.set][name]]
    if not finished(folder, parse(train.Settings, flags, "", train.RECIPES), but=("data_root",)):
        if settings.table:
            return None
        train.main([*flags, *(["--resume"] if (folder / "last.pt").exists() else [])])
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {**content["metrics"], "seconds": content["seconds"]}


def row(name: str, runs: Sequence[Mapping[str, float]]) -> str:
    """One row of the table: mean and standard deviation over the seeds."""
    cells = []
    for column in [*COLUMNS, "seconds"]:
        values = [metrics[column] for metrics in runs]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 and column != "seconds" else ""
        mean = statistics.mean(values)
        cells.append(f"{mean / 60:.1f} min" if column == "seconds" else f"{mean:.2f}{spread}")
    return f"| {name} | {len(runs)} | " + " | ".join(cells) + " |"


def draw(settings: Settings, path: Path) -> None:
    """Means over the finished runs of every faithful and own row."""
    means = {}
    for kind in ("faithful", "ours"):
        for name in SETS[kind]:
            chosen = replace(settings, set=kind, table=True)  # type: ignore[arg-type]
            runs = [metrics for seed in range(settings.seeds) if (metrics := run(chosen, name, seed))]
            if runs:
                means[f"{kind} {name}"] = {key: statistics.mean(m[key] for m in runs) for key in runs[0]}
    counts_figure(means).savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table in Markdown."""
    settings = tyro.cli(Settings, args=argv)
    names = [settings.only] if settings.only else list(SETS[settings.set])
    found = {name: [m for seed in range(settings.seeds) if (m := run(settings, name, seed))] for name in names}
    print(f"| {settings.set} | seeds | " + " | ".join(COLUMNS) + " | a run |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name, runs in found.items():
        if runs:
            print(row(name, runs))
    if settings.figure is not None:
        draw(settings, settings.figure)


if __name__ == "__main__":
    run_main(main)
