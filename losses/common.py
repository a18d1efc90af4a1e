r"""What every loss here shares: checked labels, the precision to compute in, safe unit vectors and the reduction.

Legend: `B` batch, `C` classes, `D` dimension.
"""

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")


def working_precision(values: Tensor) -> Tensor:
    """Float16 and bfloat16 (autocast) become float32: exponentials and squares of a margin need the digits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    r"""Vectors over their length along `dim`; NaN stays NaN.

    A vector shorter than 1e-12 becomes zero and gets a zero gradient (`torch.nn.functional.normalize` gives it one of
    up to 1e12): the division is by infinity there.
    """
    norm = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / norm.masked_fill(norm <= 1e-12, torch.inf)


# An opaque operator, so that torch.compile keeps it as one node of the graph (no break) and vmap maps over it, while
# the test of the values still runs as plain Python. On a GPU it costs one small copy to the host, and no device assert.
@torch.library.custom_op("losses::in_range", mutates_args=())
def _in_range(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    capturing = labels.is_cuda and torch.cuda.is_current_stream_capturing()  # a captured graph may not wait for the GPU
    if not capturing:
        wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
        if wrong.any():
            index = int(wrong.flatten().nonzero()[0])
            raise ValueError(
                f"label {int(labels.flatten()[index])} at row {index} is outside 0..{num_classes - 1} "
                f"({num_classes} classes); rows to leave out carry ignore_index={ignore_index}"
            )
    return labels.clone()


@_in_range.register_fake
def _(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return torch.empty_like(labels)


@_in_range.register_vmap
def _(
    info: object, in_dims: tuple[int | None, ...], labels: Tensor, num_classes: int, ignore_index: int
) -> tuple[Tensor, int | None]:
    return _in_range(labels, num_classes, ignore_index), in_dims[0]


def split_labels(labels: Tensor, num_classes: int, ignore_index: int, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    r"""Labels that are safe to index with, and which rows count.

    Args:
        labels: (B,) integers, each 0..num_classes-1 or `ignore_index`.
        rows: the shape that labels must have.

    Returns:
        The labels as int64 with 0 in place of `ignore_index`, and the mask (B,) of rows that are not ignored.

    Raises:
        ValueError: labels of another shape or not integers, or a label out of range (named with its row).
    """
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"labels are class numbers of an integer dtype, not {labels.dtype}")
    if tuple(labels.shape) != tuple(rows):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected {tuple(rows)}, one class number a row")
    labels = _in_range(labels.long(), num_classes, ignore_index)
    counted = labels != ignore_index
    return torch.where(counted, labels, 0), counted


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}")


def reduce(loss: Tensor, reduction: str, counted: Tensor | None = None) -> Tensor:
    r"""`none`: the rows, 0 where ignored; `sum`: their sum; `mean`: over the rows that count, and 0 where none does.

    *Deviation:* `torch.nn.functional.cross_entropy` gives NaN for the mean of no rows; here a batch that is
    empty, or ignored as a whole, adds nothing to the loss and stops no training.
    """
    check_reduction(reduction)
    if counted is not None:
        loss = torch.where(counted, loss, 0.0)
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    return total / (max(loss.numel(), 1) if counted is None else counted.sum().clamp(min=1))
