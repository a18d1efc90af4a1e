r"""Score words or parse trees against a gold standard.

Segmentation, as the SIGHAN bakeoffs do (all words, and those with an ideograph only):

    python -m entropy.evaluate --gold pku_test_gold.utf8 --lexicon words.tsv
    python -m entropy.evaluate --gold pku_test_gold.utf8 --segmented mine.txt

The gold file holds one sentence a line, words between spaces. With --lexicon its text is segmented here.

Parse trees, against CoNLL-U or Penn brackets, by unlabelled F1 (`entropy.trees`):

    python -m entropy.evaluate --trees zh_gsdsimp-ud-test.conllu --templates templates.tsv
"""

import argparse
from collections.abc import Sequence
from typing import Any

from entropy.commands import Parser, run, table
from entropy.errors import UserError
from entropy.lexicon import open_text
from entropy.scoring import Score, score


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the table of the command line `argv` and return its figures."""
    parser = Parser("python -m entropy.evaluate", __doc__)
    parser.add_argument("--gold", metavar="FILE", help="sentences with spaces between words")
    parser.add_argument(
        "--lexicon", metavar="TSV", help="words and counts, from entropy.discover: segment the gold text with it"
    )
    parser.add_argument(
        "--segmented", metavar="FILE", help="the same sentences as segmented by any tool, spaces between words"
    )
    parser.add_argument("--literal-numbers", action="store_true", help="with --lexicon: digits are literal, no class")
    parser.add_argument("--trees", metavar="FILE", help="a treebank, CoNLL-U or Penn brackets")
    parser.add_argument(
        "--templates", metavar="TSV", help="with --trees: parse its words with these templates, from entropy.templates"
    )
    parser.add_argument(
        "--null-score", type=float, default=-20.0, metavar="NATS", help="with --trees: of a unit without a template"
    )
    options = parser.parse_args(argv)
    if options.trees:
        from entropy.trees import evaluate_trees

        return dict(evaluate_trees(options))
    if options.templates:
        raise UserError("--templates goes with --trees FILE, the treebank to parse and score against")
    return evaluate_words(options)


def evaluate_words(options: argparse.Namespace) -> dict[str, Any]:
    """Segmentation against --gold."""
    if not options.gold or bool(options.lexicon) == bool(options.segmented):
        raise UserError("nothing to compare: pass --gold FILE and one of --lexicon TSV and --segmented FILE")
    gold = _sentences(options.gold)
    if options.segmented:
        proposed = _sentences(options.segmented)
    else:
        from entropy.segmenter import UnigramSegmenter

        segmenter = UnigramSegmenter.load(options.lexicon, numbers=not options.literal_numbers)
        proposed = list(segmenter.segment_many("".join(words) for words in gold))
    characters = [list("".join(words)) for words in gold]
    figures = {}
    rows: list[Sequence[object]] = [("", "precision", "recall", "F1", "words", "gold words")]
    for name, words in (("all words", proposed), ("one character a word", characters)):
        for han_only in (False, True):
            result = score(words, gold, han_only)
            label = f"{name}, Han only" if han_only else name
            figures[label] = result._asdict() | {
                "precision": result.precision,
                "recall": result.recall,
                "f1": result.f1,
            }
            rows.append((label, *_cells(result)))
    print(table(rows))
    return figures


def _cells(result: Score) -> tuple[object, ...]:
    return *(f"{value:.4f}" for value in (result.precision, result.recall, result.f1)), result.proposed, result.gold


def _sentences(path: str) -> list[list[str]]:
    with open_text(path) as file:
        sentences = [line.removeprefix("\ufeff").split() for line in file]
    if not any(sentences):
        raise UserError(f"{path}: no words in it; expected sentences with spaces between words")
    return sentences


if __name__ == "__main__":
    run(main)
