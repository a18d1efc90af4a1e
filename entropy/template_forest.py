r"""The k best trees of a sentence, read out of its chart (`entropy.template_chart`).

An item is a span of the chart with what it is: ("gap", number of placeholders, i, j), ("row", 0, i, j), ("unit", 0, i,
j), ("anchored", which lead, i, j) or ("spelled", state, i, k).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from entropy.template_chart import Grammar, fill, select, spell
from entropy.template_node import Node

if TYPE_CHECKING:
    from entropy.parser import TemplateParser

Item = tuple[str, int, int, int]  # kind, detail, start, end


def _nothing(_: int) -> None:
    return None


def _with(items: tuple[Item, ...], rest: Any) -> Any:
    """Items put before a linked list of items."""
    for item in reversed(items):
        rest = (item, rest)
    return rest


def _ends(grammar: Grammar) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every end of a template at every place of its last word: node, state, number of the end, place."""
    nodes = np.repeat(np.arange(len(grammar.base)), np.diff(grammar.end_start))
    counts = grammar.num[nodes]
    number = np.repeat(np.arange(len(nodes)), counts)
    nodes = nodes[number]
    offset = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)
    return nodes, grammar.base[nodes] + offset, number, grammar.places[grammar.first[nodes] + offset]


class _Edge(NamedTuple):
    """A way to build an item: what it falls short of the best way, what it stands for, the items it needs."""

    loss: tuple[float, float]  # of score, in ticks; of what orders equal scores
    detail: Any
    tails: tuple[Item, ...]


