r"""The collective steps of a class matrix that is split over ranks, with the gradients that the whole would have.

Convention: every rank computes the same loss, that of all rows of all ranks. A gradient that reaches the embeddings is
multiplied by the number of ranks, because DistributedDataParallel, around the encoder, divides by it; the gradient of
a rank's own classes is exact as it is.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.count = group, len(rows)
        return gather_rows(rows, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient, group=ctx.group)  # each rank has the part that came through its own classes
        first = dist.get_rank(ctx.group) * ctx.count
        return gradient[first : first + ctx.count] * dist.get_world_size(ctx.group), None


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None  # every rank holds the same loss of the total: nothing to add up


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Rows of all ranks, in rank order; every rank has to bring the same number. No gradient."""
    pieces = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
    dist.all_gather(pieces, rows.contiguous(), group=group)
    return torch.cat(pieces)


def gather_batch(embeddings: Tensor, labels: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Embeddings (with gradient) and labels of all ranks, in rank order; batches may differ in length."""
    sizes = gather_rows(torch.tensor([len(labels)], device=labels.device), group).tolist()
    longest = max(sizes)
    missing = longest - len(labels)  # collectives take equal shapes: filled up here, dropped below
    embeddings = torch.cat([embeddings, embeddings.new_zeros(missing, embeddings.shape[1])])
    labels = torch.cat([labels, labels.new_zeros(missing)])
    embeddings, labels = _AllGatherRows.apply(embeddings, group), gather_rows(labels, group)
    if min(sizes) < longest:
        real = [torch.arange(size, device=labels.device) + rank * longest for rank, size in enumerate(sizes)]
        embeddings, labels = embeddings[torch.cat(real)], labels[torch.cat(real)]
    return embeddings, labels


def combine_terms(others: Tensor, target: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """The terms of all classes from those of each rank's share: a log-sum-exp, and a sum of one number and zeros."""
    highest = others.detach().clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
    highest = highest.masked_fill(highest == -torch.inf, 0.0)  # no other class on any rank
    total = _AllSum.apply((others - highest).exp(), group)
    alone = total == 0  # a single class: log 0, but a gradient of 0 and not of 0 / 0
    return highest + total.masked_fill(alone, 1.0).log().masked_fill(alone, -torch.inf), _AllSum.apply(target, group)


def share_of_classes(num_classes: int, group: dist.ProcessGroup) -> tuple[int, int]:
    """First and past-the-last class of this rank: contiguous shares that differ by one class at most."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    if num_classes < world:
        raise ValueError(f"{num_classes} classes cannot be shared by {world} ranks; each has to hold one")
    return rank * num_classes // world, (rank + 1) * num_classes // world
