r"""The same counting over a cluster: PySpark maps the kernels of `entropy.counting` and `entropy.sequences`.

    python -m entropy.spark 'hdfs:///news/*.txt' -o words.tsv --master yarn
    python -m entropy.spark corpus.txt -o words.tsv --master local[2]

Method "entropy" of `WordDiscoverer`; the lexicon equals that of one process. Paths are whatever Spark reads as text
(.gz included); Spark replaces bytes that are not UTF-8. On a cluster this package has to be installed on the workers.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropy.characters import NUM_CODE_POINTS, word_characters
from entropy.commands import Parser, run, table
from entropy.counting import PairCounter
from entropy.cutting import Cutter, count_pieces, strong_pairs
from entropy.discoverer import WordDiscoverer
from entropy.errors import UserError
from entropy.lexicon import write_lexicon
from entropy.sequences import SequenceCounter, Sequences
from entropy.summary import summarize
from entropy.utf8 import code_points

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyspark.sql import DataFrame, SparkSession

_PAIRS = "key long, count long"
_PIECES = "piece string, count long, file string, block long, place long"


def session(master: str | None = None) -> "SparkSession":
    """A Spark session; for `master` "local[...]", one whose workers run this Python and find this package.

    Raises:
        UserError: pyspark or Java is missing.
    """
    missing = [name for name in ("pyspark", "pyarrow", "pandas") if not find_spec(name)]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; pip install them, or the extra [spark] of this package")
    from pyspark.sql import SparkSession

    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java") and not (home and Path(home, "bin", "java").exists()):
        raise UserError("Spark needs Java 17 or later: install a JDK, or set JAVA_HOME to the one you have")
    from pyspark.errors import PySparkException

    builder = SparkSession.builder.appName("entropy.spark")
    builder = builder.config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower())
    if master:
        builder = builder.master(master)
        if master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
            os.environ["PYTHONPATH"] = os.pathsep.join(
                [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
            builder = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "localhost")
            builder = builder.config("spark.sql.shuffle.partitions", 4)  # of the default 200 most would be empty
    builder = builder.config("spark.log.level", "ERROR")  # a warning of Spark's is a hundred lines of Java
    try:
        return builder.getOrCreate()
    except PySparkException as fault:
        raise UserError(f"Spark does not start with master {master!r} ({str(fault).splitlines()[0]})") from None


def fit(discoverer: WordDiscoverer, spark: "SparkSession", path: str | list[str]) -> WordDiscoverer:
    """Fit a discoverer of method "entropy" to the text files at `path`."""
    from pyspark.errors import AnalysisException

    if discoverer.chosen_method != "entropy":
        raise UserError(
            f"method={discoverer.chosen_method!r}: Spark counts for method='entropy'; use one process for the others"
        )
    discoverer.check()
    try:
        lines = spark.read.text(path).select("value", "_metadata.file_path", "_metadata.file_block_start")
    except AnalysisException as fault:
        raise UserError(f"Spark cannot read {path}: {str(fault).splitlines()[0]}") from None
    alphabet = "ascii" if discoverer.compatible else discoverer.alphabet
    singles, keys, counts = _count_pairs(lines, alphabet)
    strong = strong_pairs(singles, keys, counts, *discoverer.thresholds, discoverer.criterion)
    found = lines.mapInArrow(_piece_counter(alphabet, singles, keys[strong], discoverer.longest), _PIECES)
    candidates = _frequent(found, discoverer.thresholds[0])
    discoverer.pair_counts_ = singles, keys, counts
    return discoverer.finish(candidates, singles)


def _count_pairs(lines: "DataFrame", alphabet: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def count(batches: "Iterator[RecordBatch]") -> "Iterator[RecordBatch]":
        import pyarrow as pa

        counter = None
        for batch in batches:
            codes = code_points("\n".join(batch.column(0).to_pylist()))
            counter = counter or PairCounter(word_characters(alphabet), codes)
            counter.add(codes)
        if counter:
            singles, keys, counts = counter.result()
            seen = np.flatnonzero(singles)  # a single character goes as the pair (0, character)
            columns = [np.concatenate((seen, keys.astype(np.int64))), np.concatenate((singles[seen], counts))]
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], names=["key", "count"])

    total = lines.mapInArrow(count, _PAIRS).groupBy("key").sum("count").toArrow()
    keys, counts = (total.column(i).to_numpy().astype(np.int64) for i in (0, 1))
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    is_single = keys < NUM_CODE_POINTS
    singles = np.zeros(NUM_CODE_POINTS, np.int64)
    singles[keys[is_single]] = counts[is_single]
    return singles, keys[~is_single].astype(np.uint64), counts[~is_single]


def _piece_counter(alphabet: str, singles: np.ndarray, strong: np.ndarray, longest: int) -> Callable:
    frequent = np.argsort(-singles, kind="stable")[: np.count_nonzero(singles)].astype(np.uint32)

    def count(batches: "Iterator[RecordBatch]") -> "Iterator[RecordBatch]":
        cutter = Cutter(PairCounter(word_characters(alphabet), frequent), strong, longest)
        source: tuple[str, int] | None = None
        counter, number = SequenceCounter(), 0
        for batch in batches:
            for this, texts in _by_source(batch):
                if this != source and source:
                    yield from _as_batches(counter, source)
                    counter, number = SequenceCounter(), 0
                source = this
                count_pieces(cutter, counter, code_points("\n".join(texts)), number)
                number += 1
        if source:
            yield from _as_batches(counter, source)

    return count


def _by_source(batch: "RecordBatch") -> Iterator[tuple[tuple[str, int], list[str]]]:
    """The lines of a batch by the block of the file they come from, in their order."""
    texts, files, blocks = (batch.column(i).to_pylist() for i in range(3))
    start = 0
    for i in range(1, len(texts) + 1):
        if i == len(texts) or (files[i], blocks[i]) != (files[start], blocks[start]):
            yield (files[start], blocks[start]), texts[start:i]
            start = i


def _as_batches(counter: SequenceCounter, source: tuple[str, int]) -> "Iterator[RecordBatch]":
    import pyarrow as pa

    for part in counter.parts():
        size = len(part.counts)
        columns = [part.texts(), part.counts, [source[0]] * size, np.full(size, source[1]), part.firsts]
        names = ["piece", "count", "file", "block", "place"]
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], names=names)


def _frequent(found: "DataFrame", min_prob: float) -> Sequences:
    """Pieces of frequency above `min_prob`, by their first place in the corpus: file, block, place."""
    from pyspark.sql import functions

    place = functions.min(functions.struct("file", "block", "place")).alias("first")
    pieces = found.groupBy("piece").agg(functions.sum("count").alias("count"), place).persist()
    try:
        total = pieces.agg(functions.sum("count")).toArrow().column(0)[0].as_py() or 0
        kept = (
            pieces.where(functions.col("count") > total * min_prob).orderBy("first").select("piece", "count").toArrow()
        )
    finally:
        pieces.unpersist()
    texts, counts = kept.column(0).to_pylist(), kept.column(1).to_numpy().astype(np.int64)
    starts = np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64)))
    return Sequences(code_points("".join(texts)), starts, counts, starts[:-1])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line `argv`; returns the figures of the summary."""
    parser = Parser("python -m entropy.spark", __doc__)
    parser.add_argument("corpus", nargs="+", help="paths or patterns that Spark reads as text")
    parser.add_argument("-o", "--output", type=Path, default=Path("words.tsv"), help="lexicon: word TAB count")
    parser.add_argument("--master", help="such as local[2] or yarn (default: what spark-submit says)")
    parser.add_argument("--min-prob", type=float, metavar="P", help="smallest frequency (default 1e-6)")
    parser.add_argument("--min-pmi", type=float, metavar="NATS", help="smallest PMI (default 1)")
    parser.add_argument("--compatible", action="store_true", help="repeat nlp-zero 0.1.6, defects included")
    options = parser.parse_args(argv)
    discoverer = WordDiscoverer(options.min_prob, options.min_pmi, method="entropy", compatible=options.compatible)
    discoverer.check()  # what can be said before Spark starts
    if not options.output.parent.is_dir():
        raise UserError(f"--output {options.output}: its folder does not exist; create it first")
    spark = session(options.master)
    try:
        fit(discoverer, spark, options.corpus)
    finally:
        spark.stop()
    if not discoverer.words_:
        raise UserError(f"no word found in {' '.join(options.corpus)}: the text is empty, or the thresholds too high")
    write_lexicon(options.output, discoverer.words_)
    figures = summarize(discoverer)
    print(table([(name, f"{value:.4f}" if isinstance(value, float) else value) for name, value in figures.items()]))
    return figures


if __name__ == "__main__":
    run(main)
