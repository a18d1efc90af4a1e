r"""Unsupervised parsing against a treebank: templates mined from its words, trees scored by unlabelled F1.

    python benchmarks/treebank.py wiki.conllu --text web.conllu      # a minute on one core

The sentences of the file, in their order: the first 80 % are text to mine (words only, no tree is looked at), with the
words of the --text files; settings are chosen on the next 10 % by corpus F1; the last 10 % is scored once, with them.
An open treebank that pip brings is the Turkish Web Treebank (Apache 2.0), 4,851 sentences:
`pip download --no-deps turkish-treebanks==1.0.0 && unzip turkish_treebanks*.whl 'data/*.conllu'`.
Universal Dependencies files of any language, and Penn brackets, are read the same way.
"""

import argparse
import itertools

from entropy import TemplateMiner, TemplateParser
from entropy.commands import run, table
from entropy.trees import GoldTree, Score, compare, read_trees

WINDOWS, PMI, NULL_SCORES = (1, 2, 3, 5), (2.0, 4.0), (-6.0, -20.0)
COMPLETIONS = ("templates", "templates, binary to the left", "templates, binary to the right")


def scores_of(miner: TemplateMiner, null_score: float, gold: list[GoldTree]) -> dict[str, Score]:
    parser = TemplateParser(miner.templates_, null_score)
    return compare(gold, lambda words: parser.parse(words).spans())


def main(argv: list[str] | None = None) -> dict[str, Score]:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("treebank", help="CoNLL-U or Penn brackets")
    arguments.add_argument("--text", nargs="*", default=[], help="more treebanks, of which only the words are read")
    options = arguments.parse_args(argv)
    trees = read_trees(options.treebank)
    first, second = 8 * len(trees) // 10, 9 * len(trees) // 10
    development, test = trees[first:second], trees[second:]
    text = [tree.words for tree in trees[:first]] + [tree.words for path in options.text for tree in read_trees(path)]
    tried = []
    for window, pmi in itertools.product(WINDOWS, PMI):
        miner = TemplateMiner(window=window, min_pmi=pmi).fit(text)
        for null_score in NULL_SCORES:
            scores = scores_of(miner, null_score, development)
            tried += [(scores[name].corpus_f1, name, null_score, miner) for name in COMPLETIONS]
    f1, name, null_score, miner = max(tried, key=lambda row: row[0])
    print(f"{sum(map(len, text)):,} words of text; {len(development):,} sentences to choose on, {len(test):,} to test")
    print(
        f"chosen of {len(tried)}: {name}, window {miner.window}, min_pmi {miner.min_pmi:g}, "
        f"null_score {null_score:g}: F1 {f1:.1f} where it was chosen; {len(miner.templates_):,} templates"
    )
    scores = scores_of(miner, null_score, test)
    header = ("test", *(field.replace("_", " ") for field in Score._fields))
    print(table([header, *((row, *(f"{value:.1f}" for value in values)) for row, values in scores.items())]))
    return scores


if __name__ == "__main__":
    run(main)
