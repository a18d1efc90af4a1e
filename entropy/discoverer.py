"""`WordDiscoverer`: a lexicon from raw text by three methods, one interface."""

import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from entropy import mdl, ngram
from entropy.characters import word_characters
from entropy.corpus import Block, Corpus, for_each_block, num_workers
from entropy.counting import PairCounter
from entropy.cutting import Cutter, count_pieces, strong_pairs
from entropy.errors import UserError
from entropy.pruning import prune
from entropy.segmenter import UnigramSegmenter
from entropy.sequences import SequenceCounter, Sequences

_METHODS = ("mdl", "entropy", "ngram")
_CRITERIA = ("pmi", "exact", "approximate")
_UNBOUNDED = 1 << 30


class WordDiscoverer(BaseEstimator):
    r"""Finds the words of a language in raw text.

    Methods:
        "mdl": cut by branching entropy, then keep what shortens a two-part code (`entropy.mdl`). No threshold to
            choose, the best words; about 1 MB/s.
        "entropy": Su 2018, "Minimum entropy II": cut by frequency and PMI of neighbours, then prune, longest first,
            what its parts explain (`entropy.cutting`, `entropy.pruning`). The fastest.
        "ngram": Su 2019, "word-discovery": n-grams to order 4 with a PMI threshold an order, cut, back-check
            (`entropy.ngram`).

    Args:
        min_prob: "entropy": smallest frequency of a pair among pairs and of a word among pieces (default 1e-6).
        min_pmi: "entropy": smallest PMI of neighbours, nats (default 1).
        method: one of the above; default: "entropy" if `min_prob`, `min_pmi` or `compatible` is given, else "mdl".
        criterion: "entropy": neighbours hold together if PMI > `min_pmi` ("pmi"), or the exact gain F > 0 ("exact", eq.
            2.11), or its approximation F* > 0 ("approximate", eq. 2.16).
        prune_pmi: "entropy": a word stays if its multi-part PMI exceeds this, nats; None: its number of characters
            minus 1, as in the author's code.
        compatible: "entropy": compute what nlp-zero 0.1.6 computes, defects included: its alphabet, its logarithm of 0,
            its bound, no maximal length.
        min_pmi_by_order: "ngram": thresholds in nats of n-grams of order 1, 2, ...
        min_count: "ngram": smallest count of an n-gram and of a word.
        max_length: characters in a word; 0: 20 for "entropy" and "ngram", 6 for "mdl".
        merge: "mdl": also join neighbouring words where that shortens the code. Builds phrases rather than words.
        sample: "mdl": words are looked for in so many characters from the start, and counted in all.
        alphabet: "unicode" or "ascii" ("entropy" and "ngram"; see `entropy.characters.word_characters`).
        workers: threads; None: all cores. Results do not depend on it.
        memory: bytes that the tables of "entropy" and "ngram" may take before they are spilled to temporary files.

    Attributes:
        words_: word -> count, most frequent first, equal counts by code points.
        pruned_: candidate taken out -> its count before.
        num_characters_, num_distinct_: word characters read, and how many differ.
        pair_counts_: "entropy": counts of code points, packed pairs, counts of pairs.
        bonus_, tried_: "mdl": the bonus chosen, and bits of description for every one tried.

    >>> WordDiscoverer(1e-3, method="entropy").fit(["葡萄好", "葡萄甜", "好葡萄", "我好", "你好甜", "甜"] * 9).words_
    {'甜': 27, '葡萄': 27, '好': 18, '你好': 9, '我好': 9}
    """

    def __init__(
        self,
        min_prob: float | None = None,
        min_pmi: float | None = None,
        *,
        method: str | None = None,
        criterion: str = "pmi",
        prune_pmi: float | None = 1.0,
        compatible: bool = False,
        min_pmi_by_order: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0),
        min_count: int = 3,
        max_length: int = 0,
        merge: bool = False,
        sample: int = 10_000_000,
        alphabet: str = "unicode",
        workers: int | None = None,
        memory: int | None = 1 << 30,
    ):
        self.min_prob = min_prob
        self.min_pmi = min_pmi
        self.method = method
        self.criterion = criterion
        self.prune_pmi = prune_pmi
        self.compatible = compatible
        self.min_pmi_by_order = min_pmi_by_order
        self.min_count = min_count
        self.max_length = max_length
        self.merge = merge
        self.sample = sample
        self.alphabet = alphabet
        self.workers = workers
        self.memory = memory
        self.words_: dict[str, int]

    def fit(self, texts: Any, y: None = None) -> "WordDiscoverer":
        """Learn `words_` from an iterable of texts, a `pathlib.Path` or several, or a `Corpus`."""
        self.check()
        corpus = Corpus.of(texts)
        {"mdl": self._fit_mdl, "entropy": self._fit_entropy, "ngram": self._fit_ngram}[self.chosen_method](corpus)
        return self

    def segmenter(self, **options: Any) -> UnigramSegmenter:
        """A segmenter with the words found."""
        if not hasattr(self, "words_"):
            raise UserError("WordDiscoverer has no words yet: call fit(texts) first")
        return UnigramSegmenter(self.words_, **{"numbers": self.chosen_method == "mdl"} | options)

    def _of_entropy(self) -> bool:
        return self.min_prob is not None or self.min_pmi is not None or self.compatible

    @property
    def chosen_method(self) -> str:
        """The method in use."""
        return self.method or ("entropy" if self._of_entropy() else "mdl")

    @property
    def thresholds(self) -> tuple[float, float]:
        """`min_prob` and `min_pmi`, or their defaults."""
        return 1e-6 if self.min_prob is None else self.min_prob, 1.0 if self.min_pmi is None else self.min_pmi

    @property
    def longest(self) -> int:
        """Characters of the longest word: `max_length`, or its default."""
        if self.max_length:
            return self.max_length
        if self.chosen_method == "mdl":
            return 6
        return _UNBOUNDED if self.compatible else 20

    def check(self) -> None:
        """Raise UserError for parameters that make no sense."""
        for name, allowed in (
            ("method", (None, *_METHODS)),
            ("criterion", _CRITERIA),
            ("alphabet", ("unicode", "ascii")),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(filter(None, allowed))}")
        if self.chosen_method != "entropy" and self._of_entropy():
            raise UserError(f"min_prob, min_pmi and compatible belong to method='entropy', not to {self.method!r}")
        if not 0 <= self.thresholds[0] < 1:
            raise UserError(f"min_prob={self.min_prob!r}: expected a frequency from 0 to below 1, such as 1e-6")
        if math.isnan(self.thresholds[1]) or math.isnan(self.prune_pmi or 0.0):
            raise UserError("min_pmi and prune_pmi: expected nats, such as 1, not nan")
        if self.max_length < 0 or self.min_count < 1 or self.sample < 1:
            raise UserError("max_length must be 0 or more, min_count and sample 1 or more")

    def _fit_mdl(self, corpus: Corpus) -> None:
        found = mdl.discover(corpus, self.longest, self.sample, num_workers(self.workers), self.merge)
        words, self.pruned_, self.bonus_, self.tried_ = found
        self._set_words(words)

    def _fit_ngram(self, corpus: Corpus) -> None:
        workers = num_workers(self.workers)
        limits = (self.min_pmi_by_order, self.min_count, self.longest)
        words, pruned = ngram.discover(corpus, *limits, self.alphabet, workers, self.memory)
        self.pruned_ = _as_dict(pruned)
        self._set_words(_as_dict(words))

    def _set_words(self, words: dict[str, int]) -> None:
        self.words_ = _by_count(words)
        self.num_characters_ = sum(len(word) * count for word, count in words.items())
        self.num_distinct_ = len(set("".join(words)))

    def _fit_entropy(self, corpus: Corpus) -> None:
        workers = num_workers(self.workers)
        pairs = count_pairs(corpus, word_characters("ascii" if self.compatible else self.alphabet), workers)
        singles, keys, counts = pairs.result()
        strong = strong_pairs(singles, keys, counts, *self.thresholds, self.criterion)
        self.pair_counts_ = singles, keys, counts
        cutter = Cutter(pairs, keys[strong], self.longest)
        counters = [SequenceCounter(self.memory and self.memory // workers) for _ in range(workers)]

        def count(counter: SequenceCounter, block: Block) -> None:
            count_pieces(cutter, counter, block.codes, block.number)

        pieces, *others = for_each_block(corpus, counters, count, "cutting")
        for other in others:
            pieces.merge(other)
        self.finish(pieces.more_than(pieces.total * self.thresholds[0]), singles)

    def finish(self, candidates: Sequences, singles: np.ndarray) -> "WordDiscoverer":
        """Prune the candidates of method "entropy" and set what `fit` learns.

        Args:
            candidates: in the order of their first occurrence.
            singles: count of every code point (0x110000,).
        """
        self.num_characters_, self.num_distinct_ = int(singles.sum()), int(np.count_nonzero(singles))
        before = len(candidates.counts)
        if not self.compatible:
            candidates = _with_characters(candidates)
        lengths = np.diff(candidates.starts)
        by_length = self.compatible or self.prune_pmi is None
        bounds = lengths - 1.0 if by_length else np.full(len(lengths), float(self.prune_pmi or 0.0))
        unseen = np.log(np.maximum(singles[candidates.symbols], 1) / max(1, singles.sum()))
        counts = prune(candidates, unseen, bounds, compatible=self.compatible).counts
        self.words_ = _by_count(_as_dict(candidates._replace(counts=counts).select(counts > 0)))
        self.pruned_ = _as_dict(candidates.select(np.flatnonzero(counts[:before] == 0)))
        return self


def count_pairs(corpus: Corpus, is_word: np.ndarray, workers: int) -> PairCounter:
    """Characters and adjacent pairs of the whole corpus."""
    first = next(corpus.blocks(), None)
    counter = PairCounter(is_word, first().codes if first else np.zeros(0, np.uint32))
    counters = [counter, *(counter.twin() for _ in range(workers - 1))]
    for_each_block(corpus, counters, lambda state, block: state.add(block.codes), "counting")
    for other in counters[1:]:
        counter.merge(other)
    return counter


def _by_count(words: dict[str, int]) -> dict[str, int]:
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0])))


def _as_dict(found: Sequences) -> dict[str, int]:
    return dict(zip(found.texts(), found.counts.tolist(), strict=True))


def _with_characters(candidates: Sequences) -> Sequences:
    """The candidates and, with count 0, the characters that are in longer ones only: pruning may give them a count."""
    single = candidates.symbols[candidates.starts[:-1][np.diff(candidates.starts) == 1]]
    missing = np.setdiff1d(candidates.symbols, single)
    return Sequences(
        np.concatenate((candidates.symbols, missing)),
        np.concatenate((candidates.starts, candidates.starts[-1] + 1 + np.arange(len(missing)))),
        np.concatenate((candidates.counts, np.zeros(len(missing), np.int64))),
        np.concatenate((candidates.firsts, np.full(len(missing), np.iinfo(np.int64).max))),
    )
