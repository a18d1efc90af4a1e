r"""A bag of character n-grams with learned vectors: the shallow half of our own recipe.

Legend: `B` texts, `T` characters, `G` n-grams of all texts, `D` dimension, `K` buckets.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from similarity.text import PAD

PRIME = (
    1_000_003  # multiplies what came before at each further character; ids stay below 2^21, so int64 never overflows
)
MODULUS = 2_147_483_647


class NgramBag(nn.Module):
    r"""Sum of the vectors of a text's characters and hashed n-grams, each with a weight in its length.

    .. math:: v(text) = \sum_{g} E_{h(g)}, \qquad E_h \sim \mathrm{idf}_h\, N(0, 1/D)

    At the start this is a random projection of the text's tf-idf vector, so that cosines are those of tf-idf to
    within 1/sqrt(D); training moves the vectors of what people use in place of each other together. A character has
    the bucket of its id, so characters never collide with each other; longer n-grams share the buckets behind.

    Args:
        num_ids: of the vocabulary.
        dim: D.
        buckets: K, more than `num_ids`.
        order: length of the longest n-gram.
        drop: share of the n-grams left out of each text in training.
    """

    def __init__(self, num_ids: int, dim: int, buckets: int, order: int = 2, drop: float = 0.0) -> None:
        super().__init__()
        if buckets <= num_ids:
            raise ValueError(f"{buckets} buckets for {num_ids} characters: the characters alone need one each")
        self.num_ids, self.dim, self.buckets, self.order, self.drop = num_ids, dim, buckets, order, drop
        self.weight = nn.Parameter(torch.randn(buckets, dim) / dim**0.5)

    def ngrams(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Buckets (B, G') of all n-grams up to the order, position by position, and which of them there are."""
        code, known = ids, ids != PAD
        found, real = [ids], [known]
        for size in range(2, self.order + 1):
            if ids.shape[1] < size:
                break
            code = (code[:, :-1] * PRIME + ids[:, size - 1 :]) % MODULUS  # (B, T - size + 1)
            known = known[:, :-1] & (ids[:, size - 1 :] != PAD)
            found.append((code * 31 + size) % MODULUS % (self.buckets - self.num_ids) + self.num_ids)
            real.append(known)
        return torch.cat(found, dim=1), torch.cat(real, dim=1)

    @torch.no_grad()
    def weigh_(self, batches: list[Tensor]) -> None:
        """Multiply each vector by the bucket's inverse document frequency, ln((n + 1) / (df + 1)) + 1, counted over
        these ids.
        """
        counts = np.zeros(self.buckets, np.int64)
        texts = 0
        for ids in batches:
            found, real = self.ngrams(ids)
            rows = torch.arange(len(ids))[:, None].expand_as(found)
            once = np.unique((rows * self.buckets + found)[real].numpy())
            counts += np.bincount(once % self.buckets, minlength=self.buckets)
            texts += len(ids)
        idf = torch.from_numpy(np.log((texts + 1) / (counts + 1)) + 1)
        self.weight.mul_(idf.to(self.weight.dtype)[:, None])

    def forward(self, ids: Tensor) -> Tensor:
        found, real = self.ngrams(ids)
        keep = real
        if self.training and self.drop:
            keep = real & (torch.rand(real.shape, device=ids.device) >= self.drop)
        counts = keep.sum(dim=1)
        flat = found[keep]  # (G,)
        offsets = counts.cumsum(0) - counts
        return F.embedding_bag(flat, self.weight, offsets, mode="sum", sparse=self.training)  # (B, D)
