r"""Word segmentation by a unigram model: the path of least total information (Su 2018, "recognition").

$\min \sum_i -\log p_{w_i}$ over all ways to cut the text, by dynamic programming over a trie in numba: linear in the
length of the text for words of bounded length.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
from numba import njit

from entropy.autonomy import backward
from entropy.characters import OTHER, SPACE, character_classes
from entropy.corpus import Block, Corpus, for_each_block, num_workers
from entropy.errors import UserError
from entropy.lexicon import read_lexicon, write_lexicon
from entropy.trie import NEWLINE, build_trie, find_units, walk
from entropy.utf8 import code_points, to_text

_BITS_PER_CHARACTER = 17.0  # to name one of all assigned code points
_BATCH = 1 << 16  # characters


class UnigramSegmenter:
    """Segments text with a lexicon.

    Units that are never cut: an ideograph, a run of letters and digits (3.14 and 1,000 included), a line end, a run of
    other spaces, a run of one punctuation mark or symbol; each but spaces with the combining marks that follow it.
    Words of the lexicon are one unit or several; a unit that is not in it costs as much as `unseen` occurrences
    (punctuation and spaces cost nothing).

    Args:
        words: word -> count, above 0.
        unseen: count of a unit outside the lexicon, above 0.
        numbers: True: digits are a class: every run of digits in text and lexicon is looked up as "0", so that
            1998年 and 2026年 are both occurrences of 0年. False: digits are literal.

    >>> UnigramSegmenter({"美好": 3, "世纪": 2, "的": 5}).segment("美好的新世纪MP3！")
    ['美好', '的', '新', '世纪', 'MP3', '！']
    """

    def __init__(self, words: Mapping[str, int], *, unseen: float = 0.5, numbers: bool = True):
        if not unseen > 0:
            raise UserError(f"unseen={unseen!r}: expected a count above 0, such as 0.5")
        for word, count in words.items():
            if not isinstance(word, str) or not word or not count > 0:
                raise UserError(
                    f"lexicon entry {word!r}: {count!r}: expected a word of one character or more, count above 0"
                )
        self.words, self.unseen, self.numbers = dict(words), unseen, numbers
        self.total = sum(self.words.values()) + unseen
        self._trie, self._slots = build_trie(self.words, self.total, numbers)

    def __getstate__(self) -> dict:
        return {"words": self.words, "unseen": self.unseen, "numbers": self.numbers}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["words"], unseen=state["unseen"], numbers=state["numbers"])  # type: ignore[misc]

    @classmethod
    def load(cls, path: str | PathLike, **options: Any) -> "UnigramSegmenter":
        """A segmenter from a file of lines `word TAB count` (or `word SPACE count`, as jieba writes them)."""
        return cls(read_lexicon(path), **options)

    def save(self, path: str | PathLike) -> None:
        """Write `word TAB count`, or with the space that jieba's `load_userdict` asks for if the name ends in .txt."""
        write_lexicon(path, self.words)

    def ends(self, codes: np.ndarray) -> np.ndarray:
        """Where the words of `codes` (uint32 code points) end: int64, ascending, the last one is `len(codes)`."""
        return self._path(codes)[1]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of every word in characters."""
        ends = self.ends(code_points(text)).tolist()
        return list(zip([0, *ends], ends, strict=False))

    def segment(self, text: str) -> list[str]:
        """The words; joined, they are `text`: spaces are words too."""
        return [text[start:end] for start, end in self.offsets(text)]

    def segment_many(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """The words of each text, as `segment` gives them; many texts go through the kernels at once."""
        if any("\n" in word for word in self.words):  # it might reach from one text into the next
            yield from map(self.segment, texts)
            return
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text) + 1
            if size >= _BATCH:
                yield from self._segment_batch(batch)
                batch, size = [], 0
        yield from self._segment_batch(batch)

    def _segment_batch(self, texts: list[str]) -> Iterator[list[str]]:
        """The texts joined by line ends, which are words of their own, and taken apart again."""
        joined = "\n".join(texts)
        ends = self.ends(code_points(joined))
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        starts = np.cumsum(lengths + 1) - lengths - 1
        firsts = np.searchsorted(ends, starts, side="right").tolist()  # words that end behind the start of their text
        lasts = np.searchsorted(ends, starts + lengths, side="right").tolist()
        places = ends.tolist()
        words = [joined[start:end] for start, end in zip([0, *places], places, strict=False)]
        for first, last in zip(firsts, lasts, strict=True):
            yield words[first:last]

    def spaced(self, text: str, separator: str = "  ") -> str:
        """`text` with `separator` between the words of each line, and its own spaces left out."""
        codes, between = code_points(text), code_points(separator)
        ends = self.ends(codes)
        out = np.empty(len(codes) + len(between) * len(ends), np.uint32)
        return to_text(out[: _space_out(codes, ends, between, character_classes(), out)])

    def count(self, corpus: Corpus, workers: int | None = None) -> dict[str, int]:
        """How often each word of the lexicon is on the best path of the corpus.

        Of words that `numbers` makes one class (1998年, 2026年), the first has the count of all.
        """
        counters = [np.zeros(len(self._trie[1]), np.int64) for _ in range(num_workers(workers))]

        def count_block(counter: np.ndarray, block: Block) -> None:
            units, ends, _ = self._path(block.codes)
            _count_words(block.codes, *units, *self._trie[:2], self.numbers, ends, counter)

        total = np.sum(for_each_block(corpus, counters, count_block, "segmenting"), axis=0)
        counts = np.zeros(len(self.words), np.int64)
        slots, firsts = np.unique(self._slots, return_index=True)
        counts[firsts] = total[slots]
        return dict(zip(self.words, counts.tolist(), strict=True))

    def bits(self, text: str) -> tuple[float, int]:
        """What the best path costs, in bits, and the number of word characters it covers.

        A unit outside the lexicon is announced by the probability of `unseen` and spelled at 17 bits a character.
        """
        codes = code_points(text)
        units, ends, score = self._path(codes)
        covered, spelled = _coverage(codes, character_classes(), *units, *self._trie, self.numbers, ends)
        return -score / math.log(2) + _BITS_PER_CHARACTER * spelled, covered

    def _path(self, codes: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, float]:
        """Where the units end and which are numbers, where the words end, and the score of the best path in nats."""
        unseen = math.log(self.unseen / self.total)
        unit_ends, digits, ends, score = _best_path(codes, character_classes(), *self._trie, unseen, self.numbers)
        return (unit_ends, digits), ends, float(score)


@njit(cache=True, nogil=True)
def _forward(codes, classes, unit_ends, digits, root, keys, scores, unseen, numbers, best, back):
    """Best score of every prefix that ends with a unit; ties go to the earlier start of the last word."""
    n = len(codes)
    best[0] = 0.0
    i = 0
    while i < n:
        base = best[i]
        first = unit_ends[i]
        kind = classes[codes[i]]
        free = kind in (OTHER, SPACE)
        known = False
        node = np.int64(-1)
        j = i
        while j < n:
            end = unit_ends[j]
            node = walk(codes, end, digits[j], root, keys, numbers, node, j)
            if node < 0:
                break
            j = end
            if scores[node] > -np.inf:
                known |= j == first
                score = base + scores[node]
                if score > best[j]:
                    best[j], back[j] = score, i
        if not known:
            score = base if free else base + unseen
            if score > best[first]:
                best[first], back[first] = score, i
        i = first


@njit(cache=True, nogil=True)
def _best_path(codes, classes, root, keys, scores, unseen, numbers):
    """Units and words of a text in one call: on a short line the calls would cost more than the work."""
    n = len(codes)
    unit_ends = np.empty(n, np.int64)
    digits = np.empty(n, np.bool_)
    find_units(codes, classes, unit_ends, digits)
    best = np.full(n + 1, -np.inf)
    back = np.empty(n + 1, np.int64)
    _forward(codes, classes, unit_ends, digits, root, keys, scores, unseen, numbers, best, back)
    return unit_ends, digits, backward(back), best[n]


@njit(cache=True, nogil=True)
def _coverage(codes, classes, unit_ends, digits, root, keys, scores, numbers, ends):
    """Characters in words, punctuation and spaces left out, and those of them outside the lexicon."""
    covered = spelled = 0
    start = 0
    for end in ends:
        kind = classes[codes[start]]
        if kind not in (OTHER, SPACE):
            covered += end - start
            if unit_ends[start] == end:
                node = walk(codes, end, digits[start], root, keys, numbers, np.int64(-1), start)
                if node < 0 or scores[node] == -np.inf:
                    spelled += end - start
        start = end
    return covered, spelled


@njit(cache=True, nogil=True)
def _count_words(codes, unit_ends, digits, root, keys, numbers, ends, counts):
    """Add one to the node of every word of the lexicon."""
    i = 0
    for end in ends:
        node = np.int64(-1)
        while i < end:
            node = walk(codes, unit_ends[i], digits[i], root, keys, numbers, node, i)
            if node < 0:
                break
            i = unit_ends[i]
        if node >= 0:
            counts[node] += 1
        i = end


@njit(cache=True, nogil=True)
def _space_out(codes, ends, between, classes, out):
    num = start = 0
    fresh = True  # at the start of a line
    for end in ends:
        if codes[start] == NEWLINE:
            out[num] = NEWLINE
            num += 1
            fresh = True
        elif classes[codes[start]] != SPACE:
            if not fresh:
                for code in between:
                    out[num] = code
                    num += 1
            for i in range(start, end):
                out[num] = codes[i]
                num += 1
            fresh = False
        start = end
    return num
