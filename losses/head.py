r"""A classification head that owns its class matrix and trains an encoder with a margin softmax.

Legend: `N` rows, `C` classes, `K` sub-centres a class, `D` dimension.
"""

from numbers import Integral

import torch
import torch.distributed as dist
from torch import Tensor, nn

from losses import sharded
from losses.class_terms import chunked_terms, dense_terms
from losses.common import check_reduction, reduce, split_labels, unit, working_precision
from losses.margin import cost, margin_function

INIT_BLOCK = 65_536  # rows drawn at a time, so that a shard holds what the whole matrix would


class MarginSoftmaxHead(nn.Module):
    r"""Class vectors and the loss on them: `head(embeddings, labels)` (Su 2018, archives 5743).

    Embeddings are made unit vectors here, their cosines with the C class vectors go through a loss of the margin
    softmax family. After training the head is thrown away: the encoder is the model.

    **Unit class vectors.** `unit_columns="graph"` divides by the length inside the graph: the gradient is tangential.
    `"projected"` is the article's way (Keras's `unit_norm` constraint): the vectors are used as they are, and
    :meth:`project_` makes them unit after each step,
    `optimizer.register_step_post_hook(lambda *_: head.project_())`. For small steps the two are the same.

    **Chunks.** With `chunk_size` loss and gradient are computed that many classes at a time and (N, C) is never held.
    Time and memory on both sides of the trade are in losses/README.md.

    **Sub-centres** (Deng et al. 2020): with K > 1 a class has K vectors and the nearest one counts.

    **Sampling** (Partial FC: An et al. 2022): in training, `sample_rate` < 1 uses the classes of the batch and random
    others, together that share of all. The log-sum-exp is over the sample and not corrected for it, as in the paper.

    **Shards.** With a `process_group` each rank holds C / world classes. Every rank calls the head with its own batch
    and gets the loss of all batches together; wrap the encoder, not the head, in DistributedDataParallel. Whole on
    every rank, the head goes inside the wrapped module as any other.

    Under autocast the product with the class matrix is computed in its dtype, all else in float32.

    Args:
        dim: D, size of an embedding.
        num_classes: C.
        loss: `normalized_softmax`, `am_softmax`, `simpler_a_softmax`, `a_softmax` or `arc_face`.
        chunk_size: classes at a time; None: all at once.
        scale, margin, multiplier: of the loss; None: its default.
        unit_columns: `graph` or `projected`.
        sub_centers: K.
        sample_rate: share of the classes used in a training step, within (0, 1].
        reduction: `none` (the rows, of all ranks if sharded), `mean` over the rows that count, or `sum`.
        ignore_index: the label of rows to leave out.
        process_group: ranks to share the classes, e.g. `torch.distributed.group.WORLD`.

    Shape: embeddings (N, D), labels (N,) class numbers 0..C-1 (of all classes, sharded or not) -> the loss.

    Raises:
        ValueError: a setting or a shape that does not fit, a label out of range (named with its row).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        loss: str = "am_softmax",
        chunk_size: int | None = None,
        *,
        scale: float | None = None,
        margin: float | None = None,
        multiplier: int | None = None,
        unit_columns: str = "graph",
        sub_centers: int = 1,
        sample_rate: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        process_group: dist.ProcessGroup | None = None,
    ):
        super().__init__()
        for name, value in (("dim", dim), ("num_classes", num_classes), ("sub_centers", sub_centers)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number, at least 1")
        if chunk_size is not None and (not isinstance(chunk_size, Integral) or chunk_size < 1):
            raise ValueError(f"chunk_size is {chunk_size}; expected a whole number of classes, or None for all at once")
        if unit_columns not in ("graph", "projected"):
            raise ValueError(f"unit_columns is {unit_columns!r}; expected 'graph' or 'projected'")
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate is {sample_rate}; expected above 0 and up to 1")
        check_reduction(reduction)
        self.scale, self.psi = margin_function(loss, scale, margin, multiplier)
        self.loss, self.dim, self.num_classes, self.chunk_size = loss, dim, num_classes, chunk_size
        self.unit_columns, self.sub_centers, self.sample_rate = unit_columns, sub_centers, sample_rate
        self.reduction, self.ignore_index, self.process_group = reduction, ignore_index, process_group
        self.first_class, self.end_class = 0, num_classes
        if process_group is not None:
            self.first_class, self.end_class = sharded.share_of_classes(num_classes, process_group)
        self.weight = nn.Parameter(torch.empty((self.end_class - self.first_class) * sub_centers, dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Unit vectors in random directions: the same classes for the same seed, on one rank or on several."""
        start, end = self.first_class * self.sub_centers, self.end_class * self.sub_centers
        total = self.num_classes * self.sub_centers
        for first in range(0, total, INIT_BLOCK):
            block = torch.randn(min(INIT_BLOCK, total - first), self.dim, device=self.weight.device)
            low, high = max(first, start), min(first + INIT_BLOCK, end)
            if low < high:
                self.weight[low - start : high - start] = block[low - first : high - first].to(self.weight.dtype)
        self.weight.copy_(unit(self.weight))

    @torch.no_grad()
    def project_(self) -> None:
        r"""Make the class vectors unit again, w / (|w| + 1e-7), as Keras's `unit_norm` does after a step."""
        self.weight.div_(torch.linalg.vector_norm(self.weight, dim=1, keepdim=True) + 1e-7)

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, num_classes={self.num_classes}, loss={self.loss}, scale={self.scale}, "
            f"chunk_size={self.chunk_size}, unit_columns={self.unit_columns}, sub_centers={self.sub_centers}, "
            f"sample_rate={self.sample_rate}, classes={self.first_class}..{self.end_class - 1}"
        )

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if embeddings.dim() != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; expected (batch, {self.dim})")
        rows = working_precision(embeddings)
        rows = unit(rows.to(torch.promote_types(rows.dtype, self.weight.dtype)))  # (N, D)
        index, counted = split_labels(labels, self.num_classes, self.ignore_index, embeddings.shape[:1])
        index = torch.where(counted, index, -1)  # an ignored row has no class, to sample or to look up
        if self.process_group is not None:
            rows, index = sharded.gather_batch(rows, index, self.process_group)
            counted = index >= 0
            held = (index >= self.first_class) & (index < self.end_class)
            index = torch.where(held, index - self.first_class, -1)
        weight, index = self._sampled(index)
        others, target = self._terms(rows, weight, index)
        if self.process_group is not None:
            others, target = sharded.combine_terms(others, target, self.process_group)
        return reduce(cost(others, self.scale * self.psi(target)), self.reduction, counted)

    def _terms(self, rows: Tensor, weight: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        device = rows.device.type
        autocast = torch.is_autocast_enabled(device) and rows.dtype == torch.float32
        dtype = torch.get_autocast_dtype(device) if autocast else rows.dtype
        settings = (rows, weight, index, self.scale, self.sub_centers, self.unit_columns == "graph", dtype)
        return dense_terms(*settings) if self.chunk_size is None else chunked_terms(*settings, self.chunk_size)

    def _sampled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The class vectors of this step, and where in them each row's class is (-1: not on this rank)."""
        if not self.training or self.sample_rate == 1:
            return self.weight, index
        num_classes = self.end_class - self.first_class
        held = index >= 0
        room = max(round(self.sample_rate * num_classes), len(index))  # for every class of a batch
        size = min(num_classes, room)
        priority = torch.rand(num_classes, device=index.device)
        priority = priority.scatter_reduce(0, index.clamp(min=0), 2.0 * held.to(priority.dtype), "amax")
        chosen = priority.topk(size).indices.sort().values  # (size,) classes of the batch first, then random ones
        weight = self.weight.unflatten(0, (num_classes, self.sub_centers))[chosen].flatten(0, 1)
        return weight, torch.where(held, torch.searchsorted(chosen, index.clamp(min=0)), -1)
