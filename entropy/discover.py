r"""Find the words of raw text.

    python -m entropy.discover corpus.txt -o words.tsv
    python -m entropy.discover 'news/*.txt.gz' -o words.tsv --method entropy --min-prob 1e-6 --figures figures/

Prints a summary; L is the article's average information of a character, H / l.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entropy.commands import Parser, add_corpus_options, num_bytes, run, table
from entropy.corpus import Corpus
from entropy.discoverer import WordDiscoverer
from entropy.errors import UserError
from entropy.lexicon import write_lexicon
from entropy.summary import held_out_bits, summarize

_EXAMPLES = 12


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line `argv`; returns the figures of the summary."""
    options = _parser().parse_args(argv)
    _check_places(options)
    held_out = Corpus.from_paths([options.held_out]) if options.held_out else None
    corpus = Corpus.from_paths(options.corpus, errors=options.errors, progress=True)
    discoverer = WordDiscoverer(
        options.min_prob,
        options.min_pmi,
        method=options.method,
        criterion=options.criterion,
        prune_pmi=None if options.length_bound else options.prune_pmi,
        compatible=options.compatible,
        min_pmi_by_order=tuple(options.pmi_by_order),
        min_count=options.min_count,
        max_length=options.max_length,
        merge=options.merge,
        sample=options.sample,
        workers=options.workers,
        memory=options.memory,
    ).fit(corpus)
    if not discoverer.words_:
        raise UserError(f"no word found in {' '.join(options.corpus)}: the text is empty, or the thresholds too high")
    write_lexicon(options.output, discoverer.words_)
    figures = summarize(discoverer)
    if held_out:
        figures["held-out bits per character"] = held_out_bits(discoverer, held_out)
    print(table([(name, f"{value:.4f}" if isinstance(value, float) else value) for name, value in figures.items()]))
    examples = sorted(discoverer.pruned_.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]
    print("pruned, for example:", " ".join(f"{word} ({count:,})" for word, count in examples) or "nothing")
    if corpus.num_replaced:
        print(f"{corpus.num_replaced:,} invalid bytes were replaced", file=sys.stderr)
    if options.figures:
        from entropy.figures import draw

        for path in draw(discoverer, corpus, options.figures):
            print(f"figure: {path}")
    return figures


def _check_places(options: argparse.Namespace) -> None:
    """What is written has a place before the work begins."""
    if not options.output.parent.is_dir():
        raise UserError(f"--output {options.output}: its folder does not exist; create it first")
    if options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder: name a file in it")
    if options.figures:
        try:
            options.figures.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise UserError(f"--figures {options.figures}: cannot be made a folder ({fault.strerror})") from None


def _parser() -> Parser:
    parser = Parser("python -m entropy.discover", __doc__)
    add_corpus_options(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("words.tsv"), help="lexicon to write: word TAB count")
    parser.add_argument(
        "--method",
        choices=("mdl", "entropy", "ngram"),
        help="mdl: the best words; entropy: the article, the fastest (default: entropy if --min-prob, --min-pmi or "
        "--compatible is given, else mdl)",
    )
    parser.add_argument(
        "--min-prob",
        type=float,
        metavar="P",
        help="entropy: smallest frequency of a pair and of a word (default 1e-6)",
    )
    parser.add_argument("--min-pmi", type=float, metavar="NATS", help="entropy: smallest PMI of neighbours (default 1)")
    parser.add_argument(
        "--criterion",
        choices=("pmi", "exact", "approximate"),
        default="pmi",
        help="entropy: PMI, or the gain F or F* above 0",
    )
    parser.add_argument(
        "--prune-pmi",
        type=float,
        default=1.0,
        metavar="NATS",
        help="entropy: multi-part PMI of a word that stays (default 1)",
    )
    parser.add_argument(
        "--length-bound", action="store_true", help="entropy: ask for length - 1 nats instead, as the author's code"
    )
    parser.add_argument("--compatible", action="store_true", help="entropy: repeat nlp-zero 0.1.6, defects included")
    parser.add_argument(
        "--pmi-by-order",
        type=float,
        nargs="+",
        default=(0.0, 2.0, 4.0, 6.0),
        metavar="NATS",
        help="ngram: PMI of n-grams of order 1, 2, ... (default 0 2 4 6)",
    )
    parser.add_argument("--min-count", type=int, default=3, help="ngram: smallest count (default 3)")
    parser.add_argument("--max-length", type=int, default=0, help="characters in a word (default: 6 for mdl, else 20)")
    parser.add_argument("--merge", action="store_true", help="mdl: join neighbours that shorten the code: phrases")
    parser.add_argument(
        "--sample",
        type=int,
        default=10_000_000,
        help="mdl: characters to find words in (default 10,000,000); counts are of all",
    )
    parser.add_argument(
        "--memory",
        type=num_bytes,
        default=1 << 30,
        metavar="SIZE",
        help="entropy, ngram: tables beyond it go to disk (default 1G)",
    )
    parser.add_argument("--held-out", metavar="FILE", help="other text: print its bits per character")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw Zipf, information and PMI figures there")
    return parser


if __name__ == "__main__":
    run(main)
