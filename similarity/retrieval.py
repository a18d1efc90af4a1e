r"""How well vectors find their own group among all others, and which neighbours they have.

Legend: `N` sentences, `D` dimension, `P` pairs of a sentence and a fellow of its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from tqdm import tqdm

ROWS, PAIRS = 256, 1024  # queries, and comparisons with all N, that are held at a time
BINS = 8192  # of the histograms behind the ROC curve: an error of the AUC below 1e-3


@dataclass(frozen=True)
class Retrieval:
    """Ranks of all queries, a query being a sentence with a fellow in the pool.

    Args:
        first_rank: rank of the nearest fellow, from 1, one a query.
        average_precision: of each query up to rank R, the number of its fellows.
        roc_auc: how often a sentence is nearer to a fellow than another sentence is to a stranger, over all pairs.
    """

    first_rank: np.ndarray
    average_precision: np.ndarray
    roc_auc: float

    def scores(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """top1, top5, .., mrr, map_r, roc_auc, all within 0..1."""
        found = {f"top{k}": float((self.first_rank <= k).mean()) for k in ks}
        precision = float(self.average_precision.mean())
        return {**found, "mrr": float((1 / self.first_rank).mean()), "map_r": precision, "roc_auc": self.roc_auc}


def retrieval_accuracy(
    embeddings: np.ndarray | Tensor, groups: Sequence[Any] | np.ndarray | Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Share of the sentences that find one of their own group among their k nearest (Su 2018, archives/5743).

    Each sentence with a fellow asks all others; sentences without one are there to be mistaken for an answer.

    Args:
        embeddings: (N, D), unit rows.
        groups: N group names or numbers.
        ks: numbers of neighbours.

    Returns:
        k -> share, within 0..1.

    Raises:
        ValueError: other than N groups, a row that is not finite, or no group of two.
    """
    found = retrieve(embeddings, groups).scores(ks)
    return {k: found[f"top{k}"] for k in ks}


def retrieve(embeddings: Any, groups: Sequence[Any] | np.ndarray | Tensor, progress: bool = False) -> Retrieval:
    r"""Rank every sentence's fellows among all others, exactly, in blocks.

    The sentence itself is left out by its number, not as "the nearest": two equal sentences stay neighbours. Ties
    count against the query: the rank is one more than the number of strangers *at least* as near.

    The rows may be a scipy sparse matrix, as a tf-idf is.

    MAP@R (Musgrave, Belongie and Lim 2020, eq. 5): :math:`\frac1R \sum_{i \le R} P(i)\,[i \text{ is a fellow}]`.

    Raises:
        ValueError: as `retrieval_accuracy`.
    """
    sparse = scipy.sparse.issparse(embeddings)
    vectors: Any = (  # a matrix of either library, with the same operators
        embeddings.tocsr().astype(np.float32) if sparse else torch.as_tensor(embeddings, dtype=torch.float32)
    )
    names = groups.tolist() if isinstance(groups, np.ndarray | Tensor) else list(groups)
    if len(vectors.shape) != 2 or vectors.shape[0] != len(names):
        raise ValueError(f"embeddings {tuple(vectors.shape)} for {len(names)} groups; expected (N, D) and N groups")
    if not sparse and not vectors.isfinite().all():
        raise ValueError(f"row {int((~vectors.isfinite()).any(dim=1).nonzero()[0])} of the embeddings is not finite")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    labels = torch.tensor([numbers[name] for name in names])
    if len(numbers) == len(names):
        raise ValueError("no group has two sentences, so there is nothing to find")
    ranks: list[Tensor] = []
    precisions: list[Tensor] = []
    histograms = torch.zeros(2, BINS, dtype=torch.float64)  # of strangers, of fellows
    for start in tqdm(range(0, len(names), ROWS), desc="retrieval", disable=not progress, leave=False):
        block = torch.arange(start, min(start + ROWS, len(names)))
        products = vectors[start : start + ROWS] @ vectors.T
        similarity: Tensor = torch.from_numpy(products.toarray()) if sparse else products  # (ROWS, N)
        own = labels[block, None] == labels[None]
        own[torch.arange(len(block)), block] = False
        row, column = own.nonzero(as_tuple=True)  # (P,)
        fellow = similarity[row, column]
        bins = ((similarity + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        histograms[1] += torch.bincount(bins[row, column], minlength=BINS)
        similarity[row, column] = -torch.inf
        similarity[torch.arange(len(block)), block] = -torch.inf
        everyone = torch.bincount(bins.flatten(), minlength=BINS).double()
        itself = torch.bincount(bins[torch.arange(len(block)), block], minlength=BINS)
        histograms[0] += everyone - itself - torch.bincount(bins[row, column], minlength=BINS)
        strangers = torch.cat(
            [
                (similarity[r] >= f[:, None]).sum(dim=1)
                for r, f in zip(row.split(PAIRS), fellow.split(PAIRS), strict=True)
            ]
        )  # (P,) at least as near as this fellow
        rank, precision = _by_query(row, fellow, strangers)
        ranks.append(rank)
        precisions.append(precision)
    return Retrieval(torch.cat(ranks).numpy(), torch.cat(precisions).numpy(), _auc(histograms))


def _by_query(row: Tensor, fellow: Tensor, strangers: Tensor) -> tuple[Tensor, Tensor]:
    """First rank and average precision of each query of a block, from its pairs (row, similarity, nearer ones)."""
    order = torch.argsort(fellow, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]  # by query, nearest fellow first
    row, strangers = row[order], strangers[order]
    _, counts = row.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    size = counts.repeat_interleave(counts)  # R of each pair's query
    place = torch.arange(len(row)) - starts.repeat_interleave(counts) + 1  # 1 for the nearest fellow, 2, ..
    rank = strangers + place
    part = torch.where(rank <= size, place / rank, 0.0) / size
    precision = torch.zeros(len(counts)).index_add(0, torch.arange(len(counts)).repeat_interleave(counts), part)
    return rank[starts], precision


def _auc(histograms: Tensor) -> float:
    """Area under the ROC curve of two histograms; a bin's own pairs count half."""
    strangers, fellows = histograms / histograms.sum(dim=1, keepdim=True).clamp(min=1)
    below = strangers.cumsum(0) - strangers / 2
    return float((fellows * below).sum())


def neighbour_table(
    sentences: Sequence[str], vectors: Tensor, groups: Sequence[Any] | np.ndarray, queries: Sequence[int], k: int = 5
) -> str:
    """A table in Markdown: some sentences and their nearest neighbours, fellows in bold."""
    lines = ["| sentence | " + " | ".join(f"nearest {i + 1}" for i in range(k)) + " |", "|---" * (k + 1) + "|"]
    for query in queries:
        similarity = vectors[query] @ vectors.T
        similarity[query] = -torch.inf
        found = similarity.topk(min(k, len(vectors) - 1))
        cells = []
        for score, other in zip(found.values.tolist(), found.indices.tolist(), strict=True):
            text = sentences[other].replace("|", "/")
            cells.append(f"{score:.3f} " + (f"**{text}**" if groups[other] == groups[query] else text))
        lines.append(f"| {sentences[query].replace('|', '/')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
