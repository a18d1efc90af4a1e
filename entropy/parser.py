r"""Parse trees from sentence templates (Su 2018, archives/5577).

A block is a run of words. It is a single word (score 0); or one template whose own words stand in it, in order, the
rest being the blocks in its placeholders (score: the logarithm of the template's share of all counts, plus the scores
of its blocks); or a row of such units side by side, each after the first paying `null_score`. The parse is the best
tree over the whole sentence: a context-free grammar with a rule a template, so one chart finds it in O(n^3).

*Deviation* from the original parser: a row may hold templates, where his holds words only, and is compared with
templates on equal terms, where he takes it only if no template spans the block; a placeholder stands where it is
written and nowhere else; (a, b) and (a, None, b) are two templates. Without a template his scores and ours are one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from entropy.errors import UserError
from entropy.template_chart import Trie, fill, select
from entropy.template_forest import Forest
from entropy.template_node import Node, Template

_MANTISSA = 52  # scores are whole numbers in a float64, so that equal scores are equal


class TemplateParser:
    r"""Viterbi, k-best and inside parsing with sentence templates.

    Args:
        templates: a template (words and None for its placeholders) -> how often it was seen (any positive number).
        null_score: natural logarithm of the weight of putting one more unit into a block without a template.
        empty_score: the same for a placeholder left empty; None: a placeholder takes at least one word.
        segment: a function from a string to its words; only needed to parse strings.

    Equal scores (to about 2^-20) are told apart in this order: the fewest units side by side, so a template before a
    row; the most even blocks, that is the least sum of length^2, where a block at an edge of its template counts
    length * (length + 1); the longest first block.

    Raises:
        UserError: a template without a word of its own, or a count that is not positive.

    >>> parser = TemplateParser({(None, "的", None): 12, (None, "呢"): 10})
    >>> parser.parse(["苹果", "的", "颜色", "呢"]).line()
    '(苹果的颜色)呢'
    """

    def __init__(
        self,
        templates: Mapping[Template, float],
        null_score: float = -20.0,
        empty_score: float | None = None,
        segment: Callable[[str], Sequence[str]] | None = None,
    ):
        for template, count in templates.items():
            _check_template(template, count)
        if not (math.isfinite(null_score) and null_score <= 0):
            raise UserError(f"null_score is {null_score}: expected a finite number of at most 0")
        if empty_score is not None and not (math.isfinite(empty_score) and empty_score <= 0):
            raise UserError(f"empty_score is {empty_score}: expected None or a finite number of at most 0")
        total = math.fsum(templates.values())
        self.templates = dict(templates)
        self.null_score, self.empty_score, self.segment = float(null_score), empty_score, segment
        self.rules = list(self.templates)
        self.scores = np.log(np.array(list(self.templates.values()), float) / total) if total else np.empty(0)
        self.trie = Trie(self.rules)

    def template_score(self, template: Template) -> float:
        """Natural logarithm of the template's share of all counts."""
        return math.log(self.templates[template] / math.fsum(self.templates.values()))

    def parse(self, words: Sequence[str] | str) -> Node:
        """The best tree of a sentence, given as its words (or as a string if there is a `segment`)."""
        return self.k_best(words, 1)[0]

    def k_best(self, words: Sequence[str] | str, k: int) -> list[Node]:
        """The k best trees, best first; fewer if there are no more."""
        if k < 1:
            raise UserError(f"k is {k}: expected at least 1")
        words = self._words(words)
        if not words:
            return [Node(None, 0, 0, 0.0)]
        return Forest(self, words, *self._scaled(len(words))).trees(k)

    def inside(self, words: Sequence[str] | str) -> float:
        """Natural logarithm of the summed weights of all trees of a sentence; 0 for no words."""
        words = self._words(words)
        if not words:
            return 0.0
        grammar = select(self.trie, words, self.scores)
        empty = -np.inf if self.empty_score is None else self.empty_score
        return float(fill(len(words), grammar, self.null_score, empty, 0.0, True)[0][1, 0, len(words)])

    def _words(self, words: Sequence[str] | str) -> list[str]:
        if isinstance(words, str):
            if self.segment is None:
                raise UserError(f"{words[:20]!r} is a string: pass its words, or give the parser a segment function")
            words = self.segment(words)
        return list(words)

    def _scaled(self, n: int) -> tuple[float, Callable[[Any], Any]]:
        """The tick of a sentence of n words, and the function that turns scores into whole multiples of it."""
        order = (n * (n + 1)).bit_length() + 1  # bits for what orders equal scores
        most = max(-self.null_score, -(self.empty_score or 0.0), -self.scores.min(initial=-1.0))
        precision = min(20, _MANTISSA - order - math.ceil(math.log2(2 * n * most * (1 + self.trie.max_gap))))
        if precision < 4:
            raise UserError(f"a sentence of {n} words: too long to parse, split it")
        tick = 2.0**order
        return tick, lambda score: np.round(score * 2.0**precision) * tick


def _check_template(template: Template, count: float) -> None:
    if not isinstance(template, tuple) or not all(
        word is None or (isinstance(word, str) and word) for word in template
    ):
        raise UserError(f"template {template!r}: expected a tuple of words and None")
    if all(word is None for word in template):
        raise UserError(f"template {template!r} has no word of its own: it would explain everything; remove it")
    if not (math.isfinite(count) and count > 0):
        raise UserError(f"template {template!r} has count {count!r}: expected a positive number")
