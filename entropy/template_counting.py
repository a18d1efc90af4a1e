"""Passes over a corpus of word ids: strong skip-grams, templates, and the templates of each clause."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from entropy.corpus import Block, for_each_block
from entropy.counting import KeyCounter
from entropy.errors import UserError
from entropy.sequences import SequenceCounter, Sequences
from entropy.template_paths import add_to_sketch, find_templates, in_sketch, pair_keys, survey, write_paths
from entropy.template_pruning import Choices
from entropy.template_tokens import Tokens

BLOCK = 1 << 19  # tokens
_SYMBOLS = 1 << 22  # room for the templates of one piece
_TOO_MANY = 1e11  # paths, an hour or more
_ID_BITS = np.uint64(32)
_ID_MASK = np.uint64(0xFFFF_FFFF)
_MOST_PARTS = 1 << 12


class Bounds(NamedTuple):
    """What limits the paths; `longest` is the longest clause of the corpus, in words."""

    window: int
    max_words: int
    max_paths: float
    longest: int


class Resources(NamedTuple):
    """Bytes for tables, and threads."""

    memory: int
    workers: int


def unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two word ids (int64) of skip-gram keys."""
    return (keys >> _ID_BITS).astype(np.int64), (keys & _ID_MASK).astype(np.int64)


def strong_pairs(
    tokens: Tokens,
    counts: np.ndarray,
    num_pairs: int,
    window: int,
    min_prob: float,
    min_pmi: float,
    resources: Resources,
) -> KeyCounter:
    """Skip-grams with `count / num_pairs > min_prob` and PMI > `min_pmi`, and their counts.

    A pair is seen at most `window` times as often as its rarer word, so that only frequent words need counting. The
    keys are divided into parts, a thread each, and into more if the table of a part outgrows its memory.
    """
    log_pairs = math.log(max(1, num_pairs))
    log_least = math.log(min_prob) + log_pairs if min_prob else -math.inf
    frequent = counts * window >= min_prob * num_pairs * (1 - 1e-9)
    num_parts = resources.workers
    with ThreadPoolExecutor(resources.workers) as pool:
        while True:
            count = partial(_count_part, tokens, window, frequent, log_least, resources, num_parts)
            parts = [part for part in pool.map(count, range(num_parts)) if part is not None]
            if len(parts) == num_parts:
                break
            num_parts *= 2
    keys, amounts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    first, second = unpack(keys)
    log_probs = np.log(np.maximum(counts, 1)) - math.log(counts.sum())
    strong = np.log(amounts) - log_pairs - log_probs[first] - log_probs[second] > min_pmi
    table = KeyCounter()
    table.add(keys[strong], amounts[strong])
    return table


