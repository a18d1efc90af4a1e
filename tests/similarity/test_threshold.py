"""Trials, curves and calibration against plain loops and on simulated scores of known probability."""

import numpy as np
import pytest

from similarity import threshold
from similarity.threshold import Calibration, Trials, leave_one_out
from trainer import UserError


def plain_trials(vectors, groups):
    scores, right, answerable = [], [], []
    for mode in ("with", "without"):
        for i in range(len(groups)):
            own = [float(vectors[i] @ vectors[j]) for j in range(len(groups)) if j != i and groups[j] == groups[i]]
            other = [float(vectors[i] @ vectors[j]) for j in range(len(groups)) if groups[j] != groups[i]]
            if mode == "with" and own:
                scores.append(max(own + other))
                right.append(max(own) > max(other))
                answerable.append(True)
            if mode == "without":
                scores.append(max(other))
                right.append(False)
                answerable.append(False)
    return scores, right, answerable


def test_leave_one_out_equals_plain_loops():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 5))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    groups = rng.integers(0, 15, 40)
    scores, right, answerable = plain_trials(vectors, groups)
    trials = leave_one_out(vectors, groups, unanswerable_share=0.3)
    np.testing.assert_allclose(trials.scores, scores, atol=1e-6)
    assert trials.right.tolist() == right
    assert trials.answerable.tolist() == answerable
    assert trials.weights[trials.answerable].sum() == pytest.approx(0.7)
    assert trials.weights[~trials.answerable].sum() == pytest.approx(0.3)


def test_sentences_without_a_group_are_strangers_to_each_other():
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = vectors[0]
    trials = leave_one_out(vectors, ["a", "a", None, None])
    assert trials.answerable.sum() == 2
    assert trials.right[:2].all()
    with pytest.raises(UserError, match="nothing to calibrate on"):
        leave_one_out(vectors, [None] * 4)
    with pytest.raises(UserError, match="no question at all: there is nothing to calibrate on"):
        leave_one_out(np.empty((0, 4), np.float32), [])
    with pytest.raises(UserError, match="--unanswerable-share must be between 0 and 1, got 1"):
        leave_one_out(vectors, ["a", "a", "b", "b"], 1)


def test_a_sample_asks_all_and_is_the_same_each_time(monkeypatch):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(300, 5)).astype(np.float32)
    groups = rng.integers(0, 100, 300)
    whole, some, again = (leave_one_out(vectors, groups, most=most) for most in (300, 50, 50))
    assert (some.answerable == 0).sum() == 50
    asked = np.random.default_rng(0).choice(300, 50, replace=False)
    expected = whole.scores[~whole.answerable][np.sort(asked)]  # what everyone's nearest stranger is
    np.testing.assert_allclose(some.scores[~some.answerable], expected, atol=1e-6)  # another block, other sums
    assert np.array_equal(some.scores, again.scores)
    monkeypatch.setattr(threshold, "CELLS", 1500)  # five rows at a time
    np.testing.assert_allclose(leave_one_out(vectors, groups).scores, whole.scores, atol=1e-6)


def test_the_curve_by_hand():
    trials = Trials(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 0], bool), np.ones(4, bool), np.ones(4) / 4)
    thresholds, precision, coverage = trials.curve()
    assert thresholds.tolist() == [0.9, 0.5, 0.1]
    np.testing.assert_allclose(precision, [1, 2 / 3, 1 / 2])
    np.testing.assert_allclose(coverage, [0.25, 0.75, 1])
    for t, p, c in zip(thresholds, precision, coverage, strict=True):
        assert trials.at(t) == pytest.approx({"precision": p, "coverage": c})
    chosen = Calibration.fit(trials, 0.6, 0.5)
    assert (chosen.precision, chosen.coverage) == pytest.approx((2 / 3, 0.75))
    assert 0.1 < chosen.threshold <= 0.5
    assert np.isnan(trials.at(0.95)["precision"])


def simulated(seed: int, count: int = 20_000) -> Trials:
    """Scores uniform on 0..1; an answer is right with probability score**2."""
    rng = np.random.default_rng(seed)
    scores = rng.random(count)
    right = rng.random(count) < scores**2
    return Trials(scores, right, right | (rng.random(count) < 0.3), np.full(count, 1 / count))


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_the_promise_holds_on_other_questions_and_probabilities_are_right(method):
    chosen = Calibration.fit(simulated(0), 0.8, 0.5, method)
    # right answers above t: integral of s^2 = (1 - t^3) / (3 (1 - t)) = 0.8 at t = 0.788
    assert chosen.threshold == pytest.approx(0.788, abs=0.02)
    kept = simulated(1).at(chosen.threshold)
    assert kept["precision"] == pytest.approx(0.8, abs=0.02)  # 4,200 answers: a standard error of 0.006
    for score in (0.3, 0.6, 0.9):
        # a logistic curve is not a parabola: Platt's is allowed to be off by more
        assert chosen.probability(score) == pytest.approx(score**2, abs=0.03 if method == "isotonic" else 0.08)
    steps = [chosen.probability(s) for s in np.linspace(-1, 2, 50)]
    assert steps == sorted(steps)
    assert 0 <= steps[0] <= steps[-1] <= 1
    assert Calibration.from_plain(chosen.plain()) == chosen


def test_promises_that_cannot_be_kept():
    with pytest.raises(UserError, match=r"no threshold answers with a precision of 0.9: the best is 0.000"):
        Calibration.fit(Trials(np.array([0.5, 0.4]), np.zeros(2, bool), np.ones(2, bool), np.ones(2) / 2), 0.9)
    with pytest.raises(UserError, match="--precision must be between 0 and 1, got 1"):
        Calibration.fit(simulated(0, 100), 1)


def test_roc_auc_equals_counting_pairs():
    trials = simulated(3, 200)
    some, none = trials.scores[trials.answerable], trials.scores[~trials.answerable]
    counted = np.mean([a > b for a in some for b in none])
    assert trials.roc_auc() == pytest.approx(counted)
