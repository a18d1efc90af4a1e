r"""What is trained on and what is asked: files to groups to batches of ids.

Legend: `B` sentences of a batch, `T` characters of its longest, `G` groups.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from similarity.groups import Groups, Split, split
from similarity.paraphrase import made_up_groups
from similarity.readers import load
from similarity.text import Vocabulary, padded
from trainer import shuffled

BUCKET_BATCHES = 50  # batches among which sentences are sorted by length


def load_split(paths: Sequence[Path], validation_share: float, test_share: float, progress: bool = True) -> Split:
    """The groups of these files (of none: the made-up ones), split by group; says what was found."""
    groups = load(paths) if paths else made_up_groups()
    if progress:
        print(f"{', '.join(map(str, paths)) or 'made-up questions'}: {groups.summary()}", flush=True)
    return split(groups, validation_share, test_share)


class _Sentences:
    """Ids of many sentences, one behind the other."""

    def __init__(self, sentences: Sequence[str], vocabulary: Vocabulary, max_length: int) -> None:
        self.ids, self.lengths = vocabulary.ragged(sentences, max_length)
        self.starts = np.cumsum(self.lengths) - self.lengths

    def batch(self, rows: np.ndarray) -> Tensor:
        """Ids (B, T) of these sentences."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        return padded(self.ids[np.repeat(self.starts[rows], lengths) + within], lengths)


class LabelledSentences(Dataset[tuple[Tensor, Tensor]]):
    """For a loss over classes: a list of indices gives ids (B, T) and group numbers (B,)."""

    def __init__(self, groups: Groups, vocabulary: Vocabulary, max_length: int) -> None:
        self.sentences = _Sentences(groups.sentences, vocabulary, max_length)
        self.labels = torch.from_numpy(groups.labels)

    def set_epoch(self, epoch: int) -> None:
        """Nothing is drawn."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        ids, labels = self.__getitems__([index])
        return ids[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = np.asarray(indices)
        return self.sentences.batch(rows), self.labels[rows]

    def order(self, seed: int, batch_size: int, by_length: bool) -> Callable[[int], Tensor]:
        """epoch -> the sentences in an order in which a batch holds similar lengths, batches at random."""
        draw = shuffled(len(self), seed)
        if not by_length:
            return draw
        lengths = torch.from_numpy(self.sentences.lengths)

        def order(epoch: int) -> Tensor:
            pools = draw(epoch).split(BUCKET_BATCHES * batch_size)
            batches = [b for pool in pools for b in pool[lengths[pool].argsort(stable=True)].split(batch_size)]
            whole = [b for b in batches if len(b) == batch_size]
            mixed = shuffled(len(whole), seed + 1)(epoch)
            return torch.cat([whole[i] for i in mixed] or [draw(epoch)])

        return order


class GroupPairs(Dataset[tuple[Tensor]]):
    """For a loss inside the batch: a list of G group numbers gives ids (2G, T), two sentences of each group.

    Which two is drawn once an epoch from seed and epoch alone. Row i and row G + i are fellows, all others strangers. A
    group of one sentence is its own fellow: the encoder's dropout has to tell the two apart (Gao et al. 2021).
    """

    def __init__(self, groups: Groups, vocabulary: Vocabulary, max_length: int, seed: int) -> None:
        self.sentences = _Sentences(groups.sentences, vocabulary, max_length)
        self.sizes = np.array([len(group) for group in groups])
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's two sentences of each group."""
        rng = np.random.default_rng((self.seed, epoch))
        one = (rng.random(len(self.sizes)) * self.sizes).astype(np.int64)
        other = (rng.random(len(self.sizes)) * (self.sizes - 1)).astype(np.int64)
        self.one = self.firsts + one
        self.other = np.where(self.sizes == 1, self.one, self.firsts + other + (other >= one))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor]:
        rows = np.asarray(indices)
        return (self.sentences.batch(np.concatenate([self.one[rows], self.other[rows]])),)

    def order(self, seed: int, vectors: Tensor, neighbours: int) -> Callable[[int], Tensor]:
        """epoch -> the groups in an order in which similar ones are near, so that a batch holds hard strangers.

        Each epoch draws random groups as centres, gives every group to the nearest, and lays the clusters out in
        pieces of `neighbours` groups at random. Similarity is that of `vectors` (G, D), which are those before
        training: an order that followed the weights could not be repeated by a run that goes on.

        Args:
            neighbours: groups of a piece; 0: plain random order.
        """
        draw = shuffled(len(self), seed)
        if not neighbours:
            return draw

        def order(epoch: int) -> Tensor:
            random = draw(epoch)
            centres = vectors[random[: max(2, len(self) // neighbours)]]
            nearest = torch.cat([(part @ centres.T).argmax(dim=1) for part in vectors.split(2048)])
            clustered = random[nearest[random].argsort(stable=True)]
            pieces = clustered.split(neighbours)
            return torch.cat([pieces[i] for i in shuffled(len(pieces), seed + 1)(epoch)])

        return order