def _count_part(
    tokens: Tokens,
    window: int,
    frequent: np.ndarray,
    log_least: float,
    resources: Resources,
    num_parts: int,
    part: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and counts of one part, those above the least count; None if they need more memory than there is."""
    counter = KeyCounter()
    keys = np.empty(0, np.uint64)
    for block in tokens.blocks(BLOCK, "counting skip-grams", quiet=part > 0):
        ids = block().codes
        if len(keys) < window * len(ids):
            keys = np.empty(window * len(ids), np.uint64)
        counter.add(keys[: pair_keys(ids, window, frequent, part, num_parts, keys)])
        # 16 bytes a slot, and as much again while it doubles
        if 32 * len(counter.keys) > resources.memory // resources.workers and num_parts < _MOST_PARTS:
            return None
    keys, amounts = counter.items()
    enough = np.log(amounts) > log_least
    return keys[enough], amounts[enough]


class Survey(NamedTuple):
    """Paths that the bounds let through, all paths, clauses read through a narrower window."""

    kept: float
    everything: float
    narrowed: float


def count_paths(tokens: Tokens, strong: np.ndarray, bounds: Bounds, workers: int) -> Survey:
    """How many paths there are; `strong` is the table of strong skip-grams."""

    def look(state: np.ndarray, block: Block) -> None:
        state += survey(block.codes, strong, *bounds)

    states = for_each_block(tokens, [np.zeros(3) for _ in range(workers)], look, "counting paths", BLOCK)
    seen = Survey(*np.sum(states, axis=0).tolist())
    if seen.kept > _TOO_MANY:
        raise UserError(f"{seen.kept:.1e} paths: too many to count one by one; lower max_paths or max_words")
    return seen


def frequent_templates(
    tokens: Tokens, strong: np.ndarray, bounds: Bounds, num_paths: float, least: float, resources: Resources
) -> Sequences:
    """Templates seen more than `least` times.

    Most templates are seen once. So that they need no table, a sketch counts them first by a hash, which is never less
    than their own count.
    """
    writers = [Writer(strong, bounds, resources) for _ in range(resources.workers)]
    if least >= 1:
        wanted = int(4 * num_paths).bit_length()
        allowed = (resources.memory // resources.workers).bit_length() - 1
        sketches = [np.zeros(1 << max(10, min(wanted, allowed)), np.uint8) for _ in writers]
        for writer, sketch in zip(writers, sketches, strict=True):
            writer.sketch = sketch
        for_each_block(tokens, writers, Writer.add_to_sketch, "sketching templates", BLOCK)
        total = sketches[0]
        for sketch in sketches[1:]:
            np.minimum(total, 255 - sketch, out=total)
            total += sketch
        for writer in writers:
            writer.sketch, writer.least = total, min(255, math.floor(least) + 1)
    for_each_block(tokens, writers, Writer.add_to_counter, "counting templates", BLOCK)
    for writer in writers[1:]:
        writers[0].counter.merge(writer.counter)
    return writers[0].counter.more_than(least)


def choices_of(
    tokens: Tokens, found: Sequences, strong: np.ndarray, bounds: Bounds, num_clauses: int, resources: Resources
) -> Choices:
    """Which of the found templates each clause has. Takes 16 bytes for each that a clause has."""
    counter = SequenceCounter()
    counter.add(found.symbols, found.starts[:-1], found.starts[1:])
    writers = [Writer(strong, bounds, resources) for _ in range(resources.workers)]
    for writer in writers:
        writer.counter = counter
    for_each_block(tokens, writers, Writer.find, "looking up templates", BLOCK)
    blocks = {index: pieces for writer in writers for index, pieces in writer.found.items()}
    ids, clauses = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for index in sorted(blocks):
        for some, starts in blocks[index]:
            ids.append(some)
            clauses.append(starts + (index << 36))
    clause = np.concatenate(clauses)
    new = np.flatnonzero(np.diff(clause, prepend=-1))
    return Choices(np.concatenate(ids), np.append(new, len(clause)), num_clauses)


class Writer:
    """The templates of blocks, by one thread."""

    def __init__(self, strong: np.ndarray, bounds: Bounds, resources: Resources):
        self.strong, self.bounds, self.memory = strong, bounds, resources.memory
        self.counter = SequenceCounter(resources.memory // resources.workers)
        self.sketch = np.empty(0, np.uint8)
        self.least = 0
        self.found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._make_room(_SYMBOLS, _SYMBOLS // 4)

    def _make_room(self, num_symbols: int, num_templates: int) -> None:
        self.symbols = np.empty(num_symbols, np.uint32)
        self.begins, self.ends, self.clauses = (np.empty(num_templates, np.int64) for _ in range(3))

    def pieces(self, block: Block) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Begins and ends of templates in `symbols`, and where their clauses start in the block."""
        start = 0
        while start < len(block.codes):
            arrays = self.symbols, self.begins, self.ends, self.clauses
            start, num, size, paths = write_paths(block.codes, start, self.strong, *self.bounds, *arrays)
            yield self.begins[:num], self.ends[:num], self.clauses[:num]
            if size > len(self.symbols) or paths > len(self.begins):
                if 4 * size + 24 * paths > max(self.memory, 1 << 30):
                    raise UserError(
                        f"a clause has {paths} paths, too many for memory; lower max_paths or break the text into lines"
                    )
                self._make_room(max(size, len(self.symbols)), max(paths, len(self.begins)))

    def add_to_sketch(self, block: Block) -> None:
        for begins, ends, _ in self.pieces(block):
            add_to_sketch(self.symbols, begins, ends, self.sketch)

    def add_to_counter(self, block: Block) -> None:
        seen = block.number << 36
        for begins, ends, _ in self.pieces(block):
            places = np.arange(seen, seen + len(begins))
            seen += len(begins)
            if self.least:
                chosen = in_sketch(self.symbols, begins, ends, self.sketch, self.least)
                begins, ends, places = begins[chosen], ends[chosen], places[chosen]
            self.counter.add(self.symbols, begins, ends, None, places)

    def find(self, block: Block) -> None:
        """Note which of the templates in `counter` each clause has."""
        table = self.counter
        for begins, ends, clauses in self.pieces(block):
            ids = find_templates(self.symbols, begins, ends, table.hashes, table.entries, table.symbols, table.starts)
            known = ids >= 0
            self.found.setdefault(block.number, []).append((ids[known], clauses[known]))
