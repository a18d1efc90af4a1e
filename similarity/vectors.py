r"""Unit vectors in float32, float16 or int8, and exact search among them by blocked matrix products.

Legend: `N` vectors, `D` dimension, `Q` queries, `K` results, `M` candidates.
"""

import tempfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainer import UserError

Storage = Literal["float32", "float16", "int8"]
BLOCK = 8192  # vectors scored at a time: a (Q, BLOCK) matrix of similarities that stays small
LANE = 32  # similarities whose maximum stands for them in a first pass over a block
QUERIES = 256  # at a time
FEWEST = 64  # candidates of an int8 search at the start


@dataclass
class Vectors:
    """N unit vectors as they are stored: `exact`, and under int8 the `codes` that are searched first.

    int8: vector ~ codes * scale, each with its own scale; `error` bounds the length of what is lost by any of them.
    """

    exact: np.ndarray
    storage: Storage
    codes: np.ndarray | None = None
    scales: np.ndarray | None = None
    error: float = 0.0

    @classmethod
    def store(cls, vectors: np.ndarray, storage: Storage) -> "Vectors":
        """Keep these float32 vectors (N, D). Under int8 the exact ones go to a file that is mapped, not to memory."""
        if storage != "int8":
            return cls(vectors.astype(storage), storage)
        scales = np.maximum(np.abs(vectors).max(axis=1, initial=0), 1e-12) / 127
        codes = np.rint(vectors / scales[:, None]).astype(np.int8)
        lost = np.linalg.norm(vectors - codes * scales[:, None], axis=1)
        exact = vectors
        if len(vectors):
            with tempfile.TemporaryFile() as file:  # no name: gone with the last reference to its pages
                exact = np.memmap(file, np.float32, "w+", shape=vectors.shape)
            exact[:] = vectors
        return cls(exact, storage, codes, scales.astype(np.float32), float(lost.max(initial=0)) * (1 + 1e-3))

    @property
    def nbytes(self) -> int:
        """Of what is held in memory; exact vectors behind int8 codes are on disk."""
        if self.codes is None or self.scales is None:
            return self.exact.nbytes
        return self.codes.nbytes + self.scales.nbytes

    def __len__(self) -> int:
        return len(self.exact)

    def search(self, queries: Tensor, k: int, alive: np.ndarray) -> tuple[Tensor, Tensor]:
        """The k most similar of the alive vectors, best first.

        Args:
            queries: (Q, D), float32.
            alive: (N,) which vectors count.

        Returns:
            Similarities (Q, K) in float32 and rows (Q, K), K = min(k, alive ones).
        """
        k = min(k, int(alive.sum()))
        found = [self._search(part, k, alive) for part in queries.split(QUERIES)]
        if not found:
            return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
        return torch.cat([scores for scores, _ in found]), torch.cat([rows for _, rows in found])

    def _search(self, queries: Tensor, k: int, alive: np.ndarray) -> tuple[Tensor, Tensor]:
        if self.codes is None:
            return self._scan(queries, k, alive)
        return self._scan_and_rerank(queries, k, alive)

    def _scan(self, queries: Tensor, k: int, alive: np.ndarray) -> tuple[Tensor, Tensor]:
        """Best k by the stored numbers, block by block."""
        scores = torch.full((len(queries), 0), 0.0)
        rows = torch.empty(len(queries), 0, dtype=torch.int64)
        for first in range(0, len(self), BLOCK):
            part = slice(first, first + BLOCK)
            if self.codes is None:
                similarity = queries @ torch.from_numpy(self.exact[part].astype(np.float32, copy=False)).T
            else:
                similarity = queries @ torch.from_numpy(self.codes[part]).float().T
                similarity *= torch.from_numpy(self.scales[part])  # type: ignore[index]
            if not alive[part].all():
                similarity[:, torch.from_numpy(~alive[part])] = -torch.inf
            best, place = best_of(similarity, k)
            scores, rows = torch.cat([scores, best], dim=1), torch.cat([rows, place + first], dim=1)
            if scores.shape[1] > k:
                scores, kept = scores.topk(k, dim=1)
                rows = rows.gather(1, kept)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return scores.gather(1, order), rows.gather(1, order)

    def _scan_and_rerank(self, queries: Tensor, k: int, alive: np.ndarray) -> tuple[Tensor, Tensor]:
        r"""The exact best k, proven: codes give M candidates, exact vectors rank them.

        With \|query\| = 1 a similarity by codes is off by at most `error`. So no vector outside the candidates can
        exceed (M-th similarity by codes) + error; if the k-th exact one among the candidates does, nothing is missing.
        Queries for which it does not are asked again with four times the candidates.
        """
        total = int(alive.sum())
        size = min(max(FEWEST, 4 * k), total)
        scores = torch.empty(len(queries), k)
        rows = torch.empty(len(queries), k, dtype=torch.int64)
        open_ = torch.arange(len(queries))
        while len(open_):
            asked = queries[open_]
            coarse, candidates = self._scan(asked, size, alive)  # (Q, M)
            exact = torch.einsum("qmd,qd->qm", torch.from_numpy(self.exact[candidates.numpy()]), asked)
            best, place = exact.topk(k, dim=1)
            scores[open_], rows[open_] = best, candidates.gather(1, place)
            bound = self.error * asked.norm(dim=1) + 1e-6  # and what float32 sums lose
            proven = (best[:, -1] >= coarse[:, -1] + bound) if k else torch.ones(len(asked), dtype=torch.bool)
            if size == total:
                break
            open_, size = open_[~proven], min(4 * size, total)
        return scores, rows


def best_of(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk` over (Q, N), faster: the k best lie in the k lanes with the highest maxima, and maxima cost one pass."""
    count = similarity.shape[1]
    if count < 4 * LANE * k:
        return similarity.topk(min(k, count), dim=1)
    whole = count // LANE * LANE
    lanes = similarity[:, :whole].unflatten(1, (LANE, -1))  # lane j holds columns j, j + L, ..: (Q, LANE, L)
    _, chosen = lanes.amax(dim=1).topk(k, dim=1)  # (Q, K) of L lanes
    width = whole // LANE
    columns = (chosen[:, :, None] + width * torch.arange(LANE)).flatten(1)  # (Q, K * LANE)
    rest = torch.arange(whole, count).expand(len(similarity), -1)
    columns = torch.cat([columns, rest], dim=1)
    best, place = similarity.gather(1, columns).topk(k, dim=1)
    return best, columns.gather(1, place)


class FaissVectors:
    """The same search by FAISS (extra `faiss`): an exact flat index of float32 vectors."""

    def __init__(self, vectors: np.ndarray) -> None:
        try:
            import faiss
        except ImportError:
            raise UserError("--backend faiss needs FAISS: pip install faiss-cpu") from None

        self.index: Any = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(np.ascontiguousarray(vectors, np.float32))

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        k = min(k, self.index.ntotal)
        if not k:  # FAISS asserts k > 0
            return torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
        scores, rows = self.index.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(rows)
