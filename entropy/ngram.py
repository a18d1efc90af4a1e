r"""Word discovery by n-grams that hold together at every split (Jianlin Su's later algorithm, "word-discovery", 2019).

1. Count n-grams of word characters to order 4. An n-gram is solid if its weakest split
   $\min_j \log \frac{N n_{1..k}}{n_{1..j} n_{j+1..k}}$ reaches the threshold of its order, $N$ the number of
   characters.
2. *Cut*: two neighbours stay together if some solid n-gram covers both.
3. *Back-check*: a piece of up to 4 characters has to be solid itself, in a longer one every 4 in a row; pieces of two
   stay in any case.

*Deviation:* the original takes for $N$ the number of frequent 4-grams, counted with their padding; here it is what the
formula says.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from entropy.characters import word_characters
from entropy.corpus import Block, Corpus, for_each_block
from entropy.errors import UserError
from entropy.sequences import SequenceCounter, Sequences, find_sequence, hash_sequence


def discover(
    corpus: Corpus,
    min_pmi: Sequence[float],
    min_count: int,
    max_length: int,
    alphabet: str,
    workers: int,
    memory: int | None,
) -> tuple[Sequences, Sequences]:
    """The words and the pieces that fail the back-check, both in the order of their first occurrence.

    Args:
        min_pmi: threshold in nats of order 1, 2, ...: their number is the highest order. That of order 1 is not used.
        min_count: occurrences, of n-grams and of words.
        max_length: characters; longer pieces are cut into pieces of this length.
    """
    order = len(min_pmi)
    if not 2 <= order <= 8:
        raise UserError(f"min_pmi_by_order={min_pmi!r}: expected 2 to 8 thresholds, one an order, such as (0, 2, 4, 6)")
    is_word = word_characters(alphabet)

    def count_ngrams(counter: SequenceCounter, block: Block) -> None:
        run = _run_lengths(is_word[block.codes])
        for length in range(1, order + 1):
            begins = np.flatnonzero(run >= length)
            counter.add(block.codes, begins, begins + length, firsts=begins + (block.number << 32))

    grams = _counted(corpus, count_ngrams, workers, memory, "n-grams").more_than(min_count - 1)
    solid = _solid(grams, np.asarray(min_pmi, float))
    table = _table(grams.select(solid))

    def count_pieces(counter: SequenceCounter, block: Block) -> None:
        ends = np.empty(len(block.codes), np.int64)
        begins = np.empty(len(block.codes), np.int64)
        num = _cut(block.codes, is_word, *table, order, max_length, begins, ends)
        counter.add(block.codes, begins[:num], ends[:num], firsts=begins[:num] + (block.number << 32))

    pieces = _counted(corpus, count_pieces, workers, memory, "cutting").more_than(min_count - 1)
    good = np.empty(len(pieces.counts), np.bool_)
    _back_check(pieces.symbols, pieces.starts, *table, order, good)
    return pieces.select(good), pieces.select(~good)


def _counted(
    corpus: Corpus, work: Callable[[SequenceCounter, Block], None], workers: int, memory: int | None, what: str
) -> SequenceCounter:
    counters = [SequenceCounter(memory and memory // workers) for _ in range(workers)]
    first, *others = for_each_block(corpus, counters, work, what)
    for other in others:
        first.merge(other)
    return first


def _run_lengths(inside: np.ndarray) -> np.ndarray:
    """How many places from each one on are inside, itself included."""
    outside = np.flatnonzero(np.append(~inside, True))
    places = np.arange(len(inside))
    return outside[np.searchsorted(outside, places)] - places


def _table(grams: Sequences) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    table = SequenceCounter()
    table.add(grams.symbols, grams.starts[:-1], grams.starts[1:])
    return table.hashes, table.entries, table.symbols, table.starts


def _solid(grams: Sequences, min_pmi: np.ndarray) -> np.ndarray:
    lengths = np.diff(grams.starts)
    solid = np.empty(len(grams.counts), np.bool_)
    total = grams.counts[lengths == 1].sum()
    _find_solid(*_table(grams), grams.starts, grams.symbols, grams.counts, float(total), min_pmi, solid)
    return solid


@njit(cache=True, nogil=True)
def _count_of(hashes, entries, symbols, starts, counts, query, begin, end):
    slot = find_sequence(hashes, entries, symbols, starts, hash_sequence(query, begin, end), query, begin, end)
    return counts[entries[slot]] if hashes[slot] else 0


@njit(cache=True, nogil=True)
def _find_solid(hashes, entries, symbols, starts, places, query, counts, total, min_pmi, solid):
    for i in range(len(counts)):
        begin, end = places[i], places[i + 1]
        weakest = np.inf
        for middle in range(begin + 1, end):
            left = _count_of(hashes, entries, symbols, starts, counts, query, begin, middle)
            right = _count_of(hashes, entries, symbols, starts, counts, query, middle, end)
            weakest = min(weakest, np.log(total * counts[i] / (np.float64(left) * right)))
        solid[i] = end - begin > 1 and weakest >= min_pmi[end - begin - 1]


@njit(cache=True, nogil=True)
def _is_solid(hashes, entries, symbols, starts, query, begin, end):
    value = hash_sequence(query, begin, end)
    return hashes[find_sequence(hashes, entries, symbols, starts, value, query, begin, end)] != 0


@njit(cache=True, nogil=True)
def _cut(codes, is_word, hashes, entries, symbols, starts, order, max_length, begins, ends):
    """Pieces joined by overlapping solid n-grams; returns their number."""
    num = 0
    begin = -1
    reach = 0  # the open piece goes at least so far
    for i in range(len(codes) + 1):
        inside = i < len(codes) and is_word[codes[i]]
        if begin >= 0 and (not inside or i >= reach or i - begin == max_length):
            begins[num], ends[num] = begin, i
            num += 1
            begin = -1
        if not inside:
            continue
        if begin < 0:
            begin = i
            reach = max(reach, i + 1)
        length = 1
        while length < order and i + length < len(codes) and is_word[codes[i + length]]:
            length += 1
        while length > 1 and i + length > reach:
            if _is_solid(hashes, entries, symbols, starts, codes, i, i + length):
                reach = i + length
            length -= 1
    return num


@njit(cache=True, nogil=True)
def _back_check(query, places, hashes, entries, symbols, starts, order, good):
    for i in range(len(good)):
        begin, end = places[i], places[i + 1]
        good[i] = True
        if end - begin >= 3:
            window = min(order, end - begin)
            for k in range(begin, end - window + 1):
                good[i] &= _is_solid(hashes, entries, symbols, starts, query, k, k + window)
