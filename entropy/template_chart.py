r"""The chart of the template parser: a trie of dotted templates, and one O(n^3) kernel for best and total scores.

A template is a run of placeholders (`lead`), words with runs of placeholders between them (`gap`), and a run of
placeholders (`trail`). Blocks are filled from the last start to the first, so that everything to the right of the start
i is known. Positions are between words, n the number of words:

    spell     (i, k)  a template's words from its first at i to the one that ends at k, the blocks between them included
    anchored  (i, j)  a template from its first word at i to its end at j, trailing placeholders included
    unit      (i, j)  a single word, or a whole template: leading placeholders, then anchored
    row       (i, j)  one unit, or several side by side, each after the first paying `null`
    gaps[g]   (i, j)  g placeholders: rows; gaps[1] is the block itself

Which templates can start, go on and end meets the sentence only in `spell`; everything else knows no template, which is
why the number of templates hardly matters. Earley (1970), Goodman (1999) for the two semirings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from entropy.template_node import Template


class Trie:
    """Templates as a forest of dotted rules, a root for each number of leading placeholders."""

    def __init__(self, templates: list[Template]):
        self.roots: dict[int, int] = {}
        self.edges: list[dict[str, list[tuple[int, int]]]] = []  # node -> word -> (gap before the word, node)
        self.ends: list[list[tuple[int, int]]] = []  # node -> (trailing placeholders, template)
        self.max_gap = 1
        for index, template in enumerate(templates):
            self._add(template, index)

    def _node(self) -> int:
        self.edges.append({})
        self.ends.append([])
        return len(self.edges) - 1

    def _add(self, template: Template, index: int) -> None:
        node, gap = -1, 0
        for word in template:
            if word is None:
                gap += 1
                self.max_gap = max(self.max_gap, gap)
                continue
            if node < 0:
                if gap not in self.roots:
                    self.roots[gap] = self._node()
                node, gap = self.roots[gap], 0
            targets = self.edges[node].setdefault(word, [])
            known = [target for before, target in targets if before == gap]
            if not known:
                known = [self._node()]
                targets.append((gap, known[0]))
            node, gap = known[0], 0
        self.ends[node].append((gap, index))


class Grammar(NamedTuple):
    """What a sentence needs of the trie, as arrays.

    A state is a node together with one place of its last word: state `base[v] + o` is node v at `places[first[v] + o]`.
    Nodes are in depth-first order, so a subtree is a range of nodes, and parents come before children.
    """

    base: np.ndarray  # node -> first state
    first: np.ndarray  # node -> where the places of its last word start in `places`
    num: np.ndarray  # node -> how many places its last word has
    parent: np.ndarray  # node -> node; -1 below a root
    gap: np.ndarray  # node -> placeholders before its last word
    places: np.ndarray  # places of the distinct words of the sentence, ascending for each
    edge_start: np.ndarray  # node -> first edge; one more entry than nodes
    edge_to: np.ndarray  # edge -> node
    end_start: np.ndarray  # node -> first end; one more entry than nodes
    end_trail: np.ndarray  # end -> trailing placeholders
    end_weight: np.ndarray  # end -> score of the template
    end_template: np.ndarray  # end -> index of the template
    tops: np.ndarray  # (number of leads, n, 2): the range of nodes whose first word is at i
    leads: np.ndarray  # number of leading placeholders of each row of `tops`
    num_states: int


def select(trie: Trie, words: list[str], weights: np.ndarray) -> Grammar:
    """The part of the trie that a sentence can reach."""
    where: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        where.setdefault(word, []).append(place)
    first_of: dict[str, int] = {}
    places: list[int] = []
    for word, found in where.items():
        first_of[word] = len(places)
        places += found
    rows: list[tuple[int, int, int, int, int, int]] = []  # base, first, count, parent, gap, trie node
    leads = sorted(trie.roots)
    tops = np.zeros((len(leads), len(words), 2), np.int64)
    num_states = 0
    for row, lead in enumerate(leads):
        for word in [word for word in where if word in trie.edges[trie.roots[lead]]]:
            top = len(rows)
            # below a root a word has one edge, without a gap; (parent, gap, node, word, place that must lie before)
            stack = [(-1, 0, node, word, -1) for _, node in trie.edges[trie.roots[lead]][word]]
            while stack:
                parent, gap, node, last, after = stack.pop()
                own, found = len(rows), where[last]
                earliest = next(place for place in found if place > after)
                rows.append((num_states, first_of[last], len(found), parent, gap, node))
                num_states += len(found)
                edges = trie.edges[node]
                for word_below in edges if len(edges) < len(where) else where:
                    if word_below in edges and word_below in where and where[word_below][-1] > earliest:
                        stack += [(own, before, target, word_below, earliest) for before, target in edges[word_below]]
            tops[row, where[word]] = top, len(rows)
    table = np.array(rows, np.int64).reshape(-1, 6)
    parent = table[:, 3].copy()
    children = np.flatnonzero(parent >= 0)
    children = children[np.argsort(parent[children], kind="stable")]
    edge_start = np.concatenate(([0], np.cumsum(np.bincount(parent[children], minlength=len(rows)))))
    ends = [(own, *end) for own, node in enumerate(table[:, 5].tolist()) for end in trie.ends[node]]
    end_table = np.array(ends, np.int64).reshape(-1, 3)
    end_start = np.concatenate(([0], np.cumsum(np.bincount(end_table[:, 0], minlength=len(rows)))))
    base, first, num = (np.ascontiguousarray(table[:, column]) for column in (0, 1, 2))
    return Grammar(
        base,
        first,
        num,
        parent,
        np.ascontiguousarray(table[:, 4]),
        np.array(places, np.int64),
        edge_start.astype(np.int64),
        children.astype(np.int64),
        end_start.astype(np.int64),
        np.ascontiguousarray(end_table[:, 1]),
        weights[end_table[:, 2]].astype(np.float64),
        np.ascontiguousarray(end_table[:, 2]),
        tops,
        np.array(leads, np.int64),
        num_states,
    )


@njit(cache=True, nogil=True, inline="always")
def plus(a, b, total):
    """The better of two scores, or the logarithm of the sum of their exponentials."""
    if not total or a == -np.inf or b == -np.inf:
        return max(a, b)
    return max(a, b) + np.log1p(np.exp(-abs(a - b)))


@njit(cache=True, nogil=True, inline="always")
def whole(value, tick):
    """A score without what was taken off it to order equal scores: up to the next multiple of `tick`."""
    return np.ceil(value / tick) * tick if tick > 0 and value > -np.inf else value


@njit(cache=True, nogil=True)
def spell(start, low, high, grammar, gaps, uneven, total, states):
    """Fill `states` for nodes low to high, whose first word is at `start`; see `fill` for the rest."""
    base, first, num, gap, places = grammar.base, grammar.first, grammar.num, grammar.gap, grammar.places
    states[base[low] : base[high - 1] + num[high - 1]] = -np.inf
    for o in range(num[low]):
        if places[first[low] + o] == start:
            states[base[low] + o] = 0.0
    for v in range(low, high):
        for o in range(num[v]):
            value = states[base[v] + o]
            if value == -np.inf:
                continue
            k = places[first[v] + o] + 1
            for edge in range(grammar.edge_start[v], grammar.edge_start[v + 1]):
                u = grammar.edge_to[edge]
                for p in range(num[u] - 1, -1, -1):
                    place = places[first[u] + p]
                    if place < k:
                        break
                    more = value + gaps[gap[u], k, place] - uneven * (place - k) ** 2
                    states[base[u] + p] = plus(states[base[u] + p], more, total)


@njit(cache=True, nogil=True)
def fill(n, grammar, null, empty, tick, total):
    r"""The chart of a sentence of n words.

    Args:
        null: score of every unit after the first of a row. empty: score of an empty placeholder, -inf forbids it.
        tick: scores are multiples of it; smaller amounts, taken off for uneven blocks and long rows, order equal
            scores. 0 for totals.
        total: sum over all analyses in place of the best one.

    Returns:
        gaps (1 + most placeholders in a run, n + 1, n + 1), anchored (one a lead, n + 1, n + 1), unit, row (n + 1,
        n + 1).
    """
    leads = grammar.leads
    num_gaps = 2
    for lead in leads:
        num_gaps = max(num_gaps, lead + 1)
    for v in range(len(grammar.gap)):
        num_gaps = max(num_gaps, grammar.gap[v] + 1)
    for end in range(len(grammar.end_trail)):
        num_gaps = max(num_gaps, grammar.end_trail[end] + 1)
    uneven = 1.0 if tick > 0 else 0.0
    gaps = np.full((num_gaps, n + 1, n + 1), -np.inf)
    anchored = np.full((len(leads), n + 1, n + 1), -np.inf)
    unit = np.full((n + 1, n + 1), -np.inf)
    row = np.full((n + 1, n + 1), -np.inf)
    states = np.empty(grammar.num_states)
    for i in range(n + 1):
        gaps[0, i, i] = 0.0
        for g in range(1, num_gaps):
            gaps[g, i, i] = g * empty
    spelled = np.empty((num_gaps, n + 1))
    for i in range(n - 1, -1, -1):
        for a in range(len(leads)):  # anchored
            low, high = grammar.tops[a, i]
            if low == high:
                continue
            spell(i, low, high, grammar, gaps, uneven, total, states)
            spelled[:] = -np.inf
            for v in range(low, high):
                for end in range(grammar.end_start[v], grammar.end_start[v + 1]):
                    for o in range(grammar.num[v]):
                        value = states[grammar.base[v] + o]
                        if value > -np.inf:
                            g, k = grammar.end_trail[end], grammar.places[grammar.first[v] + o] + 1
                            spelled[g, k] = plus(spelled[g, k], value + grammar.end_weight[end], total)
            for g in range(num_gaps):
                for k in range(i + 1, n + 1):
                    if spelled[g, k] == -np.inf:
                        continue
                    for j in range(k, n + 1 if g else k + 1):
                        value = spelled[g, k] + gaps[g, k, j] - uneven * (j - k) * (j - k + 1)
                        anchored[a, i, j] = plus(anchored[a, i, j], value, total)
        for j in range(i + 1, n + 1):
            best = 0.0 if j == i + 1 else -np.inf
            for a in range(len(leads)):
                g = leads[a]
                for k in range(i, j if g else i + 1):
                    value = gaps[g, i, k] + anchored[a, k, j] - uneven * (k - i) * (k - i + 1)
                    best = plus(best, value, total)
            unit[i, j] = whole(best, tick)
            best = unit[i, j] - uneven
            for k in range(i + 1, j):
                best = plus(best, unit[i, k] + null + row[k, j] - uneven, total)
            row[i, j] = best
            gaps[1, i, j] = whole(best, tick)
            for g in range(2, num_gaps):
                best = -np.inf
                for k in range(i, j + 1):
                    best = plus(best, gaps[1, i, k] + gaps[g - 1, k, j], total)
                gaps[g, i, j] = best
    return gaps, anchored, unit, row
