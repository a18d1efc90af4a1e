r"""Losses on the lengths or activations of class capsules: the margin loss and the spread loss.

Legend: `B` batch, `C` classes. Both are sums over classes and means over the batch, as in the papers.
"""

import torch
from torch import Tensor, nn

from losses.common import check_reduction, reduce, split_labels, working_precision


def capsule_margin(
    lengths: Tensor,
    targets: Tensor,
    positive: float = 0.9,
    negative: float = 0.1,
    down_weight: float = 0.5,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""Margin loss on capsule lengths (Sabour, Frosst, Hinton 2017, eq. 4).

    .. math:: L = \sum_k T_k \max(0, m^+ - |v_k|)^2 + \lambda (1 - T_k) \max(0, |v_k| - m^-)^2

    with T_k 1 where class k is present and 0 elsewhere, m+ = `positive`, m- = `negative`, lambda = `down_weight`.
    Several classes may be present at once.

    *Deviation:* none from the paper. The articles' code (Su 2018, archives 4819 and 5112) has lambda = 0.25, and
    Keras takes the mean over classes too: its number is this one over C.

    Args:
        lengths: (B, C) capsule lengths, within [0, 1).
        targets: (B, C), 1 or True where the class is present (fractions allowed); or (B,) class numbers.
        ignore_index: a class number that leaves its row out; only where targets are class numbers.

    Returns:
        (B,) for `none`, else a scalar; the mean is over the rows that count.

    Raises:
        ValueError: shapes that do not fit, or a class number out of range.
    """
    if lengths.dim() != 2:
        raise ValueError(f"lengths have shape {tuple(lengths.shape)}; expected (batch, classes)")
    lengths = working_precision(lengths)
    batch, num_classes = lengths.shape
    counted = None
    if targets.dim() == 1:
        labels, counted = split_labels(targets, num_classes, ignore_index, (batch,))
        present = torch.zeros_like(lengths).scatter(1, labels[:, None], 1.0)  # (B, C)
    elif targets.shape == lengths.shape:
        present = targets.to(lengths.dtype)
    else:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; expected {(batch, num_classes)} with 1 where a class "
            f"is present, or {(batch,)} class numbers"
        )
    missing = (positive - lengths).relu().square()
    surplus = (lengths - negative).relu().square()
    return reduce((present * missing + down_weight * (1 - present) * surplus).sum(dim=1), reduction, counted)


class CapsuleMarginLoss(nn.Module):
    """Module of :func:`capsule_margin`."""

    def __init__(
        self,
        positive: float = 0.9,
        negative: float = 0.1,
        down_weight: float = 0.5,
        reduction: str = "mean",
        ignore_index: int = -100,
    ):
        super().__init__()
        check_reduction(reduction)
        self.positive, self.negative, self.down_weight = positive, negative, down_weight
        self.reduction, self.ignore_index = reduction, ignore_index

    def forward(self, lengths: Tensor, targets: Tensor) -> Tensor:
        return capsule_margin(
            lengths, targets, self.positive, self.negative, self.down_weight, self.reduction, self.ignore_index
        )


def spread_margin(step: int, num_steps: int, start: float = 0.2, end: float = 0.9) -> float:
    r"""The spread loss's margin at `step`: linear from `start` to `end` over `num_steps`, then constant.

    Hinton, Sabour, Frosst 2018, section 4: a small margin first, or capsules die early in training.

    >>> spread_margin(0, 100), round(spread_margin(50, 100), 3), spread_margin(1000, 100)
    (0.2, 0.55, 0.9)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; expected at least 1")
    done = min(max(step / num_steps, 0.0), 1.0)
    return start + (end - start) * done if done < 1 else end


def spread(
    activations: Tensor,
    labels: Tensor,
    margin: float | Tensor,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""Spread loss (Hinton, Sabour, Frosst 2018, eq. 3).

    .. math:: L = \sum_{i \neq t} \max(0, m - (a_t - a_i))^2

    with a_t the activation of the target class and m the margin, which grows from 0.2 to 0.9 in training
    (:func:`spread_margin`).

    Args:
        activations: (B, C) activations of the class capsules, within [0, 1].
        labels: (B,) class numbers, or `ignore_index`.
        margin: m, a number or a tensor without dimensions (a tensor spares a recompilation a step).

    Returns:
        (B,) for `none`, else a scalar; the mean is over the rows that count. One class alone gives 0.

    Raises:
        ValueError: shapes that do not fit, or a label out of range.
    """
    if activations.dim() != 2:
        raise ValueError(f"activations have shape {tuple(activations.shape)}; expected (batch, classes)")
    activations = working_precision(activations)
    batch, num_classes = activations.shape
    index, counted = split_labels(labels, num_classes, ignore_index, (batch,))
    target = activations.gather(1, index[:, None])  # (B, 1)
    short = (margin - (target - activations)).relu().square()  # (B, C); the target's own entry is m^2
    other = torch.ones_like(activations).scatter(1, index[:, None], 0.0)
    return reduce((short * other).sum(dim=1), reduction, counted)


class SpreadLoss(nn.Module):
    r"""Module of :func:`spread` that keeps the margin: call :meth:`advance` once a training step, or set `margin`.

    The margin is a buffer: it follows the module's device, is saved with it, and changes without recompiling.
    """

    margin: Tensor

    def __init__(
        self,
        start: float = 0.2,
        end: float = 0.9,
        num_steps: int = 20_000,
        reduction: str = "mean",
        ignore_index: int = -100,
    ):
        super().__init__()
        check_reduction(reduction)
        spread_margin(0, num_steps, start, end)  # its check of num_steps, now and not at the first step
        self.start, self.end, self.num_steps = start, end, num_steps
        self.reduction, self.ignore_index = reduction, ignore_index
        self.register_buffer("margin", torch.tensor(float(start)))

    def advance(self, step: int) -> float:
        """Set the margin for `step` (counted from 0) and return it."""
        margin = spread_margin(step, self.num_steps, self.start, self.end)
        self.margin.fill_(margin)
        return margin

    def forward(self, activations: Tensor, labels: Tensor) -> Tensor:
        return spread(activations, labels, self.margin, self.reduction, self.ignore_index)
