r"""Speed and memory of word discovery: this repository, plain Python, numpy, and nlp-zero 0.1.6 in one process.

    python benchmarks/lexicon.py CORPUS [--nlp-zero FOLDER] [--curve FILES...]

CORPUS is UTF-8 text. FOLDER holds the unpacked source of nlp-zero 0.1.6 (`pip download --no-deps --no-binary :all:
nlp-zero==0.1.6`), which is imported with a shim, since it needs Python below 3.10. Peers read the first --peer-mb of
the corpus only and are reported by rate. --curve measures time and peak memory of each file in its own process.
"""

import argparse
import collections
import importlib
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import command
import numpy as np

from entropy import WordDiscoverer
from entropy.characters import word_characters
from entropy.commands import table
from entropy.corpus import Corpus
from entropy.counting import PairCounter
from entropy.discoverer import count_pairs


def median_seconds(work, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def load_nlp_zero(folder):
    collections.Iterable = collections.abc.Iterable
    sys.path.insert(0, str(folder))
    return importlib.import_module("nlp_zero.nlp_zero")


def floors(path):
    """Reading the bytes, and reading and decoding them with CPython's decoder."""

    def read():
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass

    def decode():
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                data.decode("utf-8", "ignore")

    return median_seconds(read), median_seconds(decode)


def measure(options):
    path, size = Path(options.corpus), Path(options.corpus).stat().st_size / 1e6
    head = path.read_bytes()[: int(options.peer_mb * 1e6)].decode("utf-8", "ignore")
    texts, head_size = head.split("\n"), len(head.encode()) / 1e6
    is_word = word_characters()
    rows = [("what", "workers", "MB", "seconds", "MB/s")]

    def add(name, workers, megabytes, seconds):
        rows.append((name, workers, f"{megabytes:.1f}", f"{seconds:.3f}", f"{megabytes / seconds:.1f}"))
        return seconds

    read, decode = floors(path)
    add("floor: read", 1, size, read)
    add("floor: read and decode (CPython)", 1, size, decode)
    start = time.perf_counter()
    count_pairs(Corpus([Path(options.corpus)]), is_word, 1)
    first_count = time.perf_counter() - start
    one = add(
        "bigrams", 1, size, median_seconds(lambda: count_pairs(Corpus([path]), is_word, 1).result(), options.repeats)
    )
    two = add(
        "bigrams", 2, size, median_seconds(lambda: count_pairs(Corpus([path]), is_word, 2).result(), options.repeats)
    )
    codes = [decode().codes.copy() for decode in Corpus([path]).blocks()]
    counter = PairCounter(is_word, codes[0])
    add("bigrams, kernel alone, decoded text", 1, size, median_seconds(lambda: [counter.add(part) for part in codes]))

    def python_counter():
        collections.Counter(pair for text in texts for pair in pairwise(text))

    def numpy_unique():
        points = np.frombuffer(head.encode("utf-32-le"), np.uint32).astype(np.uint64)
        np.unique((points[:-1] << np.uint64(21)) | points[1:], return_counts=True)

    add("bigrams: collections.Counter", 1, head_size, median_seconds(python_counter, 1))
    add("bigrams: numpy.unique", 1, head_size, median_seconds(numpy_unique, 3))

    def entropy(workers):
        return lambda: WordDiscoverer(options.min_prob, method="entropy", workers=workers).fit(path)

    entropy(1)()
    lexicon_one = add("lexicon, entropy", 1, size, median_seconds(entropy(1), options.repeats))
    lexicon_two = add("lexicon, entropy", 2, size, median_seconds(entropy(2), options.repeats))
    add("lexicon, ngram", 1, head_size, median_seconds(lambda: WordDiscoverer(method="ngram", workers=1).fit(texts), 1))
    add("lexicon, mdl", 1, head_size, median_seconds(lambda: WordDiscoverer(method="mdl", workers=1).fit(texts), 1))
    ratios = {"bigrams, two workers / one": one / two, "lexicon, two workers / one": lexicon_one / lexicon_two}
    if options.nlp_zero:
        finder = load_nlp_zero(options.nlp_zero).Word_Finder(min_proba=options.min_prob, min_pmi=1)
        train = add("nlp-zero: train (bigrams)", 1, head_size, median_seconds(lambda: finder.train(texts), 1))
        find = median_seconds(lambda: finder.find(texts), 1)
        add("nlp-zero: train and find (lexicon)", 1, head_size, train + find)
        ratios["lexicon, one worker / nlp-zero"] = (size / lexicon_one) / (head_size / (train + find))
    print(table(rows))
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times as fast")
    print(f"first call (loading or compiling kernels): {first_count:.2f} s")


def curve(files, min_prob):
    rows = [("file", "MB", "seconds", "MB/s", "peak MB", "candidates", "words")]
    for file in files:
        child = [sys.executable, __file__, file, "--child", "--min-prob", str(min_prob)]
        found = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
        size = Path(file).stat().st_size / 1e6
        rate = f"{size / found['seconds']:.1f}"
        rows.append(
            (file, f"{size:.0f}", f"{found['seconds']:.1f}", rate, found["peak"], found["candidates"], found["words"])
        )
    print(table(rows))


def child(options):
    start = time.perf_counter()
    discoverer = WordDiscoverer(options.min_prob, method="entropy").fit(Path(options.corpus))
    seconds = time.perf_counter() - start
    with open("/proc/self/status", encoding="ascii") as file:  # ru_maxrss would count the parent's memory, too
        peak = next(int(line.split()[1]) * 1024 // 10**6 for line in file if line.startswith("VmHWM"))
    words = len(discoverer.words_)
    print(json.dumps({"seconds": seconds, "peak": peak, "words": words, "candidates": words + len(discoverer.pruned_)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=command.existing)
    parser.add_argument("--nlp-zero", type=command.existing, metavar="FOLDER")
    parser.add_argument("--peer-mb", type=float, default=6.0, help="megabytes that slow methods read (default 6)")
    parser.add_argument("--repeats", type=int, default=3, help="medians of so many runs (default 3)")
    parser.add_argument("--min-prob", type=float, default=1e-6)
    parser.add_argument("--curve", nargs="+", type=command.existing, default=[], metavar="FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    measure(options)
    if options.curve:
        curve(options.curve, options.min_prob)


if __name__ == "__main__":
    command.run(main)
