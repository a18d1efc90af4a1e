r"""Template mining over a cluster: PySpark maps the passes of `entropy.template_counting` over parts of the corpus.

    python -m entropy.templates 'hdfs:///news/*.txt' --words words.tsv --master yarn -o templates.tsv

The templates and counts equal those of one process. Needs the extra [spark] and Java, see `entropy.spark`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from entropy.counting import KeyCounter
from entropy.errors import UserError
from entropy.template_counting import Bounds, Resources, count_paths, frequent_templates, strong_pairs, unpack
from entropy.template_file import format_template, is_trivial, parse_template
from entropy.template_paths import count_words
from entropy.template_tokens import Tokens

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyspark.sql import DataFrame, SparkSession

    from entropy.templates import TemplateMiner

_COUNTS = "kind string, first string, second string, count double"
_WORD, _PAIR, _CLAUSES, _TEMPLATE, _PATHS, _NARROWED = "word", "pair", "clauses", "template", "paths", "narrowed"


def fit(miner: TemplateMiner, spark: SparkSession, path: str | list[str]) -> TemplateMiner:
    """Fit a miner to the text files at `path`, lines of which are texts.

    Raises:
        UserError: the path cannot be read, the corpus has no words, or the miner asks for pruning.
    """
    from pyspark.errors import AnalysisException

    from entropy.templates import MiningReport

    if miner.prune:
        raise UserError("prune=True: Spark mines templates only; prune in one process")
    miner.check()
    try:
        lines = spark.read.text(path)
    except AnalysisException as fault:
        raise UserError(f"Spark cannot read {path}: {str(fault).splitlines()[0]}") from None
    words, skip_grams, num_pairs, num_clauses = _count(miner, lines)
    found = _summed(lines.mapInArrow(_path_counter(miner, set(skip_grams)), _COUNTS)).persist()
    try:
        totals = _rows(found.where(f"kind != '{_TEMPLATE}'"))
        seen = {kind: total for kind, _, _, total in totals}
        share = miner.min_prob if miner.min_template_prob is None else miner.min_template_prob
        kept = _rows(found.where(f"kind = '{_TEMPLATE}' and count > {share * seen[_TEMPLATE + 's']!r}"))
    finally:
        found.unpersist()
    kept.sort(key=lambda row: (-row[3], row[1]))
    miner.templates_ = {parse_template(text): int(count) for _, text, _, count in kept}
    miner.words_, miner.skip_grams_ = words, skip_grams
    miner.report_ = MiningReport(
        clauses=num_clauses,
        words=sum(words.values()),
        distinct_words=len(words),
        skip_grams=num_pairs,
        strong_skip_grams=len(skip_grams),
        paths=int(seen[_TEMPLATE + "s"]),
        paths_left_out=max(0.0, seen[_PATHS] - seen[_TEMPLATE + "s"]),
        clauses_narrowed=int(seen[_NARROWED]),
        frequent_templates=len(kept),
        templates=len(kept),
        trivial_templates=sum(map(is_trivial, miner.templates_)),
    )
    return miner


def _count(miner: TemplateMiner, lines: DataFrame) -> tuple[dict[str, int], dict[tuple[str, str], int], int, int]:
    """Words, strong skip-grams, and the numbers of all skip-grams and of clauses."""
    counted = _summed(lines.mapInArrow(_word_counter(miner), _COUNTS)).persist()
    try:
        words = {word: int(count) for _, word, _, count in _rows(counted.where(f"kind = '{_WORD}'"))}
        others = {kind: int(count) for kind, _, _, count in _rows(counted.where(f"kind in ('{_CLAUSES}', 'pairs')"))}
        if not others.get(_CLAUSES):
            raise UserError("the corpus has no words: expected texts with letters, digits or ideographs")
        num_pairs = others["pairs"]
        least = math.log(miner.min_prob) + math.log(max(1, num_pairs)) if miner.min_prob else -math.inf
        # the exact comparison is below, in logarithms as in one process
        frequent = _rows(counted.where(f"kind = '{_PAIR}' and count > {miner.min_prob * num_pairs * (1 - 1e-9)!r}"))
    finally:
        counted.unpersist()
    log_total = math.log(sum(words.values()))
    strong = {}
    for _, first, second, count in frequent:
        if np.log(count) > least:
            pmi = np.log(count) - math.log(num_pairs) - np.log(words[first]) - np.log(words[second]) + 2 * log_total
            if pmi > miner.min_pmi:
                strong[first, second] = int(count)
    return words, strong, num_pairs, others[_CLAUSES]


def _summed(counts: DataFrame) -> DataFrame:
    from pyspark.sql import functions

    return counts.groupBy("kind", "first", "second").agg(functions.sum("count").alias("count"))


def _rows(frame: DataFrame) -> list[tuple[str, str, str, float]]:
    columns = frame.toArrow().to_pydict()
    return list(zip(*(columns[name] for name in ("kind", "first", "second", "count")), strict=True))


def _texts(batches: Iterator[RecordBatch]) -> Iterator[str]:
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _batch(rows: list[tuple[str, str, str, float]]) -> RecordBatch:
    import pyarrow as pa

    columns: Any = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(list(map(pa.array, columns)), names=["kind", "first", "second", "count"])


def _word_counter(miner: TemplateMiner) -> Callable:
    """Words, skip-grams and clauses of one part."""

    def count(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        with tempfile.TemporaryFile() as file:
            tokens = Tokens(file, _texts(batches), miner.segment, False)
            counts = np.zeros(len(tokens.words), np.int64)
            pairs = clauses = 0
            for block in tokens.blocks(1 << 19):
                more, num, _ = count_words(block().codes, miner.window, counts)
                pairs, clauses = pairs + more, clauses + num
            table = KeyCounter()
            if clauses:
                resources = Resources(miner.memory, 1)
                table = strong_pairs(tokens, counts, pairs, miner.window, 0.0, -math.inf, resources)
        rows = [(_CLAUSES, "", "", float(clauses)), ("pairs", "", "", float(pairs))]
        rows += [(_WORD, word, "", float(n)) for word, n in zip(tokens.words[1:], counts[1:].tolist(), strict=True)]
        keys, amounts = table.items()
        first, second = ([tokens.words[i] for i in ids] for ids in unpack(keys))
        rows += [(_PAIR, *row) for row in zip(first, second, amounts.astype(float).tolist(), strict=True)]
        yield _batch(rows)

    return count


def _path_counter(miner: TemplateMiner, strong: set[tuple[str, str]]) -> Callable:
    """Templates of one part, and how many paths there were."""

    def count(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        resources = Resources(miner.memory, 1)
        with tempfile.TemporaryFile() as file:
            tokens = Tokens(file, _texts(batches), miner.segment, False)
            ids = {word: number for number, word in enumerate(tokens.words)}
            pairs = [(ids[first], ids[second]) for first, second in strong if first in ids and second in ids]
            table = KeyCounter()
            table.add(np.array([first << 32 | second for first, second in pairs], np.uint64))
            counts, longest = np.zeros(len(tokens.words), np.int64), 1
            for block in tokens.blocks(1 << 19):
                longest = max(longest, count_words(block().codes, 1, counts)[2])
            bounds = Bounds(miner.window, miner.max_words or longest, miner.max_paths or math.inf, longest)
            seen = count_paths(tokens, table.keys, bounds, 1)
            found = frequent_templates(tokens, table.keys, bounds, seen.kept, 0, resources)
        rows = [
            (_TEMPLATE + "s", "", "", seen.kept),
            (_PATHS, "", "", seen.everything),
            (_NARROWED, "", "", seen.narrowed),
        ]
        names = [None, *tokens.words[1:]]
        symbols, starts = found.symbols.tolist(), found.starts.tolist()
        for i, number in enumerate(found.counts.tolist()):
            template = tuple(names[symbol] for symbol in symbols[starts[i] : starts[i + 1]])
            rows.append((_TEMPLATE, format_template(template), "", float(number)))
        yield _batch(rows)

    return count
