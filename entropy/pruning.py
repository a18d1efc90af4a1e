r"""The second half of the article's algorithm: take out every candidate that its parts explain."""

from typing import NamedTuple

import numpy as np
from numba import njit

from entropy.sequences import SequenceCounter, Sequences, find_sequence, hash_sequence

_ABSENT = -1
_LOG_ZERO = -100.0  # nlp-zero's logarithm of 0


class Pruned(NamedTuple):
    """Counts after the pruning, 0 for what was taken out; each one's multi-part PMI in nats (nan: one character)."""

    counts: np.ndarray
    pmi: np.ndarray


def prune(
    candidates: Sequences,
    unseen: np.ndarray,
    bounds: np.ndarray,
    costs: np.ndarray | None = None,
    compatible: bool = False,
) -> Pruned:
    r"""Longest first, and in the given order among equals: keep a candidate only if its parts do not explain it.

    A candidate seen $n$ times, of frequency $p$, is taken out, segmented by the rest (least total information), and
    stays if $n (\log \frac{p}{\prod_i p_i} - b) > c$; else its count goes to its parts (Su 2018, "pruning",
    where $c = 0$).

    Args:
        candidates: code points and counts; characters that are in longer candidates only, with count 0.
        unseen: log-probability of each of `candidates.symbols` as a part that has no count (float64).
        bounds: $b$ of each candidate in nats. The article: 1. Its author's code: the number of characters minus 1.
        costs: $c$ of each candidate in nats: what its entry in the lexicon takes (default 0).
        compatible: repeat what nlp-zero 0.1.6 computes: equality stays; a part without a count has the logarithm -100
            and so saves every candidate around it; the total still holds the candidate; Latin parts are joined.
    """
    table = SequenceCounter()
    table.add(candidates.symbols, candidates.starts[:-1], candidates.starts[1:])
    lengths = np.diff(candidates.starts)
    order = np.argsort(-lengths, kind="stable")
    counts = candidates.counts.copy()
    scores = np.full(len(counts), np.nan)
    costs = np.zeros(len(counts)) if costs is None else costs
    # the table numbers its sequences as they were added, so its entries are indices of `candidates`
    arrays = (table.hashes, table.entries, table.symbols, table.starts)
    _prune(*arrays, counts, unseen, order, bounds, costs, compatible, int(lengths.max(initial=1)), scores)
    return Pruned(counts, scores)


@njit(cache=True, nogil=True)
def _lookup(hashes, entries, symbols, starts, begin, end):
    """The candidate that equals `symbols[begin:end]`, or -1."""
    value = hash_sequence(symbols, begin, end)
    slot = find_sequence(hashes, entries, symbols, starts, value, symbols, begin, end)
    return np.int64(entries[slot]) if hashes[slot] else np.int64(_ABSENT)


@njit(cache=True, nogil=True)
def _latin(code):
    return 48 <= code <= 57 or 65 <= code <= 90 or 97 <= code <= 122


@njit(cache=True, nogil=True)
def _best_parts(hashes, entries, symbols, starts, counts, begin, end, log_total, unseen, cuts):
    """Segment a candidate by the others; writes the ends of its parts to `cuts`, last first, and returns their number.

    Ties go to the longer last part. A character without a count is a part only where no other way leads past it.
    """
    length = end - begin
    best = np.full(length + 1, -np.inf)
    back = np.zeros(length + 1, np.int64)
    best[0] = 0.0
    for i in range(length):
        for j in range(i + 1, length + 1):
            if j - i == length:
                continue  # the candidate itself is out
            word = _lookup(hashes, entries, symbols, starts, begin + i, begin + j)
            if word >= 0 and counts[word] > 0:
                score = best[i] + np.log(counts[word]) - log_total
                if score > best[j]:
                    best[j], back[j] = score, i
        if best[i + 1] == -np.inf:
            best[i + 1], back[i + 1] = best[i] + unseen[begin + i], i
    num, j = 0, length
    while j > 0:
        cuts[num] = j
        num += 1
        j = back[j]
    return num


@njit(cache=True, nogil=True)
def _join_latin(symbols, begin, cuts, num):
    """Join a part of letters and digits to a part before it that ends in one; returns the new number of parts."""
    out = cuts[:num].copy()
    joining = False
    start = kept = 0
    for k in range(num - 1, -1, -1):
        end = cuts[k]
        all_latin = True
        for i in range(start, end):
            all_latin &= _latin(symbols[begin + i])
        if joining and all_latin:
            out[kept - 1] = end
        else:
            out[kept] = end
            kept += 1
            joining = not joining and _latin(symbols[begin + end - 1])
        start = end
    for k in range(kept):
        cuts[k] = out[kept - 1 - k]
    return kept


@njit(cache=True, nogil=True)
def _prune(hashes, entries, symbols, starts, counts, unseen, order, bounds, costs, compatible, longest, scores):
    total = counts.sum()
    cuts = np.empty(longest, np.int64)
    parts = np.empty(longest, np.int64)
    for word in order:
        begin, end = starts[word], starts[word + 1]
        if end - begin < 2 or counts[word] == 0:
            continue
        count = counts[word]
        log_total = np.log(total)
        log_rest = log_total if compatible or count == total else np.log(total - count)
        num = _best_parts(hashes, entries, symbols, starts, counts, begin, end, log_rest, unseen, cuts)
        if compatible:
            num = _join_latin(symbols, begin, cuts, num)
        score = np.log(count) - log_total
        start = 0
        for k in range(num):
            stop = cuts[num - 1 - k]
            part = _lookup(hashes, entries, symbols, starts, begin + start, begin + stop)
            if part >= 0 and part != word and counts[part] > 0:
                score -= np.log(counts[part]) - log_rest
            else:
                score -= _LOG_ZERO - log_total if compatible else unseen[begin + start]
            parts[k] = part
            start = stop
        scores[word] = score
        gain = count * (score - bounds[word])
        if gain > costs[word] or (compatible and gain == costs[word]):
            continue
        counts[word] = 0
        total -= count
        for k in range(num):
            counts[parts[k]] += count
            total += count
