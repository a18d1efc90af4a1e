r"""Counters in numba: 64-bit keys, adjacent characters, and sequences of any length.

The kernels release the global lock and take plain arrays, so threads run them side by side, each with its own state;
states are merged by addition. A kernel that meets a full table stops and says how far it came; the class around it
makes room and goes on.
"""

import numpy as np
from numba import njit

EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)  # no packed key has all bits set
_MULTIPLIER = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 / golden ratio
_CODE_BITS = np.uint64(21)
_CODE_MASK = np.uint64((1 << 21) - 1)


@njit(cache=True, nogil=True, inline="always")
def mix(key):
    """A well-spread 64-bit hash of a 64-bit key."""
    key = np.uint64(key) * _MULTIPLIER
    return key ^ (key >> np.uint64(29))


@njit(cache=True, nogil=True, inline="always")
def pack_pair(first, second):
    """Two code points as one key."""
    return (np.uint64(first) << _CODE_BITS) | np.uint64(second)


@njit(cache=True, nogil=True)
def find_slot(keys, key):
    """Where `key` is, or the empty slot where it would go; `len(keys)` is a power of two and one slot is empty."""
    mask = np.uint64(len(keys) - 1)
    slot = mix(key) & mask
    while keys[slot] != key and keys[slot] != EMPTY:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _add_keys(keys, counts, used, new_keys, amounts, start, limit):
    """Add from `start` on; returns (where it stopped, number of used slots)."""
    for i in range(start, len(new_keys)):
        slot = find_slot(keys, new_keys[i])
        if keys[slot] == EMPTY:
            if used >= limit:
                return i, used
            keys[slot] = new_keys[i]
            used += 1
        counts[slot] += amounts[i] if len(amounts) else 1
    return len(new_keys), used


@njit(cache=True, nogil=True)
def _add_pairs(codes, ids, dense, singles, keys, counts, used, start, limit):
    r"""Count characters and adjacent pairs of word characters.

    `ids` maps a code point to 0 (separator), to its row in `dense`, or to `len(dense)` (word character without a row).
    `dense[a, b]` counts pairs of characters with rows, `dense[0, b]` those after a separator.
    Returns (where it stopped, number of used slots): it stops before a pair that finds the table full.
    """
    num_rows = len(dense)
    previous = np.uint32(0)
    previous_id = 0
    if start > 0:  # going on after the table grew
        previous = codes[start - 1]
        previous_id = ids[previous]
    for i in range(start, len(codes)):
        code = codes[i]
        this = ids[code]
        if this < num_rows and previous_id < num_rows:
            dense[previous_id, this] += 1  # separators fall into column 0, which nobody reads
        elif this:
            if previous_id:
                key = pack_pair(previous, code)
                slot = find_slot(keys, key)
                if keys[slot] == EMPTY:
                    if used >= limit:
                        return i, used
                    keys[slot] = key
                    used += 1
                counts[slot] += 1
            singles[code] += 1
        previous, previous_id = code, this
    return len(codes), used


class KeyCounter:
    """Counts of unsigned 64-bit keys (all but 2**64 - 1) in an open-address table that doubles when half full.

    >>> counter = KeyCounter()
    >>> counter.add(np.array([7, 3, 7], np.uint64))
    >>> [array.tolist() for array in counter.items()]
    [[3, 7], [1, 2]]
    """

    def __init__(self, capacity: int = 1 << 12):
        self.used = 0
        self.keys = np.full(capacity, EMPTY, np.uint64)
        self.counts = np.zeros(capacity, np.int64)

    def add(self, keys: np.ndarray, amounts: np.ndarray | None = None) -> None:
        """Count each key once, or `amounts` (int64) times."""
        amounts = np.empty(0, np.int64) if amounts is None else np.ascontiguousarray(amounts, np.int64)
        keys = np.ascontiguousarray(keys, np.uint64)
        done = 0
        while done < len(keys):
            done, self.used = _add_keys(self.keys, self.counts, self.used, keys, amounts, done, self.limit)
            if done < len(keys):
                self.grow()

    def grow(self) -> None:
        """Double the table."""
        keys, counts = self.entries()
        self.__init__(2 * len(self.keys))  # type: ignore[misc]
        self.add(keys, counts)

    @property
    def limit(self) -> int:
        """How many keys the table takes before it must grow."""
        return len(self.keys) // 2

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and counts in the order of the table."""
        full = self.keys != EMPTY
        return self.keys[full], self.counts[full]

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys in ascending order, and their counts."""
        keys, counts = self.entries()
        order = np.argsort(keys)
        return keys[order], counts[order]


