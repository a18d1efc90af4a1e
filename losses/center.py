r"""Center loss: features are drawn to the centre of their class. Legend: `B` batch, `C` classes, `D` dimension."""

import torch.nn.functional as F
from torch import Tensor, empty, nn

from losses.common import check_reduction, reduce, split_labels, working_precision


def center(
    features: Tensor, labels: Tensor, centers: Tensor, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""Center loss (Wen et al. 2016, eq. 2; archives 4493): L = ||x - c_y||^2.

    It is a second term beside a classifier's loss; the article adds it with weight 0.2. Only the centres of the batch
    are looked up: nothing of (B, C) is built.

    *Deviation:* as in the article there is no factor 1/2, and the centres learn by this gradient under the common
    optimiser; the paper moves them by a rule of its own (its eq. 4).

    Args:
        features: (B, D).
        labels: (B,) class numbers, or `ignore_index`.
        centers: (C, D), one row a class; trainable.

    Returns:
        (B,) for `none`, else a scalar; the mean is over the rows that count, 0 where none does.

    Raises:
        ValueError: shapes that do not fit, or a label out of range.
    """
    if features.dim() != 2 or centers.dim() != 2 or features.shape[1] != centers.shape[1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, centers {tuple(centers.shape)}; "
            "expected (batch, dim) and (classes, dim)"
        )
    index, counted = split_labels(labels, centers.shape[0], ignore_index, features.shape[:1])
    away = working_precision(features) - working_precision(F.embedding(index, centers))  # (B, D)
    return reduce(away.square().sum(dim=1), reduction, counted)


class CenterLoss(nn.Module):
    """:func:`center` with its centres as a parameter, drawn from U(-0.05, 0.05) as a Keras embedding is."""

    def __init__(self, num_classes: int, dim: int, reduction: str = "mean", ignore_index: int = -100):
        super().__init__()
        check_reduction(reduction)
        self.reduction, self.ignore_index = reduction, ignore_index
        self.centers = nn.Parameter(empty(num_classes, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.centers, -0.05, 0.05)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return center(features, labels, self.centers, self.reduction, self.ignore_index)
