r"""Scores of a classifier under class shares of one's choice, with intervals; calibration.

Legend: ``B`` spectra, ``K`` classes.

A survey is nine tenths stars. How often a class is taken for another does not depend on the shares; precision and F1
do. So they are computed from the rates, at the shares that matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

Array = np.ndarray


def confusion(labels: Array, predicted: Array, num_classes: int) -> Array:
    """(K, K) counts: row the true class, column the predicted one."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_f1(counts: Array, shares: Sequence[float] | None = None) -> Array:
    r"""F1 of each class from counts (.., K, K): :math:`2 TP / (T + P)`, 0 for a class never seen and never predicted.

    Args:
        counts: rows the true classes.
        shares: what part of the survey each class is; None: as counted. A class without a spectrum stays without.
    """
    if shares is not None:
        total = counts.sum(axis=-1, keepdims=True)
        counts = counts / np.where(total == 0, 1, total) * np.asarray(shares)[:, None]
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)
    return np.asarray(2 * right / np.where(both == 0, 1, both))


def macro_f1(counts: Array, shares: Sequence[float] | None = None) -> Array:
    """Mean of `class_f1` over the classes."""
    return cast(Array, class_f1(counts, shares).mean(axis=-1))


def bootstrap(
    counts: Array, shares: Sequence[float] | None = None, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the macro-F1: spectra drawn anew, within their class where shares are given."""
    rng = np.random.default_rng(seed)
    if shares is None:
        cells = counts.ravel()
        drawn = rng.multinomial(cells.sum(), cells / cells.sum(), size=draws).reshape(draws, *counts.shape)
    else:
        rows = [rng.multinomial(row.sum(), row / max(row.sum(), 1), size=draws) for row in counts if row.sum()]
        drawn = np.zeros((draws, *counts.shape))
        drawn[:, counts.sum(axis=1) > 0] = np.stack(rows, axis=1)
    low, high = np.quantile(macro_f1(drawn, shares), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def class_weights(labels: Array, shares: Sequence[float]) -> Array:
    """(B,) weights of sum 1 under which the labels have these shares."""
    counts = np.bincount(labels, minlength=len(shares))
    weights = (np.asarray(shares) / np.maximum(counts, 1))[labels]
    return np.asarray(weights / weights.sum())


def log_softmax(logits: Array) -> Array:
    """Along the last axis, stable."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def posterior(logits: Array, temperature: float, trained: Sequence[float], wanted: Sequence[float]) -> Array:
    r"""(B, K) probabilities at other class shares (Saerens et al. 2002): :math:`p_k \propto p_k(z/T)\, \pi'_k / \pi_k`.

    Args:
        logits: of a network trained on batches with the shares ``trained``.
        temperature: T.
        trained, wanted: (K,) shares; of a class that was never trained, the probability is 0.
    """
    shift = np.log(np.maximum(wanted, 1e-12)) - np.log(np.maximum(trained, 1e-12))
    shift = np.where(np.asarray(trained) > 0, shift, -np.inf)
    return np.exp(log_softmax(logits / temperature + shift))


def fit_temperature(logits: Array, labels: Array, weights: Array) -> float:
    """The T of least weighted cross-entropy of softmax(logits / T) (Guo et al. 2017), by golden section in log T.

    The loss has one minimum in 1 / T, being convex there.
    """

    def loss(log_t: float) -> float:
        scores = log_softmax(logits / np.exp(log_t))
        return -float((weights * scores[np.arange(len(labels)), labels]).sum())

    low, high, ratio = np.log(0.05), np.log(20.0), (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True)
class Reliability:
    """Bins of the top probability: mean confidence, share that is right, weight; and their mean distance."""

    confidence: Array
    accuracy: Array
    weight: Array
    error: float


def reliability(probabilities: Array, labels: Array, weights: Array, num_bins: int = 10) -> Reliability:
    """Expected calibration error of the top class (Naeini et al. 2015), in equal bins from 0 to 1."""
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((top * num_bins).astype(int), num_bins - 1)
    weight = np.bincount(place, weights, num_bins)
    safe = np.where(weight > 0, weight, 1)
    confidence = np.bincount(place, weights * top, num_bins) / safe
    accuracy = np.bincount(place, weights * right, num_bins) / safe
    return Reliability(confidence, accuracy, weight, float((weight * np.abs(confidence - accuracy)).sum()))
