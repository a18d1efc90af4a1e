"""Figures of the spectra package; each returns a matplotlib Figure and touches no global state."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from spectra.metrics import Reliability
from spectra.spectrum import CLASSES

Array = np.ndarray


def confusion_figure(counts: Array) -> Figure:
    """Counts, shaded by the share of the true class."""
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(CLASSES)), CLASSES)
    axis.set_yticks(range(len(CLASSES)), CLASSES)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    return figure


def reliability_figure(curves: Mapping[str, Reliability]) -> Figure:
    """Share that is right over the probability given, for each set of class shares."""
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    for name, curve in curves.items():
        seen = curve.weight > 0
        label = f"{name} shares (ECE {curve.error:.3f})"
        axis.plot(curve.confidence[seen], curve.accuracy[seen], marker="o", ms=4, label=label)
    axis.set_xlabel("probability of the predicted class")
    axis.set_ylabel("share that is right")
    axis.legend(fontsize=8)
    return figure


def snr_figure(bins: Sequence[Mapping[str, float]]) -> Figure:
    """F1 of each class over S/N, even shares within a bin."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axis = figure.subplots()
    middle = [np.sqrt(max(row["low"], 0.5) * min(row["high"], 100.0)) for row in bins]
    for name in CLASSES:
        axis.plot(middle, [row[name] for row in bins], marker="o", ms=4, label=name)
    axis.set_xscale("log")
    axis.set_xlabel("median S/N a pixel")
    axis.set_ylabel("F1")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8)
    return figure


def spectrum_figure(
    wavelength: Array,
    flux: Array,
    saliency: Array,
    title: str,
    lines: Mapping[str, float],
    redshift: float,
    bad: Array | None = None,
) -> Figure:
    """A spectrum over vacuum wavelength, the lines of its class at its redshift, and a band of what decided.

    Args:
        wavelength, flux: (L,); angstrom, any unit.
        saliency: (L,) from 0 to 1.
        title: above the figure.
        lines: name -> rest wavelength in vacuum angstrom.
        redshift: at which they are drawn.
        bad: (L,) True where the flux is not to be trusted; drawn grey.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[6, 1])
    upper.plot(wavelength, flux, lw=0.6, color="C0")
    if bad is not None and bad.any():
        upper.plot(np.where(bad, wavelength, np.nan), flux, lw=0.6, color="0.7")
    low, high = np.quantile(flux, [0.005, 0.995])
    upper.set_ylim(low - 0.15 * (high - low), high + 0.45 * (high - low))
    for name, rest in lines.items():
        place = rest * (1 + redshift)
        if wavelength[0] < place < wavelength[-1]:
            upper.axvline(place, color="C3", lw=0.6, alpha=0.6)
            upper.text(place, 0.99, name, rotation=90, va="top", ha="right", fontsize=7, transform=_mixed(upper))
    upper.set_title(title, fontsize=10)
    upper.set_ylabel("flux")
    edges = (wavelength[0], wavelength[-1])
    lower.pcolormesh(
        wavelength, [0, 1], np.stack([saliency, saliency]), cmap="magma", shading="nearest", vmin=0, vmax=1
    )
    lower.set_xlim(*edges)
    lower.set_yticks([])
    lower.set_ylabel("saliency", fontsize=8)
    lower.set_xlabel("vacuum wavelength, angstrom")
    return figure


def _mixed(axis: object) -> object:
    """x in data, y from 0 to 1 over the axis."""
    return axis.get_xaxis_transform()  # type: ignore[attr-defined]
