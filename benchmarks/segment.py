r"""Speed of segmentation: this repository, rjieba, jieba, SentencePiece, nlp-zero 0.1.6, one core each, in one process.

    python benchmarks/segment.py CORPUS [--nlp-zero FOLDER] [--sentencepiece-mb 1]

The dictionary of jieba (349,046 words) is everybody's lexicon, but for SentencePiece, which learns its own from the
first megabytes. Lines of the corpus, Han text and punctuation; peers: `pip install jieba rjieba sentencepiece`.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import command
from lexicon import load_nlp_zero

from entropy import UnigramSegmenter
from entropy.commands import table
from entropy.utf8 import code_points


def median_rate(work, num_characters, repeats):
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return num_characters / statistics.median(times) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=command.existing)
    parser.add_argument(
        "--characters", type=int, default=1_000_000, help="of the corpus to segment (default 1,000,000)"
    )
    parser.add_argument("--nlp-zero", type=command.existing, metavar="FOLDER")
    parser.add_argument("--sentencepiece-mb", type=float, default=1.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import jieba
    import rjieba
    import sentencepiece

    with open(options.corpus, encoding="utf-8") as file:
        text = file.read(options.characters)
    lines = [line for line in text.split("\n") if line]
    size = sum(map(len, lines))
    jieba.setLogLevel(60)
    with open(Path(os.path.dirname(jieba.__file__), "dict.txt"), encoding="utf-8") as file:
        words = {word: int(count) for word, count, _ in map(str.split, file)}
    rows = [("segmenter", "output", "Mchar/s")]

    def add(name, output, work, repeats=5):
        work()
        rows.append((name, output, f"{median_rate(work, size, repeats):.3f}"))

    start = time.perf_counter()
    segmenter = UnigramSegmenter(words)
    built = time.perf_counter() - start
    joined = "\n".join(lines)
    codes = code_points(joined)
    add("entropy, one call", "array of ends", lambda: segmenter.ends(codes))
    add("entropy, one call", "list of offsets", lambda: segmenter.offsets(joined))
    add("entropy, one call", "list of words", lambda: segmenter.segment(joined))
    add("entropy, line by line", "lists of offsets", lambda: [segmenter.offsets(line) for line in lines])
    add("entropy, line by line", "lists of words", lambda: [segmenter.segment(line) for line in lines])
    add("entropy, segment_many", "lists of words", lambda: list(segmenter.segment_many(lines)))
    add("entropy", "spaced text", lambda: segmenter.spaced(joined))
    add("rjieba, line by line, HMM off", "lists of words", lambda: [rjieba.cut(line, False) for line in lines])
    add(
        "rjieba, line by line, HMM off",
        "lists of offsets",
        lambda: [rjieba.tokenize(line, "default", False) for line in lines],
    )
    add("jieba, line by line, HMM off", "lists of words", lambda: [jieba.lcut(line, HMM=False) for line in lines], 1)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder, "sample.txt")
        sample.write_bytes(Path(options.corpus).read_bytes()[: int(options.sentencepiece_mb * 1e6)].rsplit(b"\n", 1)[0])
        sentencepiece.SentencePieceTrainer.train(
            input=str(sample), model_prefix=f"{folder}/m", vocab_size=8000, character_coverage=1.0, minloglevel=2
        )
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
        add(
            "SentencePiece, 8,000 pieces",
            "lists of pieces",
            lambda: [model.encode(line, out_type=str) for line in lines],
        )
    if options.nlp_zero:
        module = load_nlp_zero(options.nlp_zero)
        tokenizer = module.Tokenizer(module.Trie(words.items()))
        add("nlp-zero, line by line", "lists of words", lambda: [tokenizer.tokenize(line) for line in lines], 1)
    print(table(rows))
    print(f"{size:,} characters in {len(lines):,} lines; process time; trie of {len(words):,} words: {built:.2f} s")


if __name__ == "__main__":
    command.run(main)
