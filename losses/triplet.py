r"""The triplet loss on cosines that the article trains question answering with."""

from torch import Tensor, nn

from losses.common import check_reduction, reduce, unit, working_precision


def cosine_triplet(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.1, reduction: str = "mean"
) -> Tensor:
    r"""Triplet loss on cosines (Su 2017, archives 4493).

    .. math:: L = \max(0, m + \cos(q, a^-) - \cos(q, a^+))

    with q the anchor (a question), a+ its answer, a- a wrong one and m the margin. A zero vector has cosine 0 with
    every other, and no gradient.

    Args:
        anchor, positive, negative: (..., D), the same number of dimensions; the leading ones broadcast, so (B, 1, D)
            with (B, K, D) sets K wrong answers beside one question.
        margin: m, 0 to 2.

    Returns:
        the broadcast leading shape for `none`, else a scalar; the mean of no triplet is 0.

    Raises:
        ValueError: shapes that do not fit, or a margin out of range.
    """
    _check_margin(margin)
    shapes = [tuple(vectors.shape) for vectors in (anchor, positive, negative)]
    leading = zip(*(shape[:-1] for shape in shapes), strict=False)
    fits = len({shape[-1:] for shape in shapes}) == 1 and all(len({*sizes} - {1}) <= 1 for sizes in leading)
    # (B, D) beside (B, K, D) would broadcast where B = K, and pair each question with another one's answers
    if not fits or len({len(shape) for shape in shapes}) > 1 or shapes[0] == ():
        raise ValueError(
            f"anchor, positive, negative have shapes {shapes}; expected (..., D) each, with the same number of "
            "dimensions, equal or 1 but for the last"
        )
    query, right, wrong = (unit(working_precision(vectors)) for vectors in (anchor, positive, negative))
    return reduce((margin + (query * wrong).sum(dim=-1) - (query * right).sum(dim=-1)).relu(), reduction)


def _check_margin(margin: float) -> None:
    if not 0 <= margin <= 2:
        raise ValueError(f"margin is {margin}; expected 0 to 2, what cosines can differ by")


class CosineTripletLoss(nn.Module):
    """Module of :func:`cosine_triplet`."""

    def __init__(self, margin: float = 0.1, reduction: str = "mean"):
        super().__init__()
        check_reduction(reduction)
        _check_margin(margin)
        self.margin, self.reduction = margin, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return cosine_triplet(anchor, positive, negative, self.margin, self.reduction)
