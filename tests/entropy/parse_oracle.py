"""All trees of a sentence by plain enumeration: no chart, no trie, no dynamic programming beyond a memo of spans."""

from itertools import product

import numpy as np

Tree = tuple  # (template or None, start, end, children)


def all_trees(words, templates, null_score=-20.0, empty_score=None):
    """{tree: score} of every analysis of the sentence."""
    total = sum(templates.values())
    memo: dict[tuple[int, int], dict[Tree, float]] = {}

    def blocks(start, end):
        if start == end:
            return {} if empty_score is None else {(None, start, end, ()): empty_score}
        if (start, end) not in memo:
            found = {}
            for row in rows(start, end):
                score = null_score * (len(row) - 1) + sum(value for _, value in row)
                units = tuple(unit for unit, _ in row)
                found[units[0] if len(units) == 1 else (None, start, end, units)] = score
            memo[start, end] = found
        return memo[start, end]

    def rows(start, end):
        """Every way to cut the span into units, each with its score."""
        for middle in range(start + 1, end + 1):
            for unit in units(start, middle):
                if middle == end:
                    yield [unit]
                else:
                    for rest in rows(middle, end):
                        yield [unit, *rest]

    def units(start, end):
        if end == start + 1:
            yield (None, start, end, ()), 0.0
        for template, count in templates.items():
            for spans in matches(template, start, end):
                for fillers in product(*(blocks(*span).items() for span in spans)):
                    score = np.log(count / total) + sum(value for _, value in fillers)
                    yield (template, start, end, tuple(tree for tree, _ in fillers)), score

    def matches(template, start, end):
        """Every choice of spans for the placeholders that spells out words[start:end]."""
        if not template:
            return [[]] if start == end else []
        if template[0] is not None:
            return matches(template[1:], start + 1, end) if start < end and words[start] == template[0] else []
        low = start if empty_score is not None else start + 1
        return [
            [(start, middle), *rest] for middle in range(low, end + 1) for rest in matches(template[1:], middle, end)
        ]

    return blocks(0, len(words))


def as_tuple(node):
    """A `Node` in the oracle's form."""
    return node.template, node.start, node.end, tuple(as_tuple(child) for child in node.children)


def untidiness(tree):
    """What orders trees of equal score at their root: units side by side, then unevenness."""
    template, _, _, children = tree
    if template is None:
        return max(1, len(children)), 0
    lead = next(i for i, word in enumerate(template) if word is not None)
    trail = len(template) - next(i for i, word in enumerate(reversed(template)) if word is not None)
    cost, index = 0, 0
    runs = {}  # placeholders next to each other count as one stretch
    run = 0
    for position, word in enumerate(template):
        if word is not None:
            run += 1
            continue
        child = children[index]
        index += 1
        length, edge = runs.get(run, (0, False))
        runs[run] = (length + child[2] - child[1], edge or position < lead or position >= trail)
    for length, edge in runs.values():
        cost += length * (length + 1) if edge else length**2
    return 1, cost
