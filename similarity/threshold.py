r"""When to answer at all: a threshold for a promised precision, and the probability that an answer is right.

A question is *answerable* if the pool holds a fellow of its group. Below the threshold the reply is "no answer". Of the
questions that are answered, *precision* is the share answered rightly; *coverage* is the share of all questions that
are answered.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from trainer import UserError

Method = Literal["isotonic", "platt"]
ROWS = 256  # questions whose similarities to all are held at a time
CELLS = 1 << 24  # of those similarities, at most


def require_share(flag: str, value: float) -> None:
    """Raise a UserError unless a share is between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"{flag} must be between 0 and 1, got {value}")


@dataclass(frozen=True)
class Trials:
    """What happened when questions were asked: the best similarity of each, whether its answer was right, how much the
    question counts."""

    scores: np.ndarray
    right: np.ndarray
    answerable: np.ndarray
    weights: np.ndarray

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(thresholds, precision, coverage), from the strictest threshold to the loosest; one point a score."""
        order = np.argsort(-self.scores, kind="stable")
        scores, weights = self.scores[order], self.weights[order]
        answered = np.cumsum(weights)
        right = np.cumsum(weights * self.right[order])
        last = np.r_[scores[1:] != scores[:-1], True]  # equal scores are answered together
        return scores[last], (right / answered)[last], (answered / weights.sum())[last]

    def at(self, threshold: float) -> dict[str, float]:
        """Precision and coverage of answering from this similarity on."""
        told = self.scores >= threshold
        answered = float(self.weights[told].sum())
        precision = float((self.weights * self.right)[told].sum()) / answered if answered else float("nan")
        return {"precision": precision, "coverage": answered / float(self.weights.sum())}

    def roc_auc(self) -> float:
        """How often an answerable question scores higher than one without an answer."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(self.answerable, self.scores, sample_weight=self.weights))


def leave_one_out(
    vectors: np.ndarray | Tensor,
    groups: Sequence[Any] | np.ndarray,
    unanswerable_share: float = 0.5,
    most: int | None = None,
) -> Trials:
    """Trials out of a pool itself: each sentence with a fellow asks the others twice, with its fellows there and gone.

    The second time no answer is right, and the pool is as large and as near to the question as the real one. A
    sentence without a fellow asks once, unanswerable.

    Args:
        vectors: (N, D), unit rows.
        groups: N group names; those equal to None have no fellow.
        unanswerable_share: of the questions that will be asked; weighs the two kinds.
        most: sentences that ask; of more, so many are drawn, the same ones each time. All of them are asked.

    Raises:
        UserError: no sentence has a fellow, or a share that is not between 0 and 1.
    """
    require_share("--unanswerable-share", unanswerable_share)
    if not len(groups):
        raise UserError("no question at all: there is nothing to calibrate on")
    rows = torch.as_tensor(vectors, dtype=torch.float32)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    labels = torch.tensor([numbers[name] if name is not None else -1 - i for i, name in enumerate(groups)])
    asking = torch.arange(len(rows))
    if most is not None and len(rows) > most:
        asking = torch.from_numpy(np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False)))
    fellow, stranger = torch.empty(len(rows)), torch.empty(len(rows))
    blocks = asking.split(min(ROWS, max(1, CELLS // max(1, len(rows)))))
    for block in tqdm(blocks, desc="calibrate", disable=len(rows) < 20_000, leave=False):
        similarity = rows[block] @ rows.T
        own = labels[block, None] == labels[None]
        own[torch.arange(len(block)), block] = False
        fellow[block] = similarity.masked_fill(~own, -torch.inf).amax(dim=1)
        own[torch.arange(len(block)), block] = True
        stranger[block] = similarity.masked_fill(own, -torch.inf).amax(dim=1)
    fellow, stranger = fellow[asking], stranger[asking]
    asks = fellow > -torch.inf
    if not asks.any():
        raise UserError(f"none of {len(asking):,} questions shares its answer: there is nothing to calibrate on")
    strangers = torch.where(stranger > -torch.inf, stranger, -1.0).numpy()
    fellows, some = fellow.numpy()[asks], asks.numpy()
    scores = np.concatenate([np.maximum(fellows, strangers[some]), strangers])
    right = np.concatenate([fellows > strangers[some], np.zeros(len(strangers), bool)])
    answerable = np.r_[np.ones(len(fellows), bool), np.zeros(len(strangers), bool)]
    weights = np.where(answerable, (1 - unanswerable_share) / len(fellows), unanswerable_share / len(strangers))
    return Trials(scores, right, answerable, weights)


@dataclass(frozen=True)
class Calibration:
    """A threshold, what it promises, and similarity -> probability that the answer is right.

    Args:
        threshold: the least similarity with which a question is answered.
        precision, coverage: what it had on the trials that it was chosen on.
        unanswerable_share: of the questions, as assumed.
        method: isotonic: straight lines between `points`; platt: 1 / (1 + exp(-(a s + b))), `points` = (a, b).
        points: of the method, (similarity, probability) pairs or (a, b).
    """

    threshold: float
    precision: float
    coverage: float
    unanswerable_share: float
    method: Method
    points: tuple[tuple[float, float], ...]

    @classmethod
    def fit(
        cls, trials: Trials, precision: float = 0.9, unanswerable_share: float = 0.5, method: Method = "isotonic"
    ) -> "Calibration":
        """The loosest threshold that keeps the precision on these trials, and the probabilities.

        Raises:
            UserError: no threshold has that precision; says which the strictest ones have.
        """
        require_share("--precision", precision)
        thresholds, precisions, coverages = trials.curve()
        fine = np.flatnonzero(precisions >= precision)
        if not len(fine):
            raise UserError(
                f"no threshold answers with a precision of {precision}: the best is {precisions.max():.3f}, at "
                f"{thresholds[precisions.argmax()]:.3f}; ask for less, or train longer"
            )
        chosen = int(fine[-1])
        points = _platt(trials) if method == "platt" else _isotonic(trials)
        # halfway to the next score that was not wanted: the next question will not have a score of the trials
        below = thresholds[chosen + 1] if chosen + 1 < len(thresholds) else thresholds[chosen]
        threshold = float(thresholds[chosen] + below) / 2
        return cls(threshold, float(precisions[chosen]), float(coverages[chosen]), unanswerable_share, method, points)

    def probability(self, score: float) -> float:
        """That an answer with this similarity is right, at the assumed share of unanswerable questions."""
        if self.method == "platt":
            [(slope, offset)] = self.points
            return 1 / (1 + math.exp(-max(-700.0, min(700.0, slope * score + offset))))
        scores, probabilities = zip(*self.points, strict=True)
        return float(np.interp(score, scores, probabilities))

    def plain(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Calibration":
        return cls(**{**content, "points": tuple((float(x), float(y)) for x, y in content["points"])})


def _isotonic(trials: Trials) -> tuple[tuple[float, float], ...]:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(trials.scores, trials.right, sample_weight=trials.weights)
    return tuple(zip(map(float, model.X_thresholds_), map(float, model.y_thresholds_), strict=True))


def _platt(trials: Trials) -> tuple[tuple[float, float], ...]:
    from sklearn.linear_model import LogisticRegression

    weights = trials.weights * len(trials.weights) / trials.weights.sum()
    model = LogisticRegression(C=1e4).fit(trials.scores[:, None], trials.right, sample_weight=weights)
    return ((float(model.coef_[0, 0]), float(model.intercept_[0])),)
