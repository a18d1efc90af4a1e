r"""Unlabelled F1 of parse trees against a treebank.

The gold trees are constituents in Penn brackets, or dependencies in CoNLL-U, where a constituent is a subtree whose
words are contiguous. Punctuation is dropped first; single words and the whole sentence do not count as spans, and
sentences of one word are left out. Corpus F1 pools the spans of all sentences; sentence F1 is the mean over sentences,
where a sentence without gold spans has recall 1, and precision 1 if none are predicted either (as Shen et al. 2018 and
their successors compute it, Kim et al. 2019).

    python -m entropy.evaluate --trees zh_gsdsimp-ud-test.conllu --templates templates.tsv
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import NamedTuple

from tqdm import tqdm

from entropy.commands import table
from entropy.errors import UserError
from entropy.lexicon import open_text
from entropy.parser import TemplateParser
from entropy.template_file import read_templates

Span = tuple[int, int]
_PUNCTUATION_TAGS = {"PU", ".", ",", ":", "``", "''", "-LRB-", "-RRB-", "-NONE-", "HYPH", "NFP", "#", "$"}


class GoldTree(NamedTuple):
    """The words of a sentence without punctuation, and its spans of two words and more, but for the whole sentence."""

    words: tuple[str, ...]
    spans: frozenset[Span]


class Score(NamedTuple):
    """Percentages."""

    precision: float
    recall: float
    corpus_f1: float
    sentence_f1: float


def read_trees(path: str | PathLike) -> list[GoldTree]:
    """Trees of a file in CoNLL-U or in Penn brackets, told apart by its first character.

    Raises:
        UserError: naming file and line, for what is neither, and for a file without trees.
    """
    with open_text(path) as file:
        text = file.read().removeprefix("\ufeff")
    reader = _read_brackets if text.lstrip().startswith("(") else _read_conllu
    trees = list(reader(text, str(path)))
    if not trees:
        raise UserError(f"{path}: no tree in it; expected CoNLL-U, or Penn brackets such as (S (NP (N 苹果)))")
    return trees


def _is_punctuation(word: str, tag: str) -> bool:
    by_tag = tag == "PUNCT" or tag in _PUNCTUATION_TAGS
    return by_tag or word in ("-LRB-", "-RRB-") or not re.search(r"\w", word)


def _gold(words: list[str], keep: list[bool], yields: Iterable[Span]) -> GoldTree:
    """Drop words and renumber; `yields` are spans before that."""
    before = [0]
    for kept in keep:
        before.append(before[-1] + kept)
    spans = {(before[start], before[end]) for start, end in yields}
    length = before[-1]
    kept_words = tuple(word for word, kept in zip(words, keep, strict=True) if kept)
    return GoldTree(kept_words, frozenset(span for span in spans if 1 < span[1] - span[0] < length))


def _read_conllu(text: str, path: str) -> Iterator[GoldTree]:
    rows: list[tuple[str, str, int]] = []  # form, part of speech, head
    first = 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        if line.startswith("#"):
            continue
        if not line.strip():
            if rows:
                yield _conllu_tree(rows, f"{path}, sentence that starts at line {first}")
            rows, first = [], number + 1
            continue
        cells = line.split("\t")
        if len(cells) != 10:
            raise UserError(f"{path}, line {number}: {line!r:.60}: expected the 10 tab-separated columns of CoNLL-U")
        if "-" in cells[0] or "." in cells[0]:  # a contraction or an empty node: its words follow, or there are none
            continue
        if cells[0] != str(len(rows) + 1) or not cells[6].isdecimal():
            raise UserError(
                f"{path}, line {number}: id {cells[0]!r}, head {cells[6]!r}: expected id {len(rows) + 1} and a number"
            )
        rows.append((cells[1], cells[3], int(cells[6])))


def _conllu_tree(rows: list[tuple[str, str, int]], where: str) -> GoldTree:
    keep = [not _is_punctuation(form, tag) for form, tag, _ in rows]
    place = {index: sum(keep[:index]) for index in range(len(rows)) if keep[index]}
    inside: list[list[int]] = [[] for _ in rows]  # the kept words below each word, itself included
    for index, position in place.items():
        at, steps = index, 0
        while at >= 0:
            inside[at].append(position)
            if not 0 <= rows[at][2] <= len(rows) or steps > len(rows):
                raise UserError(f"{where}: word {at + 1} has head {rows[at][2]}: expected a tree with its root at 0")
            at, steps = rows[at][2] - 1, steps + 1
    spans = {(min(below), max(below) + 1) for below in inside if below and max(below) - min(below) == len(below) - 1}
    words = [rows[index][0] for index in place]
    return _gold(words, [True] * len(words), spans)


def _read_brackets(text: str, path: str) -> Iterator[GoldTree]:
    stack: list[list] = []  # open brackets: tag, first word, number of daughters in brackets
    words: list[str] = []
    keep: list[bool] = []
    spans: list[Span] = []
    line = 1
    for match in re.finditer(r"[()]|[^\s()]+|\n", text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token == "(":
            stack.append(["", len(words), 0])
        elif not stack:
            raise UserError(f"{path}, line {line}: {token!r:.40} outside of any bracket")
        elif token == ")":
            _, start, _ = stack.pop()
            spans.append((start, len(words)))
            if not stack:
                yield _gold(words, keep, spans)
                words, keep, spans = [], [], []
        elif not stack[-1][0] and text[match.start() - 1] == "(":
            stack[-1][0] = token
        else:
            words.append(token)
            keep.append(not _is_punctuation(token, stack[-1][0]))
    if stack:
        raise UserError(f"{path}: {len(stack)} brackets are still open at the end of the file")


# Baselines: every span of a tree over n words, the whole sentence included.


def left_branching(n: int) -> set[Span]:
    """((a b) c) d."""
    return {(0, end) for end in range(2, n + 1)}


def right_branching(n: int) -> set[Span]:
    """a (b (c d))."""
    return {(start, n) for start in range(n - 1)}


def _split(n: int, choose: Callable[[int, int], int]) -> set[Span]:
    spans, stack = set(), [(0, n)]
    while stack:
        start, end = stack.pop()
        if end - start > 1:
            spans.add((start, end))
            middle = choose(start, end)
            stack += [(start, middle), (middle, end)]
    return spans


def balanced(n: int) -> set[Span]:
    """Halves of halves."""
    return _split(n, lambda start, end: (start + end) // 2)


def random_tree(n: int, rng: random.Random) -> set[Span]:
    """Binary, every split of a span equally likely."""
    return _split(n, lambda start, end: rng.randrange(start + 1, end))


def binarized(spans: Iterable[Span], n: int, to_right: bool = False) -> set[Span]:
    """The given spans, which must not cross, and more until each has two parts, branching to the left or the right."""
    full = {(0, n), *spans}
    daughters: dict[Span, list[Span]] = {span: [] for span in full}
    stack: list[Span] = []
    for span in sorted([*full, *((i, i + 1) for i in range(n))], key=lambda span: (span[0], -span[1])):
        while stack and stack[-1][1] <= span[0]:
            stack.pop()
        if stack:
            daughters[stack[-1]].append(span)
        if span in daughters:
            stack.append(span)
    for (start, end), below in daughters.items():
        full |= {(first, end) if to_right else (start, last) for first, last in below[1:-1]}
    return full


def score(gold: Iterable[GoldTree], predicted: Iterable[set[Span]]) -> Score:
    """Unlabelled precision, recall and F1 of predicted spans, in percent; what does not count is dropped here."""
    hits = num_predicted = num_gold = 0
    f1: list[float] = []
    for tree, spans in zip(gold, predicted, strict=True):
        n = len(tree.words)
        if n < 2:
            continue
        spans = {span for span in spans if 1 < span[1] - span[0] < n}
        both = len(spans & tree.spans)
        hits, num_predicted, num_gold = hits + both, num_predicted + len(spans), num_gold + len(tree.spans)
        recall = both / len(tree.spans) if tree.spans else 1.0
        precision = both / len(spans) if spans else float(not tree.spans)
        f1.append(_f1(precision, recall))
    precision, recall = hits / max(1, num_predicted), hits / max(1, num_gold)
    mean = sum(f1) / max(1, len(f1))
    return Score(*(100 * value for value in (precision, recall, _f1(precision, recall), mean)))


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def compare(
    gold: list[GoldTree], parse: Callable[[tuple[str, ...]], set[Span]] | None = None, seed: int = 0
) -> dict[str, Score]:
    """The scores of the baselines, of `parse` (a function from words to spans), and of the best binary trees.

    The baselines are binary trees, the trees of `parse` may be flat: those are also scored with their flat blocks split
    in two all the way, to either side.
    """
    rng = random.Random(seed)
    lengths = [len(tree.words) for tree in gold]
    scores = {
        "left-branching": score(gold, map(left_branching, lengths)),
        "right-branching": score(gold, map(right_branching, lengths)),
        "balanced": score(gold, map(balanced, lengths)),
        "random": score(gold, (random_tree(n, rng) for n in lengths)),
    }
    if parse is not None:
        bar = tqdm(gold, desc="parsing", unit="sentence", delay=1, disable=None)
        found = [parse(tree.words) for tree in bar]
        scores["templates"] = score(gold, found)
        for side, to_right in (("left", False), ("right", True)):
            binary = (binarized(spans, n, to_right) for spans, n in zip(found, lengths, strict=True))
            scores[f"templates, binary to the {side}"] = score(gold, binary)
    scores["oracle, binary"] = score(gold, (binarized(tree.spans, len(tree.words)) for tree in gold))
    return scores


def evaluate_trees(options: argparse.Namespace) -> dict[str, Score]:
    """Print the table of `python -m entropy.evaluate --trees`."""
    gold = read_trees(options.trees)
    parse = None
    if options.templates:
        parser = TemplateParser(read_templates(options.templates), options.null_score)

        def parse(words: tuple[str, ...]) -> set[Span]:
            return parser.parse(words).spans()

    scores = compare(gold, parse)
    num_words = sum(len(tree.words) for tree in gold)
    print(f"{len(gold):,} sentences, {num_words:,} words without punctuation; unlabelled, percent")
    header = ("", *(name.replace("_", " ") for name in Score._fields))
    print(table([header, *((name, *(f"{value:.1f}" for value in row)) for name, row in scores.items())]))
    return scores
