r"""Where words are likely to end, from the branching of character sequences: the start of the `mdl` method.

Legend: $x$ a sequence of $n$ characters, $h_\to(x)$ the entropy of what follows it, $h_\gets(x)$ of what precedes it
(every text end or separator counting as a symbol of its own). Inside a word the next character is easily guessed, at
its end it is not, so the entropy jumps. Autonomy (Magistry and Sagot 2012, "Unsupervized word segmentation: the case
for Mandarin Chinese"):
$a(x) = \Delta_\to(x) - \overline{\Delta_\to}_n + \Delta_\gets(x) - \overline{\Delta_\gets}_n$ with
$\Delta_\to(x_{1..n}) = h_\to(x_{1..n}) - h_\to(x_{1..n-1})$, the same to the left with $x_{2..n}$, and the means over
all distinct sequences of length $n$. A text is cut so that $\sum_i n_i a(x_i)$ is largest.

*Deviation:* each word of two characters and more earns a bonus $D$; the caller chooses it by description length. Rare
words branch little, whatever they are, so without it ($D = 0$, the paper) words seen once or twice fall apart.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit

from entropy.counting import EMPTY, find_slot

SEPARATOR = np.uint32(0)


class _Order(NamedTuple):
    """The distinct sequences of one length: which one starts at each place (-1: none), how often, where first."""

    ids: np.ndarray  # int32, one a position
    counts: np.ndarray  # int64
    places: np.ndarray  # int64


@njit(cache=True, nogil=True)
def _rank(keys, table, values, ids):
    """Number equal keys alike in the order of their first occurrence, EMPTY keys -1; returns how many there are."""
    num = 0
    for i in range(len(keys)):
        if keys[i] == EMPTY:
            ids[i] = -1
            continue
        slot = find_slot(table, keys[i])
        if table[slot] == EMPTY:
            table[slot], values[slot] = keys[i], num
            num += 1
        ids[i] = values[slot]
    return num


def _order(keys: np.ndarray) -> _Order:
    capacity = 1 << (2 * len(keys) + 1).bit_length()
    ids = np.empty(len(keys), np.int32)
    num = _rank(keys, np.full(capacity, EMPTY, np.uint64), np.empty(capacity, np.int32), ids)
    valid = np.flatnonzero(ids >= 0)
    places = np.empty(num, np.int64)
    places[ids[valid[::-1]]] = valid[::-1]
    return _Order(ids, np.bincount(ids[valid], minlength=num), places)


def _longer(symbols: np.ndarray, order: _Order, length: int) -> _Order:
    """The sequences of `length` + 1 symbols from those of `length`."""
    keys = np.full(len(symbols), EMPTY, np.uint64)
    last = symbols[length:]
    valid = np.flatnonzero((order.ids[: len(last)] >= 0) & (last != SEPARATOR))
    keys[valid] = (order.ids[valid].astype(np.uint64) << np.uint64(32)) | last[valid]
    return _order(keys)


def _jumps(
    order: _Order, before: _Order | None, entropies: np.ndarray, entropies_before: np.ndarray, shift: int
) -> np.ndarray:
    """How much the entropy grows with the last symbol (`shift` 0) or with the first (1), less the mean growth."""
    if before is not None:
        entropies = entropies - entropies_before[before.ids[order.places + shift]]
    return entropies - entropies.mean() if len(entropies) else entropies


def _entropies(order: _Order, longer: _Order) -> tuple[np.ndarray, np.ndarray]:
    r"""$h_\to$ and $h_\gets$ in nats, one an entry of `order`.

    $h = \log N - \frac{1}{N} \sum_k n_k \log n_k$ for $N$ occurrences of which $n_k$ continue with symbol $k$; those at
    a separator continue with a symbol of their own, $1 \log 1 = 0$.
    """
    weights = longer.counts * np.log(longer.counts)
    sides = (order.ids[longer.places], order.ids[longer.places + 1])
    totals = [np.bincount(side, weights, minlength=len(order.counts)) for side in sides]
    right, left = (np.log(order.counts) - total / order.counts for total in totals)
    return right, left


def autonomies(symbols: np.ndarray, max_length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For n = 1 ... max_length: which sequence starts at each place (int32, -1: none), and n a(x) of each of them.

    Args:
        symbols: uint32 of shape (N,), 0 separates.
    """
    order = _order(np.where(symbols != SEPARATOR, symbols.astype(np.uint64), EMPTY))
    before: _Order | None = None
    entropies_before = (np.empty(0), np.empty(0))
    for length in range(1, max_length + 1):
        longer = _longer(symbols, order, length)
        entropies = _entropies(order, longer)
        jumps = [_jumps(order, before, entropies[shift], entropies_before[shift], shift) for shift in (0, 1)]
        yield order.ids, length * (jumps[0] + jumps[1])
        before, entropies_before, order = order, entropies, longer


def cut_by_autonomy(scores: np.ndarray, symbols: np.ndarray, bonus: float) -> np.ndarray:
    """Where the best words end: int64 places, each separator a word of its own.

    Args:
        scores: (max_length, N): n a(x) of the word of n symbols that starts at each place; -inf: no word.
        bonus: what each word of two symbols and more earns.
    """
    back = np.empty(len(symbols) + 1, np.int64)
    _best_cut(scores, symbols, bonus, back)
    return backward(back)


@njit(cache=True, nogil=True)
def _best_cut(scores, symbols, bonus, back):
    num = len(symbols)
    best = np.full(num + 1, -np.inf)
    best[0] = 0.0
    for i in range(num):
        if symbols[i] == SEPARATOR:
            best[i + 1], back[i + 1] = best[i], i
            continue
        for length in range(1, min(len(scores), num - i) + 1):
            if scores[length - 1, i] == -np.inf:
                break
            score = best[i] + scores[length - 1, i]
            if length > 1:
                score += bonus
            if score > best[i + length]:
                best[i + length], back[i + length] = score, i


@njit(cache=True, nogil=True)
def backward(back):
    """The ends of the words on the best path; `back[end]` is where the word that ends there starts."""
    num = 0
    j = len(back) - 1
    while j > 0:
        num += 1
        j = back[j]
    ends = np.empty(num, np.int64)
    j = len(back) - 1
    while j > 0:
        num -= 1
        ends[num] = j
        j = back[j]
    return ends
