r"""Sentence templates from text (Su 2018, archives/5577).

    python -m entropy.templates corpus.txt -o templates.tsv
    python -m entropy.templates 'news/*.gz' --words words.tsv --prune -o templates.tsv --slots slots.tsv

Words a and b are a strong skip-gram if b follows a within `window` words, `p(a, b) > min_prob` and `log p(a, b) / (p(a)
p(b)) > min_pmi`. In every clause each word is linked to the words after it with which it is strong; every path is a
template, with a placeholder wherever it passes over words. Templates are counted, and those above `min_prob` stay.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator

from entropy.commands import Parser, add_corpus_options, num_bytes, positive, run, table
from entropy.corpus import Corpus, num_workers
from entropy.errors import UserError
from entropy.parser import TemplateParser
from entropy.segmenter import UnigramSegmenter
from entropy.sequences import Sequences
from entropy.slots import clauses, slot_classes
from entropy.template_counting import (
    BLOCK,
    Bounds,
    Resources,
    choices_of,
    count_paths,
    frequent_templates,
    strong_pairs,
    unpack,
)
from entropy.template_file import format_template, is_trivial, write_templates
from entropy.template_node import Template
from entropy.template_paths import count_words
from entropy.template_pruning import Pruned, prune_templates
from entropy.template_tokens import Tokens


class MiningReport(NamedTuple):
    """What `TemplateMiner.fit` saw, and what its bounds left out."""

    clauses: int
    words: int
    distinct_words: int
    skip_grams: int
    strong_skip_grams: int  # distinct
    paths: int  # counted
    paths_left_out: float  # by max_words and max_paths: all paths less those counted, 0 if narrower reading has more
    clauses_narrowed: int  # by max_paths
    frequent_templates: int
    templates: int  # left by the pruning
    trivial_templates: int  # among them, of one word


class TemplateMiner(BaseEstimator):
    r"""Sentence templates by paths through strong skip-grams (Su 2018, archives/5577), streaming.

    Args:
        segment: a function from a text to its words, or an object with such a method `segment`; None: the texts are
            sequences of words, or strings with spaces between words. Words without letter, digit or ideograph end a
            clause, as does the end of a text.
        window: how many words ahead a skip-gram reaches, 1 or more; 1 mines phrases.
        min_prob: smallest share of a skip-gram among all skip-grams, and of a template among all paths; exclusive.
        min_pmi: smallest pointwise mutual information of a skip-gram in nats; exclusive.
        min_template_prob: smallest share of a template, if not the same as that of a skip-gram.
        max_words: longest template in words; None: no bound. Longer paths are left out.
        max_paths: most paths taken from one clause; None: no bound, and time and memory grow exponentially with the
            length of a clause. A clause with more is read through the widest window that has no more.
        prune: keep only templates that shorten the description of the corpus (`entropy.template_pruning`).
        memory: bytes for tables; beyond it, skip-grams are counted in several passes and templates go to disk.
        workers: threads; None: all cores. The result does not depend on it.
        progress: bars on standard error.

    Attributes:
        templates_: template (words, None for placeholders) -> count, most frequent first, then as first seen.
        words_: word -> count. skip_grams_: strong pair -> count.
        report_: `MiningReport`, what there was and what the bounds left out.
        saved_: with `prune`, template -> bits by which the description of the corpus would grow without it.
        pruning_: with `prune`, bits without templates, with all, and with those kept.

    *Deviation* from nlp-zero 0.1.6: texts are read once and may be an iterator; paths can be bounded; his options
    `filtering` and `remove_weak_grams` are gone (the second empties his table of skip-grams).

    >>> miner = TemplateMiner(window=2, min_prob=0, min_pmi=0).fit(["我 爱 苹果 吗", "你 爱 香蕉 吗"])
    >>> miner.templates_[("我", "爱", None, "吗")]
    1
    """

    def __init__(
        self,
        segment: Any = None,
        window: int = 5,
        min_prob: float = 1e-5,
        min_pmi: float = 2.0,
        *,
        min_template_prob: float | None = None,
        max_words: int | None = None,
        max_paths: int | None = 10_000,
        prune: bool = False,
        memory: int = 1 << 28,
        workers: int | None = None,
        progress: bool = False,
    ):
        self.segment = segment
        self.window = window
        self.min_prob = min_prob
        self.min_pmi = min_pmi
        self.min_template_prob = min_template_prob
        self.max_words = max_words
        self.max_paths = max_paths
        self.prune = prune
        self.memory = memory
        self.workers = workers
        self.progress = progress
        self.templates_: dict[Template, int]

    def fit(self, texts: Any, y: None = None) -> TemplateMiner:
        """Mine templates from texts: a `Corpus`, or an iterable of strings or of sequences of words.

        Raises:
            UserError: a setting out of range, a text that is not one, a corpus without words.
        """
        self.check()
        resources = Resources(self.memory, num_workers(self.workers))
        with tempfile.TemporaryFile() as file:
            tokens = Tokens(file, texts, self.segment, self.progress)
            counts = np.zeros(len(tokens.words), np.int64)
            pairs, num_clauses, longest = _count_words(tokens, self.window, counts)
            strong = strong_pairs(tokens, counts, pairs, self.window, self.min_prob, self.min_pmi, resources)
            bounds = Bounds(self.window, self.max_words or longest, self.max_paths or math.inf, longest)
            paths = count_paths(tokens, strong.keys, bounds, resources.workers)
            share = self.min_prob if self.min_template_prob is None else self.min_template_prob
            found = frequent_templates(tokens, strong.keys, bounds, paths.kept, share * paths.kept, resources)
            found = found.select(np.argsort(-found.counts, kind="stable"))
            num_frequent, pruned = len(found.counts), None
            if self.prune:
                choices = choices_of(tokens, found, strong.keys, bounds, num_clauses, resources)
                pruned = prune_templates(found, choices, counts)
                found = found.select(pruned.kept)
        self.words_ = dict(zip(tokens.words[1:], counts[1:].tolist(), strict=True))
        self._keep(tokens.words, found, pruned)
        keys, amounts = strong.items()
        named = ((tokens.words[i] for i in ids) for ids in unpack(keys))
        self.skip_grams_ = dict(zip(zip(*named, strict=True), amounts.tolist(), strict=True))
        self.report_ = MiningReport(
            clauses=num_clauses,
            words=int(counts.sum()),
            distinct_words=len(self.words_),
            skip_grams=pairs,
            strong_skip_grams=len(keys),
            paths=int(paths.kept),
            paths_left_out=max(0.0, paths.everything - paths.kept),
            clauses_narrowed=int(paths.narrowed),
            frequent_templates=num_frequent,
            templates=len(self.templates_),
            trivial_templates=sum(map(is_trivial, self.templates_)),
        )
        return self

    def _keep(self, words: list[str], found: Sequences, pruned: Pruned | None) -> None:
        named: list[str | None] = [None, *words[1:]]
        symbols, starts = [named[symbol] for symbol in found.symbols.tolist()], found.starts.tolist()
        templates = [tuple(symbols[start:end]) for start, end in pairwise(starts)]
        self.templates_ = dict(zip(templates, found.counts.tolist(), strict=True))
        if pruned is not None:
            self.saved_ = dict(zip(templates, pruned.saved[pruned.kept].tolist(), strict=True))
            self.pruning_ = pruned

    def check(self) -> None:
        """Raise `UserError` for a setting out of range."""
        for name in ("window", "max_words", "max_paths", "memory"):
            value: Any = getattr(self, name)
            if value is None and name.startswith("max_"):
                continue
            if value is None or value < 1 or value != int(value):
                raise UserError(f"{name}={value!r}: expected a whole number of at least 1")
        for name in ("min_prob", "min_template_prob"):
            value = getattr(self, name)
            if not (value is None and name == "min_template_prob") and not 0 <= value < 1:
                raise UserError(f"{name}={value!r}: expected a probability from 0 to below 1, such as 1e-5")
        if math.isnan(self.min_pmi):
            raise UserError("min_pmi is not a number: expected nats, such as 2")


def _count_words(tokens: Tokens, window: int, counts: np.ndarray) -> tuple[int, int, int]:
    """Fill the counts of words; returns the numbers of skip-grams and of clauses and the longest clause."""
    pairs = clauses = longest = 0
    for block in tokens.blocks(BLOCK, "counting words"):
        more, num, length = count_words(block().codes, window, counts)
        pairs, clauses, longest = pairs + more, clauses + num, max(longest, length)
    if not clauses:
        raise UserError("the corpus has no words: expected texts with letters, digits or ideographs")
    return pairs, clauses, longest


def main(argv: Sequence[str] | None = None) -> MiningReport:
    """Run the command line `argv`; returns what was mined."""
    options = _parser().parse_args(argv)
    for path in (options.output, options.slots):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; create it first")
        if path is not None and path.is_dir():
            raise UserError(f"{path} is a folder: name a file in it")
    if options.slots and "-" in options.corpus:
        raise UserError("--slots reads the corpus a second time: name files instead of -")
    if options.master:
        _check_master(options)
    corpus = Corpus([]) if options.master else Corpus.from_paths(options.corpus, errors=options.errors, progress=True)
    miner = TemplateMiner(
        None,
        options.window,
        options.min_prob,
        options.min_pmi,
        min_template_prob=options.min_template_prob,
        max_words=options.max_words,
        max_paths=options.max_paths,
        prune=options.prune,
        memory=options.memory,
        workers=options.workers,
        progress=True,
    )
    miner.check()  # before the words are looked for
    miner.segment = _segment(options, corpus)
    if options.master:
        from entropy import spark, template_spark

        session = spark.session(options.master)
        try:
            template_spark.fit(miner, session, options.corpus)
        finally:
            session.stop()
    else:
        miner.fit(corpus)
    columns = {"trivial": lambda template: str(int(is_trivial(template)))}
    if options.prune:
        columns["bits_saved"] = lambda template: f"{miner.saved_[template]:.0f}"
    write_templates(options.output, miner.templates_, columns)
    print(table([(name.replace("_", " "), f"{value:,.0f}") for name, value in miner.report_._asdict().items()]))
    if options.prune:
        bits = miner.pruning_
        print(f"bits: {bits.bits_without:,.0f} without templates, {bits.bits_kept:,.0f} with those kept")
    top = [template for template in miner.templates_ if not is_trivial(template)][: options.top]
    print(table([(miner.templates_[template], format_template(template)) for template in top]) if top else "")
    if options.slots:
        _write_slots(options, corpus, miner)
    return miner.report_


def _check_master(options: argparse.Namespace) -> None:
    """What Spark cannot do is refused before it starts."""
    if options.slots or not (options.words or options.segmented):
        raise UserError("--master goes with --words or --segmented, and without --slots")
    if options.prune:
        raise UserError("--prune does not go with --master: Spark mines templates only; prune in one process")
    if options.errors != "strict" or options.workers is not None:
        raise UserError("--errors and --workers do not go with --master: Spark decodes the text and spreads the work")


def _segment(options: argparse.Namespace, corpus: Corpus) -> UnigramSegmenter | None:
    if options.segmented:
        return None
    if options.words:
        return UnigramSegmenter.load(options.words)
    print("no --words and no --segmented: finding the words of the corpus first", file=sys.stderr)
    from entropy.discoverer import WordDiscoverer

    return WordDiscoverer(workers=options.workers).fit(corpus).segmenter()


def _write_slots(options: argparse.Namespace, corpus: Corpus, miner: TemplateMiner) -> None:
    """Fillers of slots in a sample of the texts, drawn without a list of them all."""
    rng, sample = random.Random(0), []
    for number, line in enumerate(corpus.lines()):
        if number < options.slot_texts:
            sample.append(line)
        elif (place := rng.randrange(number + 1)) < options.slot_texts:
            sample[place] = line
    texts = (miner.segment.segment(line) if miner.segment else line.split() for line in sample)
    parser = TemplateParser(miner.templates_)
    found = slot_classes(parser, clauses(texts), num_classes=options.classes, progress=True)
    found.save(options.slots)
    if not found.fillers:
        print(f"no slots: no template with a placeholder is in the best tree of a clause; {options.slots} is empty")
    for label in range(options.classes):
        slots = [f"{format_template(template)} [{index + 1}]" for template, index in found.members(label)[:4]]
        words = ["".join(filler) for filler, _ in found.words(label).most_common(8)]
        if slots:
            print(f"class {label}: {'; '.join(slots)}: {' '.join(words)}")


def _parser() -> Parser:
    parser = Parser("python -m entropy.templates", __doc__)
    add_corpus_options(parser)
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("templates.tsv"), help="file to write: template TAB count")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--words", metavar="TSV", help="lexicon, from entropy.discover (default: find one first)")
    how.add_argument("--segmented", action="store_true", help="the corpus has spaces between words already")
    add("--window", type=int, default=5, help="words ahead that a skip-gram reaches; 1: phrases (default 5)")
    add("--min-prob", type=float, default=1e-5, metavar="P", help="smallest share of a skip-gram (default 1e-5)")
    add("--min-template-prob", type=float, metavar="P", help="smallest share of a template (default: the same)")
    add("--min-pmi", type=float, default=2.0, metavar="NATS", help="smallest PMI of a skip-gram (default 2)")
    add("--max-words", type=int, help="longest template, in words (default: no bound)")
    add("--max-paths", type=int, default=10_000, help="a clause with more is read more narrowly (default 10000)")
    add("--prune", action="store_true", help="keep only templates that shorten the description of the corpus")
    add("--master", help="mine with Spark: local[2], yarn, ... (needs the extra [spark])")
    add("--memory", type=num_bytes, default=1 << 28, metavar="SIZE", help="of tables, then disk (default 256M)")
    add("--top", type=positive, default=20, help="templates of two words and more to print (default 20)")
    add("--slots", type=Path, metavar="TSV", help="also write what fills the slots, and classes of slots")
    add("--slot-texts", type=positive, default=20_000, help="lines to parse for that, drawn at random (default 20000)")
    add("--classes", type=positive, default=30, help="classes of slots (default 30)")
    return parser


if __name__ == "__main__":
    run(main)
