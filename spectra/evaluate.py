"""Score a trained run on a survey: macro-F1 with an interval at two sets of class shares, classes, calibration, S/N.

python -m spectra.evaluate runs/spectra/train-ours-seed0 --data data/test
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import nn
from tqdm import tqdm

from spectra import figures
from spectra.data import prepared
from spectra.metrics import Reliability, bootstrap, class_f1, class_weights, confusion, macro_f1, posterior, reliability
from spectra.network import SpectraNet
from spectra.preprocess import Preprocessing
from spectra.spectrum import CLASSES, SURVEY_SHARES
from spectra.survey import open_survey
from trainer import entries_of, load_checkpoint, load_weights, run_main, write_atomically, write_json

Array = np.ndarray
EVEN = (0.25, 0.25, 0.25, 0.25)
SNR_EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 40.0, 1e9)


@dataclass(frozen=True)
class Settings:
    """Print the scores of a trained run and write its figures and evaluation.json."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run, or a checkpoint in it"""
    data: Path = Path("data/test")
    """folder of a survey that the run was not trained on"""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network with all that belongs to it."""

    model: nn.Module
    preprocessing: Preprocessing
    temperature: float
    shares: tuple[float, ...]  # of the classes in its training batches
    settings: dict[str, Any]
    folder: Path


def build(settings: Mapping[str, Any]) -> SpectraNet:
    """The network of these settings (of the command line, or of a checkpoint)."""
    channels = Preprocessing.from_plain(settings["preprocessing"]).channels
    options = {key: settings[key] for key in ("widths", "dilations", "kernel", "dropout")}
    return SpectraNet(len(CLASSES), in_channels=channels, **options)


def load_run(path: Path) -> Classifier:
    """The classifier of a run, from its best.pt or the checkpoint named, in evaluation mode.

    Raises:
        UserError: none there, one that is not whole, or one of another network.
    """
    path = path / "best.pt" if path.is_dir() else path
    checkpoint = load_checkpoint(path, "SpectraNet")
    with entries_of(path):
        settings = checkpoint["settings"]
        model = build(settings)
        load_weights(model, checkpoint["model"], path)
        preprocessing = Preprocessing.from_plain(settings["preprocessing"])
        shares = tuple(settings["shares"])
    return Classifier(
        model.eval(), preprocessing, float(checkpoint.get("temperature", 1.0)), shares, settings, path.parent
    )


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Array, rows: Array | None = None, bf16: bool = False) -> Array:
    """(B, K) float64 of (N, C, L) inputs, or of some of their rows, in batches."""
    rows = np.arange(len(inputs)) if rows is None else rows
    device = next(model.parameters()).device
    found = []
    for begin in tqdm(range(0, len(rows), 64), desc="classifying", leave=False, delay=2):
        batch = torch.from_numpy(np.array(inputs[rows[begin : begin + 64]])).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found.append(model(batch).float().cpu().numpy())
    return np.concatenate(found).astype(np.float64)


def score(probabilities: Array, labels: Array, shares: Sequence[float]) -> dict[str, Any]:
    """Macro-F1 and its interval, F1 of each class, accuracy and calibration error at these class shares."""
    counts = confusion(labels, probabilities.argmax(axis=1), len(CLASSES))
    weights = class_weights(labels, shares)
    low, high = bootstrap(counts, shares)
    right = probabilities.argmax(axis=1) == labels
    return {
        "macro_f1": float(macro_f1(counts, shares)),
        "macro_f1_low": low,
        "macro_f1_high": high,
        **{f"f1_{name}": float(f1) for name, f1 in zip(CLASSES, class_f1(counts, shares), strict=True)},
        "accuracy": float((weights * right).sum()),
        "calibration_error": reliability(probabilities, labels, weights).error,
    }


def by_snr(labels: Array, predicted: Array, snr: Array) -> list[dict[str, float]]:
    """Of each interval of S/N with fifty spectra and more: their number and each class's F1 (nan: below ten of it)."""
    rows = []
    for low, high in pairwise(SNR_EDGES):
        inside = (snr >= low) & (snr < high)
        if inside.sum() < 50:
            continue
        counts = confusion(labels[inside], predicted[inside], len(CLASSES))
        few = counts.sum(axis=1) < 10
        f1 = np.where(few, np.nan, class_f1(counts, np.where(few, 0, 1) / max((~few).sum(), 1)))
        named = {name: float(f) for name, f in zip(CLASSES, f1, strict=True)}
        rows.append({"low": low, "high": high, "num": int(inside.sum()), **named})
    return rows


