"""Real spectra that no run was trained on: how many stars and quasars a run gets right, and which it does not.

    python benchmarks/spectra_real.py RUN.. --folder DATA/spectra

The folder holds lamost/ and sdss/; the class of a file's own header is the truth. Even class shares are assumed, since
the two sets are nothing but stars and all but nothing but quasars.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from spectra.evaluate import EVEN, load_run, logits_of
from spectra.metrics import posterior
from spectra.predict import decide, prepare
from spectra.redshift import estimate
from spectra.spectrum import CLASSES
from spectra.survey import median_snr
from trainer import run_main


@dataclass(frozen=True)
class Settings:
    """Real stars and quasars, right or wrong."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs"""
    folder: Path = Path("data/spectra")
    """with lamost/ and sdss/"""
    least: float = 0.0
    """a class below this probability is called unknown; 0: the likeliest class, as in the article"""


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, tuple[int, int]]]:
    """Print a line a run and class, then each failure."""
    settings = tyro.cli(Settings, args=argv)
    paths = sorted(settings.folder.glob("lamost/*.fits*")) + sorted(settings.folder.glob("sdss/*.fits*"))
    results = {}
    for run in settings.runs:
        classifier = load_run(run)
        items = [prepare(path, classifier.preprocessing, {}) for path in paths]
        items = [item for item in items if item.problem == "" or print(f"left out: {item.problem}")]
        inputs = np.stack([item.inputs for item in items])
        logits = logits_of(classifier.model, inputs, bf16=classifier.settings["precision"] == "bf16")
        probabilities = posterior(logits, classifier.temperature, classifier.shares, EVEN)
        right: dict[str, list[bool]] = defaultdict(list)
        redshifts: dict[str, list[bool]] = defaultdict(list)
        lines = []
        for item, chances, label in zip(items, probabilities, decide(probabilities, settings.least), strict=True):
            meta = item.spectrum.meta
            truth = meta["class"].strip().lower()
            key = f"{item.path.parent.name} {truth}"
            right[key].append(CLASSES[label] == truth)
            z, _ = estimate(item.spectrum, truth)
            redshifts[key].append(abs(z - meta["z"]) < (0.002 if truth == "star" else 0.03) * (1 + meta["z"]))
            if not right[key][-1]:
                shown = " ".join(f"{p:.2f}" for p in chances)
                about = f"{meta.get('subclass', '').strip()} z {meta['z']:.3f} S/N {median_snr(item.spectrum):.1f}"
                lines.append(f"  {item.path.name}: {truth} ({about}) -> {CLASSES[label]} ({shown})")
        results[str(run)] = {key: (sum(values), len(values)) for key, values in right.items()}
        print(run)
        for key, values in right.items():
            z = f"redshift within bounds {sum(redshifts[key])} of {len(values)}"
            print(f"  {key}: {sum(values)} of {len(values)} right ({100 * np.mean(values):.1f} %); {z}")
        print("\n".join(lines))
    return results


if __name__ == "__main__":
    run_main(main)
