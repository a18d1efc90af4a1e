r"""The parse tree of a sentence: one `Node` a block, and the ways to look at it.

Nothing here recurses: a tree may be as deep as its sentence is long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import TypeVar

Template = tuple[str | None, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Node:
    r"""A block of a sentence: the words from `start` to `end` and how they were explained.

    Args:
        template: the main template, words and None for its placeholders; None for a single word and for a row of units
            that no template joins.
        start: index of the first word.
        end: index after the last word.
        score: natural logarithm of the weight of this block with everything inside it.
        children: for a template, the blocks in its placeholders, in order (an empty placeholder is a block without
            words); for a row, its units; for a word, nothing.
        sentence: all words of the sentence, shared by all nodes.
    """

    template: Template | None
    start: int
    end: int
    score: float
    children: tuple[Node, ...] = ()
    sentence: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The words of this block."""
        return self.sentence[self.start : self.end]

    @property
    def is_leaf(self) -> bool:
        """One word, or an empty placeholder."""
        return self.template is None and not self.children

    def parts(self) -> list[str | Node]:
        """What stands in this block from left to right: the template's own words as strings, blocks as nodes."""
        if self.template is None:
            return list(self.children)
        blocks = iter(self.children)
        return [next(blocks) if word is None else word for word in self.template]

    def walk(self) -> Iterator[Node]:
        """This node, then its descendants, parents first, left to right."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def spans(self) -> set[tuple[int, int]]:
        """(start, end) of every block of two words and more."""
        return {(node.start, node.end) for node in self.walk() if node.end - node.start > 1}

    def fold(self, make: Callable[[Node, list[T]], T]) -> T:
        """Bottom-up reduction: `make(node, results of its children)` for every node."""
        results: list[T] = []
        for node in reversed(list(self.walk())):  # children come right to left, so the first is on top
            count = len(node.children)
            args = [results.pop() for _ in range(count)]
            results.append(make(node, args))
        return results[0]

    def _key(self) -> list[tuple[Template | None, int, int, int]]:
        return [(node.template, node.start, node.end, len(node.children)) for node in self.walk()]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.sentence == other.sentence and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.sentence, tuple(self._key())))

    def __reduce__(self) -> tuple:
        rows = [(node.template, node.start, node.end, node.score, len(node.children)) for node in self.walk()]
        return _from_rows, (self.sentence, rows)  # flat: pickle recurses into what is nested

    def __repr__(self) -> str:
        return f"Node({self.line()!r}, start={self.start}, end={self.end}, score={self.score:.4f})"

    def line(self, sep: str = "") -> str:
        """One level, as the article prints it: blocks in parentheses, the template's own words bare."""
        if self.is_leaf:
            return sep.join(self.words)

        def show(part: str | Node) -> str:
            if isinstance(part, str):
                return part
            bare = self.template is None and part.is_leaf  # a word in a row
            return sep.join(part.words) if bare else f"({sep.join(part.words)})"

        return sep.join(map(show, self.parts()))

    def text(self, sep: str = "") -> str:
        r"""The whole tree as indented text, a line for every word and block.

        >>> print(TemplateParser({(None, "呢"): 1}).parse(["香蕉", "呢"]).text())
        +---> (香蕉)呢
        |     +---> 香蕉
        |     +---> 呢
        """
        lines: list[str] = []
        stack: list[tuple[int, str | Node]] = [(0, self)]
        while stack:
            depth, part = stack.pop()
            label = part if isinstance(part, str) else part.line(sep)
            lines.append("|     " * depth + "+---> " + (label or "()"))
            if isinstance(part, Node):
                stack.extend((depth + 1, below) for below in reversed(part.parts()))
        return "\n".join(lines)

    def label(self, sep: str = " ") -> str:
        """The template with X for its placeholders; "row" for units that no template joins; a leaf is its word."""
        if self.template is not None:
            return sep.join("X" if word is None else word for word in self.template)
        return "row" if self.children else "".join(self.words)

    def brackets(self) -> str:
        r"""Penn style brackets that `nltk.Tree.fromstring` reads: `(X_呢 香蕉 呢)`.

        The label of a block is its template joined by `_`, or `row`; parentheses in words become -LRB- and -RRB-.
        """

        def safe(word: str) -> str:
            return "_".join(word.replace("(", "-LRB-").replace(")", "-RRB-").split()) or "_"

        def make(node: Node, below: list[str]) -> str:
            if node.is_leaf:
                return safe(node.words[0]) if node.words else "(empty )"
            inner = iter(below)
            parts = [safe(part) if isinstance(part, str) else next(inner) for part in node.parts()]
            return f"({safe(node.label('_'))} {' '.join(parts)})"

        text = self.fold(make)
        return f"(row {text})" if self.is_leaf and self.words else text

    def to_json(self) -> str:
        """Nested objects with template (null for a placeholder), words, start, end, score, children."""

        def make(node: Node, below: list[str]) -> str:
            fields = {"template": node.template, "words": node.words, "start": node.start, "end": node.end}
            head = json.dumps({**fields, "score": node.score}, ensure_ascii=False)
            return f'{head[:-1]}, "children": [{", ".join(below)}]}}'

        return self.fold(make)

    def to_dot(self) -> str:
        """A Graphviz digraph: boxes are blocks, plain text is words, in reading order."""
        lines = ["digraph parse {", "  ordering=out;", '  node [shape=box, fontname="sans-serif"];']
        stack: list[tuple[int, str | Node]] = [(-1, self)]
        count = 0
        while stack:
            parent, part = stack.pop()
            own, count = count, count + 1
            plain = isinstance(part, str) or part.is_leaf
            label = part if isinstance(part, str) else part.label()
            label = label.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'  n{own} [label="{label}"{", shape=plaintext" if plain else ""}];')
            if parent >= 0:
                lines.append(f"  n{parent} -> n{own};")
            if isinstance(part, Node):
                stack.extend((own, below) for below in reversed(part.parts()))
        return "\n".join([*lines, "}"]) + "\n"

    def to_svg(self) -> str:
        """A picture: words in a line at the bottom, every block above the words it covers."""
        size, row = 16, 44
        widths = [size * (0.7 * len(word) if word.isascii() else len(word)) + 18 for word in self.sentence]
        left = [sum(widths[:index]) for index in range(len(widths))] if widths else []
        middle = [x + width / 2 for x, width in zip(left, widths, strict=True)]
        depths = {id(self): 0}
        blocks = [node for node in self.walk() if not node.is_leaf]
        for node in blocks:
            depths.update((id(child), depths[id(node)] + 1) for child in node.children)
        floor = (max((depths[id(node)] for node in blocks), default=-1) + 1) * row + 30
        shapes: list[str] = []

        def place(node: Node) -> tuple[float, float]:
            x = (middle[node.start] + middle[node.end - 1]) / 2 if node.words else left[min(node.start, len(left) - 1)]
            return x, floor if node.is_leaf else depths[id(node)] * row + 30

        for node in blocks:
            x, y = place(node)
            position = node.start
            for part in node.parts():
                inside = isinstance(part, Node)
                to_x, to_y = place(part) if inside else (middle[position], floor)  # type: ignore[arg-type]
                position = part.end if inside else position + 1  # type: ignore[union-attr]
                shapes.append(f'<line x1="{x:.1f}" y1="{y + 5}" x2="{to_x:.1f}" y2="{to_y - size:.1f}"/>')
            shapes.append(f'<text x="{x:.1f}" y="{y}" fill="#225">{escape(node.label())}</text>')
        for x, word in zip(middle, self.sentence, strict=True):
            shapes.append(f'<text x="{x:.1f}" y="{floor}">{escape(word)}</text>')
        width = max(sum(widths), 20 + size * len(self.label()))
        style = f'font-family="sans-serif" font-size="{size}" text-anchor="middle" stroke-width="1"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{floor + 14}" {style}>\n'
            "<style>line { stroke: #999 } </style>\n" + "\n".join(shapes) + "\n</svg>\n"
        )


def _from_rows(sentence: tuple[str, ...], rows: list[tuple[Template | None, int, int, float, int]]) -> Node:
    """A tree from its nodes, parents first."""
    built: list[Node] = []
    for template, start, end, score, num_children in reversed(rows):
        children = tuple(built.pop() for _ in range(num_children))
        built.append(Node(template, start, end, score, children, sentence))
    return built[0]