def table(values: Mapping[str, Any]) -> str:
    """The scores of `report` as text."""
    head = f"{'class shares':>14} {'macro-F1':>9} {'95 % interval':>17} " + " ".join(f"{c:>8}" for c in CLASSES)
    lines = [head + f" {'accuracy':>9} {'ECE':>7}"]
    for name in ("survey", "even"):
        v = {key.removeprefix(f"{name}_"): value for key, value in values.items() if key.startswith(f"{name}_")}
        interval = f"{v['macro_f1_low']:.4f} to {v['macro_f1_high']:.4f}"
        each = " ".join(f"{v[f'f1_{c}']:8.4f}" for c in CLASSES)
        numbers = f"{v['accuracy']:9.4f} {v['calibration_error']:7.4f}"
        lines.append(f"{name:>14} {v['macro_f1']:9.4f} {interval:>17} {each} {numbers}")
    return "\n".join(lines)


def report(path: Path, data: Path, with_figures: bool = True) -> dict[str, float]:
    """Score a run on a survey at the survey's shares and at even ones; print, and write figures beside the run.

    The probabilities are those of the shares in question: trained at one, shifted to the other.
    """
    classifier = load_run(path)
    survey = open_survey(data)
    inputs = prepared(survey, classifier.preprocessing)
    logits = logits_of(classifier.model, inputs, bf16=classifier.settings["precision"] == "bf16")
    labels = np.asarray(survey.labels)
    counts = confusion(labels, logits.argmax(axis=1), len(CLASSES))
    low, high = bootstrap(counts)
    values: dict[str, float] = {"macro_f1": float(macro_f1(counts)), "macro_f1_low": low, "macro_f1_high": high}
    curves: dict[str, Reliability] = {}
    for name, shares in (("survey", SURVEY_SHARES), ("even", EVEN)):
        probabilities = posterior(logits, classifier.temperature, classifier.shares, shares)
        values |= {f"{name}_{key}": value for key, value in score(probabilities, labels, shares).items()}
        curves[name] = reliability(probabilities, labels, class_weights(labels, shares))
        if name == "survey":
            counts = confusion(labels, probabilities.argmax(axis=1), len(CLASSES))
            bins = by_snr(labels, probabilities.argmax(axis=1), np.asarray(survey.snr))
    print(f"{data}: {len(labels)} spectra; as trained, macro-F1 {values['macro_f1']:.4f} ({low:.4f} to {high:.4f})")
    print(table(values))
    if with_figures:
        _write(classifier.folder, counts, curves, bins)
    return values


def _write(folder: Path, counts: Array, curves: Mapping[str, Reliability], bins: Sequence[Mapping[str, float]]) -> None:
    pictures = {
        "confusion": figures.confusion_figure(counts),
        "reliability": figures.reliability_figure(curves),
        "f1_by_snr": figures.snr_figure(bins),
    }
    for name, figure in pictures.items():
        write_atomically(
            folder / "figures" / f"{name}.png", lambda file, f=figure: f.savefig(file, format="png", dpi=120)
        )
    print(f"figures: {folder / 'figures'}")


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate a run on a survey; writes evaluation.json beside its metrics."""
    settings = tyro.cli(Settings, args=argv, prog="python -m spectra.evaluate")
    values = report(settings.run, settings.data)
    folder = settings.run if settings.run.is_dir() else settings.run.parent
    write_json(folder / "evaluation.json", values)
    return values


if __name__ == "__main__":
    run_main(main)