class PairCounter:
    """Counts of word characters and of adjacent pairs of them, inside stretches of word characters.

    Args:
        is_word: bool (0x110000,): which code points can be part of a word.
        sample: code points (uint32) from which the frequent characters are taken: they get rows of a dense table, the
            most frequent in one corner of it, which stays in cache. All other pairs go through a hash table; the counts
            are the same whatever the sample.
    """

    DENSE_ROWS = 4096  # 4096^2 32-bit counters: 64 MB

    def __init__(self, is_word: np.ndarray, sample: np.ndarray):
        counts = np.bincount(sample, minlength=len(is_word))
        counts[~is_word] = 0
        order = np.argsort(-counts, kind="stable")
        self.frequent = order[: min(np.count_nonzero(counts), self.DENSE_ROWS - 1)].astype(np.uint64)
        num_rows = len(self.frequent) + 1
        self.ids = np.where(is_word, np.uint16(num_rows), np.uint16(0)).astype(np.uint16)
        self.ids[self.frequent] = np.arange(1, num_rows, dtype=np.uint16)
        self._start(num_rows)

    def _start(self, num_rows: int) -> None:
        self.dense = np.zeros((num_rows, num_rows), np.uint32)
        self.pending = 0  # characters since the 32-bit counters were last emptied
        self.singles = np.zeros(len(self.ids), np.int64)
        self.rest = KeyCounter()

    def twin(self) -> "PairCounter":
        """An empty counter with the same rows, for another thread."""
        twin = object.__new__(PairCounter)
        twin.frequent, twin.ids = self.frequent, self.ids
        twin._start(len(self.dense))
        return twin

    def add(self, codes: np.ndarray) -> None:
        """Count the characters and pairs of `codes` (uint32), a stretch that starts and ends at a separator."""
        self.pending += len(codes)
        if self.pending >= 1 << 32:
            self._empty_dense()
            self.pending = len(codes)
        done = 0
        while done < len(codes):
            rest = self.rest
            done, rest.used = _add_pairs(
                codes, self.ids, self.dense, self.singles, rest.keys, rest.counts, rest.used, done, rest.limit
            )
            if done < len(codes):
                rest.grow()

    def merge(self, other: "PairCounter") -> None:
        """Add the counts of a twin."""
        if self.pending + other.pending < 1 << 32:
            self.dense += other.dense
            self.pending += other.pending
        else:
            other._empty_dense()
        self.singles += other.singles
        self.rest.add(*other.rest.entries())

    def _empty_dense(self) -> None:
        """Move the 32-bit counters of pairs into the table, those of characters into `singles`."""
        self.singles[self.frequent] += self.dense.sum(axis=0, dtype=np.int64)[1:]
        first, second = np.nonzero(self.dense[1:, 1:])
        amounts = self.dense[first + 1, second + 1]
        self.rest.add((self.frequent[first] << _CODE_BITS) | self.frequent[second], amounts.astype(np.int64))
        self.dense[:] = 0

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts of characters by code point (0x110000,); pairs, packed by `pack_pair`, ascending; their counts."""
        self._empty_dense()
        return self.singles, *self.rest.items()


def unpack_pair(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The code points (uint32) of packed pairs."""
    return (keys >> _CODE_BITS).astype(np.uint32), (keys & _CODE_MASK).astype(np.uint32)
