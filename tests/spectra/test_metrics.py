"""Scores against scikit-learn and plain loops; intervals and calibration against what is known in advance."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from spectra.metrics import (
    bootstrap,
    class_f1,
    class_weights,
    confusion,
    fit_temperature,
    log_softmax,
    macro_f1,
    posterior,
    reliability,
)


def draws(num=3000, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, num, p=[0.7, 0.1, 0.1, 0.1])
    predicted = np.where(rng.random(num) < 0.8, labels, rng.integers(0, 4, num))
    return labels, predicted


def test_scores_equal_scikit_learns():
    labels, predicted = draws()
    counts = confusion(labels, predicted, 4)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predicted))
    np.testing.assert_allclose(class_f1(counts), f1_score(labels, predicted, average=None))
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_other_shares_are_weights():
    labels, predicted = draws()
    shares = (0.1, 0.2, 0.3, 0.4)
    expected = f1_score(labels, predicted, average="macro", sample_weight=class_weights(labels, shares))
    assert macro_f1(confusion(labels, predicted, 4), shares) == pytest.approx(expected)
    weights = class_weights(labels, shares)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(labels, weights), shares)


def test_a_class_that_is_not_there_has_f1_of_zero():
    counts = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 4)
    np.testing.assert_allclose(class_f1(counts), [2 / 3, 2 / 3, 0, 0])
    np.testing.assert_allclose(class_f1(counts, (0.5, 0.5, 0, 0)), [2 / 3, 0.8, 0, 0])  # by hand: 2*.25/(.5+.25); ..


@pytest.mark.parametrize("shares", [None, (0.25, 0.25, 0.25, 0.25)])
def test_the_interval_covers_as_often_as_it_says(shares):
    """Of 200 samples of one known population, the 90 % interval of about 90 % holds the true macro-F1."""
    big = confusion(*draws(2_000_000, seed=9), 4)
    truth, inside = float(macro_f1(big, shares)), 0
    for seed in range(200):
        low, high = bootstrap(confusion(*draws(1500, seed=seed), 4), shares, draws=300, seed=seed, level=0.9)
        inside += low <= truth <= high
    assert 165 <= inside <= 195  # binomial of 200 and 0.9: 180 +- 4.2


def test_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    chances = np.exp(log_softmax(logits))
    labels = (chances.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    weights = np.full(20_000, 1 / 20_000)
    assert fit_temperature(3 * logits, labels, weights) == pytest.approx(3, rel=0.03)  # 20,000 draws
    assert fit_temperature(logits, labels, weights) == pytest.approx(1, rel=0.03)


def test_posterior_at_other_shares_is_bayes():
    logits = np.array([[1.0, 0.0, -1.0, 0.5]])
    trained, wanted = (0.4, 0.2, 0.2, 0.2), (0.1, 0.3, 0.3, 0.3)
    p = np.exp(log_softmax(logits))[0]
    expected = [p[k] * wanted[k] / trained[k] for k in range(4)]
    found = posterior(logits, 1.0, trained, wanted)[0]
    np.testing.assert_allclose(found, np.array(expected) / sum(expected))
    np.testing.assert_allclose(posterior(logits, 1.0, trained, trained)[0], p)
    assert posterior(logits, 1.0, trained, (1.0, 0, 0, 0))[0, 0] == pytest.approx(1)
    assert np.isfinite(posterior(1e4 * logits, 1.0, trained, wanted)).all()


def test_a_class_that_was_not_trained_cannot_win():
    logits = np.array([[1.0, 0.0, -1.0, 0.5], [-50.0, -40.0, -60.0, 900.0]])
    found = posterior(logits, 1.0, (0.5, 0.3, 0.2, 0.0), (0.25, 0.25, 0.25, 0.25))
    expected = np.exp(logits[0, :3]) / np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(found[0], [*expected / expected.sum(), 0])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[:, 3] == 0).all()


def test_reliability_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 1])
    curve = reliability(probabilities, labels, np.full(4, 0.25), num_bins=10)
    np.testing.assert_allclose(curve.weight[[6, 7, 9]], [0.25, 0.25, 0.5])
    np.testing.assert_allclose(curve.accuracy[[6, 7, 9]], [1, 1, 0.5])
    assert curve.error == pytest.approx(0.25 * 0.4 + 0.25 * 0.3 + 0.5 * abs(0.925 - 0.5))
