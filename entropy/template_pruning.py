r"""Which templates pay: a two-part code of the corpus, after the principle of Su 2018 (archives/5577).

A clause of n words is told either word by word, or as a template and its fillers:

    bits(clause)            = log2 1/p(no template) + filler(n words)
    bits(clause, template)  = log2 1/p(template) + sum of filler(words of a placeholder)
    filler(words)           = sum log2 1/p(word) + (length - 1) log2 1/(1 - s) + log2 1/s,   s = 1 / mean clause length

and a template has to be told once: its symbols (word, placeholder or end: log2 3 bits each), its words (log2 1/p(word))
and the precision of its probability (log2(number of clauses) / 2). p(word) is the word's share of the corpus,
p(template) the share of the clauses that choose it, half a clause added. What the corpus is shorter without, goes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from entropy.sequences import Sequences


class Choices(NamedTuple):
    """Which templates each clause could be told with: those of clause c are ids[starts[c] : starts[c + 1]]."""

    ids: np.ndarray  # int64
    starts: np.ndarray  # int64, one more than there are clauses with a choice
    num_clauses: int  # with and without a choice


class Pruned(NamedTuple):
    """Bits of the corpus without templates, with all and with those kept; which are kept, and what each saves."""

    bits_without: float
    bits_all: float
    bits_kept: float
    kept: np.ndarray  # bool, one a template
    saved: np.ndarray  # bits the corpus would grow by without it; 0 if not kept


def prune_templates(templates: Sequences, choices: Choices, word_counts: np.ndarray) -> Pruned:
    """Drop templates whose clauses lose less than the template costs, as long as the code gets shorter.

    Those dropped in one round are independent: no clause has two of them as its best and its next best.

    Args:
        templates: sequences of word ids and 0 for placeholders.
        choices: the templates that each clause has.
        word_counts: how often each word id was seen; id 0 is not looked at.
    """
    total_words = word_counts.sum()
    word_bits = -np.log2(np.maximum(word_counts, 1) / total_words)
    gains, costs = _gains_and_costs(templates, word_bits, choices.num_clauses, total_words)
    kept = np.ones(len(gains), bool)
    state = everything = _learn(choices, gains, costs, kept)
    drop = state.usage == 0
    while drop.any():
        trial = _learn(choices, gains, costs, kept & ~drop)
        if trial.bits >= state.bits:
            break
        state, kept = trial, kept & ~drop
        drop = kept & (state.margins <= costs)
        order = np.empty(len(gains), np.int64)
        order[np.argsort(state.margins - costs, kind="stable")] = np.arange(len(gains))
        drop &= ~_needed(state.first, state.second, drop, order)
    base = _bits_without(word_counts, word_bits, choices.num_clauses, total_words)
    if state.bits > 0:  # a handful of clauses: no template pays
        kept[:] = False
    saved = np.where(kept, state.margins - costs, 0.0)
    return Pruned(base, base + everything.bits, base + min(0.0, state.bits), kept, saved)


def _gains_and_costs(
    templates: Sequences, word_bits: np.ndarray, num_clauses: int, total_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each template: the bits by which it shortens a clause before log p, and the bits to tell it."""
    is_word = templates.symbols > 0
    cumulated = np.concatenate(([0.0], np.cumsum(np.where(is_word, word_bits[templates.symbols], 0.0))))
    spelled = np.diff(cumulated[templates.starts])
    num_words = np.diff(np.concatenate(([0], np.cumsum(is_word)))[templates.starts])
    lengths = np.diff(templates.starts)
    go_on, stop = _length_bits(num_clauses, total_words)
    num_fillers = lengths - num_words
    gains = spelled + (num_words + num_fillers - 1) * go_on + (1 - num_fillers) * stop
    costs = (lengths + 1) * np.log2(3) + spelled + np.log2(num_clauses) / 2
    return gains, costs


def _length_bits(num_clauses: int, total_words: int) -> tuple[float, float]:
    """log2 1/(1 - s) and log2 1/s; s is at most 1/2, so that clauses of one word do not make it certain."""
    s = min(0.5, num_clauses / total_words)
    return -np.log2(1 - s), -np.log2(s)


def _bits_without(word_counts: np.ndarray, word_bits: np.ndarray, num_clauses: int, total_words: int) -> float:
    go_on, stop = _length_bits(num_clauses, total_words)
    return float(word_counts @ word_bits + (total_words - num_clauses) * go_on + num_clauses * stop)


class _State(NamedTuple):
    """The best use of some templates: its bits relative to no templates at all, costs included; for each template, how
    many clauses choose it and by how many bits those would grow without it; for each clause with a choice, its template
    and the next best one, -1 for none."""

    bits: float
    usage: np.ndarray
    margins: np.ndarray
    first: np.ndarray
    second: np.ndarray


def _learn(choices: Choices, gains: np.ndarray, costs: np.ndarray, kept: np.ndarray) -> _State:
    """Choose and count in turn until the code gets no shorter."""
    num_clauses, num_choices = choices.num_clauses, len(choices.starts) - 1
    scale = np.log2(num_clauses + 0.5 * (1 + kept.sum()))
    usage = np.bincount(choices.ids, minlength=len(gains)).astype(float)  # at first, as if every clause chose them all
    none = num_clauses / 2
    best: _State | None = None
    while True:
        values = np.where(kept, gains + np.log2(usage + 0.5) - scale, -np.inf)
        none_value = np.log2(none + 0.5) - scale
        usage, margins = np.zeros(len(gains)), np.zeros(len(gains))
        first, second = np.empty(num_choices, np.int64), np.empty(num_choices, np.int64)
        bits = _choose(choices.ids, choices.starts, values, none_value, usage, margins, first, second)
        bits += costs[kept].sum() - (num_clauses - num_choices) * none_value
        none = num_clauses - usage.sum()
        if best is not None and not bits < best.bits * (1 - 1e-9 * np.sign(best.bits)):
            return best
        best = _State(float(bits), usage, margins, first, second)


@njit(cache=True)
def _choose(ids, starts, values, none, usage, margins, first, second):
    """Each clause takes its most valuable template, or none; returns the bits of all these clauses."""
    bits = 0.0
    for c in range(len(starts) - 1):
        best, next_best, first[c], second[c] = none, -np.inf, -1, -1
        for i in range(starts[c], starts[c + 1]):
            value = values[ids[i]]
            if ids[i] == first[c] or ids[i] == second[c]:
                continue
            if value > best:
                best, next_best, first[c], second[c] = value, best, ids[i], first[c]
            elif value > next_best:
                next_best, second[c] = value, ids[i]
        bits -= best
        if first[c] >= 0:
            usage[first[c]] += 1
            margins[first[c]] += best - next_best
    return bits


@njit(cache=True)
def _needed(first, second, drop, order):
    """Templates that must outlive this round: those that would take over the clauses of one dropped before them."""
    needed = np.zeros(len(drop), np.bool_)
    for c in range(len(first)):
        a, b = first[c], second[c]
        if a >= 0 and b >= 0 and drop[a] and drop[b]:
            needed[a if order[a] > order[b] else b] = True
    return needed