class Forest:
    """All analyses of a sentence: the chart, and the ways to build each of its items, best first."""

    def __init__(self, parser: TemplateParser, words: list[str], tick: float, scale: Callable[[Any], Any]):
        self.parser, self.words, self.tick = parser, tuple(words), tick
        self.null = float(scale(parser.null_score))
        self.empty = -np.inf if parser.empty_score is None else float(scale(parser.empty_score))
        self.grammar: Grammar = select(parser.trie, words, scale(parser.scores))
        chart = fill(len(words), self.grammar, self.null, self.empty, tick, False)
        self.gaps, self.anchored, self.unit, self.row = chart
        self.leads = self.grammar.leads.tolist()
        self.end_node, self.end_state, self.end_number, self.end_place = _ends(self.grammar)
        self.states: dict[tuple[int, int], np.ndarray] = {}
        self.known: dict[Item, list[_Edge]] = {}

    def trees(self, k: int) -> list[Node]:
        """The k best trees of the whole sentence.

        The chart knows the best completion of every partial tree, so a best-first search follows no wrong way: each
        tree costs as many steps as it has parts, and each step leaves its second best ways behind for later.
        """
        found: list[Node] = []
        root: Item = ("gap", 1, 0, len(self.words))
        # loss of score, loss of order, tie-break: last come first; open items; chosen (item, edge), latest first
        heap: list[tuple[float, float, int, Any, Any]] = [(0.0, 0.0, 0, (root, None), None)]
        pushed = 0
        while heap and len(found) < k:
            score, order, _, todo, chosen = heapq.heappop(heap)
            while todo is not None:
                item, rest = todo
                best, *others = self._edges(item, k)
                for edge in reversed(others):
                    pushed += 1
                    more = (score + edge.loss[0], order + edge.loss[1], -pushed, _with(edge.tails, rest))
                    heapq.heappush(heap, (*more, (item, edge, chosen)))
                todo, chosen = _with(best.tails, rest), (item, best, chosen)
            found.append(self._tree(chosen))
        return found

    def _tree(self, chosen: Any) -> Node:
        """The tree of chosen edges, which come latest first, so that parts are built before what holds them."""
        built: list[Any] = []
        while chosen is not None:
            item, edge, chosen = chosen
            built.append(self._build(item, edge.detail, [built.pop() for _ in edge.tails]))
        return built[0][0]

    def _edges(self, item: Item, k: int) -> list[_Edge]:
        """The k best ways to build an item, at least one; where all is equal, a later split first."""
        if item not in self.known:
            values, details, tails = getattr(self, f"_ways_{item[0]}")(*item[1:])
            values = np.asarray(values)
            if k == 1:
                best = int(values.argmax())
                self.known[item] = [_Edge((0.0, 0.0), details(best), tails(best))]
                return self.known[item]
            order = [i for i in np.argsort(-values, kind="stable")[:k].tolist() if values[i] > -np.inf]
            scores = np.ceil(values[order] / self.tick)
            orders = scores * self.tick - values[order]
            losses = zip((scores[0] - scores).tolist(), (orders - orders[0]).tolist(), strict=True)
            self.known[item] = [_Edge(loss, details(i), tails(i)) for i, loss in zip(order, losses, strict=True)]
        return self.known[item]

    # Each of these returns the values of all ways to build an item, and what way number i stands for and needs.

    def _ways_gap(self, g: int, start: int, end: int) -> tuple:
        if start == end or g == 0:
            return [0.0], _nothing, lambda i: ()
        if g == 1:
            return [self.row[start, end]], _nothing, lambda i: (("row", 0, start, end),)
        values = self.gaps[1, start, start : end + 1] + self.gaps[g - 1, start : end + 1, end]
        return values[::-1], _nothing, lambda i: (("gap", 1, start, end - i), ("gap", g - 1, end - i, end))

    def _ways_row(self, _: int, start: int, end: int) -> tuple:
        values = self.unit[start, start + 1 : end + 1] - 1.0
        values[:-1] += self.row[start + 1 : end, end] + self.null

        def tails(i: int) -> tuple[Item, ...]:
            first: Item = ("unit", 0, start, end - i)
            return (first, ("row", 0, end - i, end)) if i else (first,)

        return values[::-1], _nothing, tails

    def _ways_unit(self, _: int, start: int, end: int) -> tuple:
        lengths = np.arange(end - start)
        values = [
            self.gaps[g, start, start:end] + row[start:end, end]
            for g, row in zip(self.leads, self.anchored, strict=True)
        ]
        ways = np.array(values).reshape(len(self.leads), end - start) - lengths * (lengths + 1)
        leads = self.leads

        def tails(i: int) -> tuple[Item, ...]:
            if i == ways.size:
                return ()
            a, k = i % len(leads), end - 1 - i // len(leads)
            return ("gap", leads[a], start, k), ("anchored", a, k, end)

        word = [0.0 if end == start + 1 else -np.inf]
        return np.concatenate((ways.T[::-1].ravel(), word)), _nothing, tails

    def _ways_anchored(self, a: int, start: int, end: int) -> tuple:
        grammar, (low, high) = self.grammar, self.grammar.tops[a, start].tolist()
        part = slice(*np.searchsorted(self.end_node, (low, high)))
        state, number, k = self.end_state[part], self.end_number[part], self.end_place[part] + 1
        trail = grammar.end_trail[number]
        past = k > end
        length = np.where(past, 0, end - k)
        values = self._spelled(a, start)[state - grammar.base[low]] + grammar.end_weight[number]
        values += self.gaps[trail, np.minimum(k, end), end] - length * (length + 1)
        values[past] = -np.inf

        def tails(i: int) -> tuple[Item, ...]:
            place = int(k[i])
            return ("spelled", int(state[i]), start, place), ("gap", int(trail[i]), place, end)

        return values, lambda i: int(grammar.end_template[number[i]]), tails

    def _ways_spelled(self, state: int, start: int, end: int) -> tuple:
        grammar = self.grammar
        v = int(np.searchsorted(grammar.base, state, side="right")) - 1
        u, g = int(grammar.parent[v]), int(grammar.gap[v])
        if u < 0:
            return [0.0], _nothing, lambda i: ()
        a = next(a for a, (low, high) in enumerate(grammar.tops[:, start].tolist()) if low <= u < high)
        places = grammar.places[grammar.first[u] : grammar.first[u] + grammar.num[u]]
        k = places[places < end - 1] + 1
        base = int(grammar.base[u])
        before = self._spelled(a, start)[base - grammar.base[grammar.tops[a, start, 0]] :][: len(k)]
        values = before + self.gaps[g, k, end - 1] - (end - 1 - k) ** 2

        def tails(i: int) -> tuple[Item, ...]:
            place = len(k) - 1 - i
            return ("spelled", base + place, start, int(k[place])), ("gap", g, int(k[place]), end - 1)

        return values[::-1], _nothing, tails

    def _spelled(self, a: int, start: int) -> np.ndarray:
        """Scores of the states whose first word is at `start`, from the first state of their range of nodes on."""
        if (a, start) not in self.states:
            grammar = self.grammar
            low, high = grammar.tops[a, start]
            states = np.empty(grammar.num_states)
            spell(start, low, high, grammar, self.gaps, 1.0, False, states)
            last = grammar.base[high - 1] + grammar.num[high - 1]
            self.states[a, start] = states[grammar.base[low] : last].copy()
        return self.states[a, start]

    def _build(self, item: Item, detail: Any, parts: list[Any]) -> Any:
        """A derivation as what its item stands for: a node (unit), nodes (row, gap), blocks and template (the rest)."""
        kind, own, start, end = item
        if kind == "row":
            return (parts[0], *(parts[1] if len(parts) > 1 else ()))
        if kind == "spelled":
            return parts[0] + parts[1] if parts else ()
        if kind == "anchored":
            return detail, parts[0] + parts[1]
        if kind == "unit":
            return self._unit(start, end, parts)
        if start == end:
            score = self.parser.empty_score
            return tuple(Node(None, start, end, float(score or 0.0), (), self.words) for _ in range(own))
        return (self._block(start, end, parts[0]),) if own == 1 else parts[0] + parts[1]

    def _unit(self, start: int, end: int, parts: list[Any]) -> Node:
        if not parts:
            return Node(None, start, end, 0.0, (), self.words)
        lead, (index, blocks) = parts
        blocks = lead + blocks
        score = math.fsum([float(self.parser.scores[index]), *(block.score for block in blocks)])
        return Node(self.parser.rules[index], start, end, score, blocks, self.words)

    def _block(self, start: int, end: int, units: tuple[Node, ...]) -> Node:
        if len(units) == 1:
            return units[0]
        score = math.fsum([self.parser.null_score * (len(units) - 1), *(unit.score for unit in units)])
        return Node(None, start, end, score, units, self.words)
