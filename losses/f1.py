r"""Soft macro-F1: a loss on the whole batch. Legend: `B` batch, `C` classes."""

import torch
from torch import Tensor, nn

from losses.common import check_reduction, split_labels, working_precision


def soft_macro_f1(
    probabilities: Tensor,
    labels: Tensor,
    reduction: str = "mean",
    absent: str = "zero",
    ignore_index: int = -100,
) -> Tensor:
    r"""Minus the log of the macro-F1 with soft counts (Su 2018, archives 5505).

    .. math:: L = -\log \frac{1}{K} \sum_k F_k, \quad F_k = \frac{2 \sum_i y_{ik} p_{ik}}{\sum_i (y_{ik} + p_{ik})}

    since F1 = 2 TP / (T + P) with TP the true positives, T the class's rows, P the rows predicted as it.

    **Absent classes.** A class without a row in the batch has F_k = 0 whatever is predicted. `absent="zero"`, the
    article's rule, keeps it among the K = C classes: it adds a constant, and a batch without a class costs more.
    `absent="skip"` takes the mean over the K classes that the labels hold. A batch without rows costs 0.

    *Deviation:* the article guards its denominators with an epsilon of 1e-7 and so comes out up to 1e-6 apart; here
    the log's argument is floored at the smallest normal number of the dtype instead.

    Args:
        probabilities: (B, C), each row a distribution (a softmax).
        labels: (B,) class numbers, or `ignore_index`; or (B, C) with 1 where the class is right.
        reduction: accepted as everywhere and checked; the batch has one loss, so all three give it.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes that do not fit, a label out of range, an unknown rule.
    """
    check_reduction(reduction)
    if absent not in ("zero", "skip"):
        raise ValueError(f"absent is {absent!r}; expected 'zero' or 'skip'")
    if probabilities.dim() != 2:
        raise ValueError(f"probabilities have shape {tuple(probabilities.shape)}; expected (batch, classes)")
    right = working_precision(probabilities)
    if labels.dim() == 1:
        index, counted = split_labels(labels, right.shape[1], ignore_index, right.shape[:1])
        right = torch.where(counted[:, None], right, 0.0)
        truth = torch.zeros_like(right).scatter(1, index[:, None], counted[:, None].to(right.dtype))
    elif labels.shape == right.shape:
        truth = labels.to(right.dtype)
    else:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected {tuple(right.shape[:1])} class numbers")
    return _minus_log_macro_f1(right, truth, absent)


def _minus_log_macro_f1(probabilities: Tensor, truth: Tensor, absent: str) -> Tensor:
    rows = truth.sum(dim=0)  # (C,)
    both = rows + probabilities.sum(dim=0)
    f1 = 2 * (truth * probabilities).sum(dim=0) / torch.where(both == 0, 1.0, both)
    present = (rows > 0).to(f1.dtype)
    classes = f1.numel() if absent == "zero" else present.sum().clamp(min=1)
    macro = f1.sum() / classes
    loss = -macro.clamp(min=torch.finfo(macro.dtype).tiny).log()
    return torch.where(present.any() | macro.isnan(), loss, 0.0 * macro)


class SoftMacroF1Loss(nn.Module):
    """Module of :func:`soft_macro_f1`."""

    def __init__(self, reduction: str = "mean", absent: str = "zero", ignore_index: int = -100):
        super().__init__()
        check_reduction(reduction)
        if absent not in ("zero", "skip"):
            raise ValueError(f"absent is {absent!r}; expected 'zero' or 'skip'")
        self.reduction, self.absent, self.ignore_index = reduction, absent, ignore_index

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        return soft_macro_f1(probabilities, labels, self.reduction, self.absent, self.ignore_index)
