"""Counts of sequences of code points or of token ids, of any length, exact, spilling to disk when memory runs out."""

import io
import tempfile
import weakref
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numba import njit

from entropy.counting import mix
from entropy.utf8 import to_text

_PARTITION_BITS = 5
_SHIFT = np.uint64(64 - _PARTITION_BITS)
_FREE = np.uint64(0)
_MAX_PACKED = 3
_SMALL_BITS = np.uint64(21)
_MAX_SMALL = (1 << 21) - 1
_HASHED = np.uint64(1 << 63)  # set in hashes, clear in packed sequences
_BYTES_PER_ENTRY = 64  # two slots of 12 bytes, three 64-bit fields, four symbols


class Sequences(NamedTuple):
    """Distinct sequences: entry i is `symbols[starts[i] : starts[i + 1]]`, with its count and its first place."""

    symbols: np.ndarray  # uint32
    starts: np.ndarray  # int64, one more than there are sequences
    counts: np.ndarray  # int64
    firsts: np.ndarray  # int64

    def select(self, chosen: np.ndarray) -> "Sequences":
        """The sequences at the given indices (or where a bool array is true), in that order."""
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(self.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Sequences(self.symbols[places], starts, self.counts[chosen], self.firsts[chosen])

    def texts(self) -> list[str]:
        """The sequences of code points as strings."""
        text, ends = to_text(self.symbols), self.starts.tolist()
        return [text[ends[i] : ends[i + 1]] for i in range(len(ends) - 1)]


@njit(cache=True, nogil=True)
def hash_sequence(symbols, start, end):
    """A number above 0: up to three small symbols packed, which no other sequence shares, else a hash."""
    value = np.uint64(0)
    if end - start <= _MAX_PACKED:
        small = True
        for i in range(start, end):
            small &= symbols[i] < _MAX_SMALL
            value = (value << _SMALL_BITS) | (np.uint64(symbols[i]) + np.uint64(1))
        if small:
            return value
    value = np.uint64(end - start)
    for i in range(start, end):
        value = mix(value ^ np.uint64(symbols[i]))
    return value | _HASHED


@njit(cache=True, nogil=True)
def find_sequence(hashes, entries, symbols, starts, value, query, start, end):
    """The slot of `query[start:end]`, whose hash is `value`, or the free slot where it would go."""
    mask = np.uint64(len(hashes) - 1)
    slot = mix(value) & mask
    while hashes[slot] != _FREE:
        if hashes[slot] == value:
            if not value & _HASHED:
                break
            place = starts[entries[slot]]
            if starts[entries[slot] + 1] - place == end - start:
                k = 0
                while k < end - start and symbols[place + k] == query[start + k]:
                    k += 1
                if k == end - start:
                    break
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _add_spans(hashes, entries, symbols, starts, counts, firsts, used, query, begins, ends, amounts, places, done):
    """Add from span `done` on; stops when a table is full. Returns (where it stopped, number of sequences)."""
    limit = len(hashes) // 2
    for i in range(done, len(begins)):
        begin, end = begins[i], ends[i]
        value = hash_sequence(query, begin, end)
        slot = find_sequence(hashes, entries, symbols, starts, value, query, begin, end)
        if hashes[slot] == _FREE:
            place = starts[used]
            if used >= limit or place + end - begin > len(symbols):
                return i, used
            hashes[slot] = value
            entries[slot] = used
            symbols[place : place + end - begin] = query[begin:end]
            counts[used] = 0
            firsts[used] = places[i]
            used += 1
            starts[used] = place + end - begin
        entry = entries[slot]
        if len(amounts):
            counts[entry] += amounts[i]
            firsts[entry] = min(firsts[entry], places[i])
        else:  # places ascend: one cache miss less
            counts[entry] += 1
    return len(begins), used


class _Place(NamedTuple):
    """Where a part of a table lies in a temporary file."""

    file: BinaryIO
    offset: int
    num: int
    num_symbols: int

    def read(self) -> Sequences:
        self.file.seek(self.offset)
        symbols = np.fromfile(self.file, np.uint32, self.num_symbols)
        return Sequences(symbols, *(np.fromfile(self.file, np.int64, self.num + extra) for extra in (1, 0, 0)))


class SequenceCounter:
    """Counts of sequences of unsigned 32-bit symbols.

    Args:
        memory: bytes that the tables may take; beyond it they are written to temporary files, partitioned by hash, and
            added up when they are read back. None: no bound.
    """

    def __init__(self, memory: int | None = None):
        self.memory = memory
        self.total = 0
        self._file: BinaryIO | None = None
        self._places: list[list[_Place]] = [[] for _ in range(1 << _PARTITION_BITS)]
        self._merged: list[SequenceCounter] = []  # kept alive for their files
        self._start(1 << 14)

    def _start(self, capacity: int) -> None:
        self.hashes = np.zeros(capacity, np.uint64)
        self.entries = np.empty(capacity, np.uint32)
        self.symbols = np.empty(2 * capacity, np.uint32)
        self.starts = np.zeros(capacity // 2 + 1, np.int64)
        self.counts = np.empty(capacity // 2, np.int64)
        self.firsts = np.empty(capacity // 2, np.int64)
        self.used = 0

    def add(
        self,
        symbols: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
        amounts: np.ndarray | None = None,
        firsts: np.ndarray | None = None,
    ) -> None:
        """Count `symbols[begins[i] : ends[i]]` for every i, once each or `amounts[i]` times.

        Args:
            symbols: uint32. begins, ends: int64.
            firsts: where each lies in the corpus (int64); the smallest one is kept. Default: `begins`. Without
                `amounts` they have to ascend, from call to call too.
        """
        amounts = np.empty(0, np.int64) if amounts is None else amounts
        firsts = begins if firsts is None else firsts
        self.total += int(amounts.sum()) if len(amounts) else len(begins)
        done = 0
        while done < len(begins):
            table = (self.hashes, self.entries, self.symbols, self.starts, self.counts, self.firsts)
            done, self.used = _add_spans(*table, self.used, symbols, begins, ends, amounts, firsts, done)
            if done < len(begins):
                self._make_room(int(ends[done] - begins[done]))

    def _make_room(self, length: int) -> None:
        if self.memory is not None and len(self.counts) * 2 * _BYTES_PER_ENTRY > self.memory and self.used:
            self._spill()
            return
        table, capacity = self._table(), len(self.hashes)
        self._start(2 * capacity)
        while len(self.symbols) < 2 * (len(table.symbols) + length):
            self.symbols = np.empty(2 * len(self.symbols), np.uint32)
        self._insert(table)

    def _insert(self, more: Sequences) -> None:
        total = self.total
        self.add(more.symbols, more.starts[:-1], more.starts[1:], more.counts, more.firsts)
        self.total = total

    def _table(self) -> Sequences:
        end = self.starts[self.used]
        return Sequences(
            self.symbols[:end], self.starts[: self.used + 1], self.counts[: self.used], self.firsts[: self.used]
        )

    def _spill(self) -> None:
        """Write the table to the temporary file, a partition after the other, and empty it."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this counter)
            weakref.finalize(self, self._file.close)
        table = self._table()
        full = self.hashes != _FREE
        partition = np.empty(self.used, np.uint8)
        partition[self.entries[full]] = mix.py_func(self.hashes[full]) >> _SHIFT
        for number, places in enumerate(self._places):
            part = table.select(partition == number)
            places.append(_Place(self._file, self._file.seek(0, io.SEEK_END), len(part.counts), len(part.symbols)))
            for array in part:
                array.tofile(self._file)
        self._start(len(self.hashes))

    def merge(self, other: "SequenceCounter") -> None:
        """Add the counts of another counter, which must not be used any more (its temporary file is)."""
        self._insert(other._table())
        for mine, theirs in zip(self._places, other._places, strict=True):
            mine += theirs
        self._merged.append(other)
        self.total += other.total

    def parts(self) -> Iterator[Sequences]:
        """The distinct sequences with their counts, a partition at a time if they were spilled."""
        if not any(self._places):
            yield self._table()
            return
        self._spill()
        for places in self._places:
            part = SequenceCounter()
            for place in places:
                part._insert(place.read())
            yield part._table()

    def more_than(self, count: float) -> Sequences:
        """The sequences seen more than `count` times, ordered by where they were first seen."""
        parts = [part.select(part.counts > count) for part in self.parts()]
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        symbols, counts, firsts = (np.concatenate([part[i] for part in parts]) for i in (0, 2, 3))
        together = Sequences(symbols, np.concatenate(([0], np.cumsum(lengths))), counts, firsts)
        return together.select(np.argsort(firsts, kind="stable"))
