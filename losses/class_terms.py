r"""What a margin loss needs from all classes, two numbers a row, with (N, C) in memory or without.

.. math:: others_n = \log\sum_{j \ne y_n} e^{s \cos_{nj}}, \qquad target_n = \cos_{n y_n}

The margin, psi, is applied to `target` afterwards, so one routine serves the whole family, and a share of the classes
(a chunk, a rank's shard) contributes a share of `others`: shares add up in a log-sum-exp.

Legend: `N` rows, `C` classes, `K` sub-centres a class (rows jK .. jK+K-1 of the weight are those of class j), `D`
dimension, `y` the class of a row, -1 where the class is not among these C.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.common import unit


def terms_of(cosine: Tensor, index: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`others` and `target`, (N,) each, from all cosines (N, C): the readable form of everything below."""
    held = index >= 0
    place = index.clamp(min=0)[:, None]
    target = cosine.gather(1, place).squeeze(1)  # (N,)
    masked = (scale * cosine).scatter(1, place, torch.where(held, -torch.inf, scale * target)[:, None])
    return masked.logsumexp(dim=1), torch.where(held, target, 0.0)


def dense_terms(
    embeddings: Tensor,
    weight: Tensor,
    index: Tensor,
    scale: float,
    sub_centers: int,
    normalize: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    r"""Both terms through the matrix of all cosines.

    Args:
        embeddings: (N, D), unit rows.
        weight: (C K, D); its rows are made unit here if `normalize`, else they are taken to be.
        index: (N,) classes y.
        dtype: what the product is computed in (bfloat16 under autocast); everything else is in that of `embeddings`.
    """
    rows = unit(weight.to(embeddings.dtype)) if normalize else weight
    cosine = F.linear(embeddings.to(dtype), rows.to(dtype)).to(embeddings.dtype)  # (N, C K)
    if sub_centers > 1:
        cosine = cosine.unflatten(1, (-1, sub_centers)).max(dim=2).values  # (N, C): the nearest centre of each class
    return terms_of(cosine, index, scale)


def chunked_terms(
    embeddings: Tensor,
    weight: Tensor,
    index: Tensor,
    scale: float,
    sub_centers: int,
    normalize: bool,
    dtype: torch.dtype,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    r"""As :func:`dense_terms`, `chunk_size` classes at a time: never more than (N, chunk_size K) logits in memory.

    Forward keeps a running maximum and sum (online log-sum-exp: Milakov and Gimelshein 2018, algorithm 3), backward
    computes each chunk's logits again: 8 N C D multiply-adds in place of 6. Not differentiable twice.
    """
    return _chunked(embeddings, weight, index, scale, sub_centers, normalize, dtype, chunk_size)


def _rows(weight: Tensor, chunk: slice, like: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """The chunk's rows, unit if asked for, and the lengths they were divided by."""
    rows = weight[chunk].to(like.dtype)
    if not normalize:
        return rows, rows.new_ones(1)
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    norm = norm.masked_fill(norm <= 1e-12, torch.inf)  # as in losses.common.unit
    return rows / norm, norm


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    return left @ right if dtype == left.dtype else (left.to(dtype) @ right.to(dtype)).to(left.dtype)


def _chunks(index: Tensor, num_classes: int, size: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """(first class, number of classes, which rows have their class there (N,), its place in the chunk (N, 1))."""
    for start in range(0, num_classes, size):
        count = min(size, num_classes - start)
        place = index - start
        here = (place >= 0) & (place < count)
        yield start, count, here, torch.where(here, place, 0)[:, None]


# Opaque operators: torch.compile keeps each as one node of the graph instead of unrolling the chunks.
@torch.library.custom_op("losses::chunked_terms", mutates_args=())
def _chunked(
    embeddings: Tensor,
    weight: Tensor,
    index: Tensor,
    scale: float,
    sub_centers: int,
    normalize: bool,
    dtype: torch.dtype,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    scaled = scale * embeddings
    highest = scaled.new_full((len(scaled),), -torch.inf)  # (N,) over the chunks so far
    total = torch.zeros_like(highest)  # (N,) sum of exp(logit - highest)
    target = torch.zeros_like(highest)
    for start, count, here, place in _chunks(index, len(weight) // sub_centers, chunk_size):
        chunk = slice(start * sub_centers, (start + count) * sub_centers)
        logits = _product(scaled, _rows(weight, chunk, scaled, normalize)[0].T, dtype)
        if sub_centers > 1:
            logits = logits.unflatten(1, (-1, sub_centers)).amax(dim=2)  # (N, count)
        own = logits.gather(1, place).squeeze(1)
        target = torch.where(here, own, target)
        logits.scatter_(1, place, torch.where(here, -torch.inf, own)[:, None])
        before, highest = highest, torch.maximum(highest, logits.amax(dim=1))
        shift = highest.masked_fill(highest == -torch.inf, 0.0)  # a row may have no other class yet
        total = total * (before - shift).exp() + logits.sub_(shift[:, None]).exp_().sum(dim=1)
    return highest.masked_fill(highest == -torch.inf, 0.0) + total.log(), target / scale


@_chunked.register_fake
def _(embeddings: Tensor, weight: Tensor, index: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return embeddings.new_empty(embeddings.shape[0]), embeddings.new_empty(embeddings.shape[0])


@torch.library.custom_op("losses::chunked_terms_backward", mutates_args=())
def _chunked_backward(
    grad_others: Tensor,
    grad_target: Tensor,
    others: Tensor,
    embeddings: Tensor,
    weight: Tensor,
    index: Tensor,
    scale: float,
    sub_centers: int,
    normalize: bool,
    dtype: torch.dtype,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    scaled = scale * embeddings
    weighted = grad_others[:, None] * scaled  # (N, D): a row's factor meets N D numbers here, not N C below
    finite = others.masked_fill(others == -torch.inf, 0.0)[:, None]
    summed = torch.zeros_like(embeddings)  # sum_j share_nj w_j
    from_target = torch.zeros_like(embeddings)
    grad_weight = torch.empty_like(weight)
    for start, count, here, place in _chunks(index, len(weight) // sub_centers, chunk_size):
        chunk = slice(start * sub_centers, (start + count) * sub_centers)
        rows, norm = _rows(weight, chunk, scaled, normalize)
        share = _product(scaled, rows.T, dtype)
        nearest = None
        if sub_centers > 1:
            share, nearest = share.unflatten(1, (-1, sub_centers)).max(dim=2)
        share.sub_(finite).exp_()  # softmax over the other classes, (N, count)
        share.scatter_(1, place, share.gather(1, place).masked_fill(here[:, None], 0.0))
        own = place.squeeze(1)
        if nearest is not None:
            own = own * sub_centers + nearest.gather(1, place).squeeze(1)
            spread = share.new_zeros(len(share), count, sub_centers)
            share = spread.scatter_(2, nearest[..., None], share[..., None]).flatten(1)  # (N, count K)
        pull = torch.where(here, grad_target, 0.0)[:, None]
        summed += _product(share, rows, dtype)
        from_target += pull * rows[own]
        grad_rows = _product(share.T, weighted, dtype).index_add_(0, own, pull * embeddings)
        if normalize:
            grad_rows = (grad_rows - rows * (rows * grad_rows).sum(dim=1, keepdim=True)) / norm
        grad_weight[chunk] = grad_rows
    return (scale * grad_others)[:, None] * summed + from_target, grad_weight


@_chunked_backward.register_fake
def _(
    grad_others: Tensor, grad_target: Tensor, others: Tensor, embeddings: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(embeddings), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    embeddings, weight, index, *ctx.settings = inputs
    ctx.save_for_backward(output[0], embeddings, weight, index)


def _backward(ctx: Any, grad_others: Tensor, grad_target: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _chunked_backward(grad_others, grad_target, *ctx.saved_tensors, *ctx.settings)
    return *gradients, None, None, None, None, None, None


_chunked.register_autograd(_backward, setup_context=_keep)
