r"""Information per character, and what a merge gains (Jianlin Su, 2018, "Minimum entropy II").

Symbols: $p_w$ frequency of word $w$ among all words, $l_w$ its characters, $H = -\sum_w p_w \log p_w$,
$l = \sum_w p_w l_w$, $L = H / l$: the average information of one character, which a good lexicon makes small.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Information(NamedTuple):
    """Bits per word, characters per word, bits per character."""

    entropy: float
    length: float
    per_character: float


def information(words: Mapping[str, float]) -> Information:
    r"""$H$ in bits, $l$ and $L = H / l$ of a lexicon (word -> count)."""
    counts = np.fromiter(words.values(), float, len(words))
    lengths = np.fromiter(map(len, words), float, len(words))
    total = counts.sum()
    if total <= 0:
        return Information(0.0, 0.0, 0.0)
    frequencies = counts[counts > 0] / total
    entropy, length = float(-(frequencies * np.log2(frequencies)).sum()) + 0.0, float(counts @ lengths / total)
    return Information(entropy, length, entropy / length)


def entropy_per_character(words: Mapping[str, float]) -> float:
    r"""$L = H / l$ in bits per character (eq. 2.1 to 2.3 of the article).

    >>> entropy_per_character({"a": 1, "b": 1, "cd": 2})
    1.0
    """
    return information(words).per_character


def pmi(joint: ArrayLike, *parts: ArrayLike) -> np.ndarray:
    r"""$\log \frac{p}{\prod_i p_i}$ in nats: pointwise mutual information of a word and its two or more parts."""
    return np.log(joint) - sum(np.log(part) for part in parts)


def exact_gain(joint: ArrayLike, *parts: ArrayLike) -> np.ndarray:
    r"""What merging distinct parts into one word takes off $L l$, in nats (Su 2018, eq. 2.11).

    $F = p \log \frac{p}{\prod_i p_i} - (1-(k-1)p) \log(1-(k-1)p) + \sum_i (p_i - p) \log(1 - p / p_i)$

    for $k$ parts of frequencies $p_i$ that occur together with frequency $p$, all before the merge; $k = 2$ is the
    article's equation. $L$ falls by $F / l$. Positive: the merge makes the text shorter.

    Args:
        joint: $p$, above 0 and at most the smallest $p_i$.
        parts: $p_1, ..., p_k$.
    """
    p = np.asarray(joint, float)
    left = 1 - (len(parts) - 1) * p
    rest = sum(_x_log_y(part - p, 1 - p / part) for part in map(np.asarray, parts))
    return p * pmi(p, *parts) - _x_log_y(left, left) + rest


def approximate_gain(joint: ArrayLike, *parts: ArrayLike) -> np.ndarray:
    r"""$F^* = p (\log \frac{p}{\prod_i p_i} - 1)$, in nats, never above `exact_gain` (Su 2018, eq. 2.16).

    For any number of parts: to first order in $p$ the other terms of $F$ are $(k - 1) p - k p$.
    """
    p = np.asarray(joint, float)
    return p * (pmi(p, *parts) - 1)


def _x_log_y(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x log y, 0 where x is 0."""
    return np.where(x > 0, x * np.log(np.where(y > 0, y, 1.0)), 0.0)


class DescriptionLength(NamedTuple):
    """Two-part code in bits: the lexicon, and the corpus given the lexicon."""

    lexicon: float
    corpus: float

    @property
    def total(self) -> float:
        """Bits of both parts."""
        return self.lexicon + self.corpus


def entry_bits(words: Mapping[str, float], characters: Mapping[str, float]) -> np.ndarray:
    r"""What each word's entry in the lexicon takes, in bits: a prefix code.

    Its characters by their frequency in the text, $-\log_2 p_c$, with one bit after each that says whether the word
    goes on; then its count $n$ in Elias's gamma code, $2 \lfloor \log_2 n \rfloor + 1$ bits. A word of one character is
    named by the alphabet, which every lexicon over the text shares, and takes its count only.
    """
    total = sum(characters.values())
    bits = {character: 1 - np.log2(count / total) for character, count in characters.items()}
    spelling = np.array([sum(map(bits.__getitem__, word)) if len(word) > 1 else 0.0 for word in words])
    counts = np.fromiter(words.values(), float, len(words))
    return spelling + 2 * np.floor(np.log2(np.maximum(counts, 1))) + 1


def description_length(words: Mapping[str, float]) -> DescriptionLength:
    r"""Bits of a lexicon (word -> count) plus bits of the corpus that the counts describe, $\sum_w -n_w \log_2 p_w$.

    `entropy_per_character` alone falls as the lexicon grows, to nothing when the text is one word; this does not, since
    every entry has to be written down.
    """
    characters: defaultdict[str, float] = defaultdict(float)
    for word, count in words.items():
        for character in word:
            characters[character] += count
    total = sum(words.values())
    return DescriptionLength(float(entry_bits(words, characters).sum()), information(words).entropy * total)
