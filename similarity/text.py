r"""Text to character ids: one normalisation and one vocabulary for training, indexing and searching.

Ids are those of the article (Su 2018, archives/5743): 0 pads, 1 is any unknown character, 2.. the characters by how
often they occur. Legend: `N` texts, `T` characters of the longest.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

PAD, UNKNOWN, FIRST = 0, 1, 2
CODE_POINTS = 0x110000
_HALF_WIDTH = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}


def normalize(text: str) -> str:
    r"""Full width to half width, lower case, every run of white space one blank, none at the ends.

    >>> normalize("　ＡＢＣ？\t怎么  办 ")
    'abc? 怎么 办'
    """
    return " ".join(text.translate(_HALF_WIDTH).lower().split())


def code_points(text: str) -> np.ndarray:
    """The characters as numbers; a lone surrogate, which no encoding has, is one too."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@dataclass(frozen=True)
class Vocabulary:
    """The characters that have an id: `characters[i]` has id i + 2."""

    characters: str

    @classmethod
    def fit(cls, texts: Iterable[str], min_count: int = 5) -> "Vocabulary":
        """Every character that occurs at least `min_count` times, the most frequent first."""
        counts = Counter[str]()
        for text in texts:
            counts.update(normalize(text))
        kept = sorted((-count, character) for character, count in counts.items() if count >= min_count)
        return cls("".join(character for _, character in kept))

    def __len__(self) -> int:
        """Ids, padding and unknown included."""
        return len(self.characters) + FIRST

    @cached_property
    def table(self) -> np.ndarray:
        """Code point -> id."""
        table = np.full(CODE_POINTS, UNKNOWN, np.int32)
        table[code_points(self.characters)] = np.arange(FIRST, len(self))
        return table

    def sha256(self) -> str:
        return hashlib.sha256(self.characters.encode("utf-8", "surrogatepass")).hexdigest()

    def ragged(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts one behind the other, and how many each has; at most `max_length` a text."""
        cut = 4 * max_length  # before normalisation, which shrinks blanks: 4 times is plenty
        kept = [normalize(text.lstrip()[:cut])[:max_length] for text in texts]
        lengths = np.fromiter(map(len, kept), np.int64, len(kept))
        return self.table[code_points("".join(kept))], lengths

    def encode(self, texts: Sequence[str], max_length: int = 32) -> Tensor:
        """Ids (N, T), int64, padded with 0 on the right; T is at least 1."""
        return padded(*self.ragged(texts, max_length))


def padded(ids: np.ndarray, lengths: np.ndarray, width: int = 0) -> Tensor:
    """Rows of `lengths` ids each -> (N, T), filled with 0 on the right; T is the longest, or `width`."""
    width = width or max(1, int(lengths.max(initial=0)))
    rows = np.zeros((len(lengths), width), np.int64)
    rows[np.arange(width) < lengths[:, None]] = ids
    return torch.from_numpy(rows)


def display_width(text: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
