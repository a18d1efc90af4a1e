r"""Segment text with a lexicon.

python -m entropy.segment words.tsv corpus.txt -o segmented.txt
zcat news.gz | python -m entropy.segment words.tsv - | head
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from entropy.commands import Parser, add_corpus_options, run
from entropy.corpus import Corpus, num_workers
from entropy.lexicon import atomic_write
from entropy.segmenter import UnigramSegmenter

_BATCH = 1 << 18  # characters


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the corpus of the command line `argv`; returns the number of lines."""
    parser = Parser("python -m entropy.segment", __doc__)
    parser.add_argument("lexicon", help="word TAB count a line, from entropy.discover or jieba's dictionary")
    add_corpus_options(parser)
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    parser.add_argument("--separator", default="  ", help="between words (default: two spaces, as SIGHAN's)")
    parser.add_argument("--literal-numbers", action="store_true", help="digits are literal, not one class of numbers")
    options = parser.parse_args(argv)
    segmenter = UnigramSegmenter.load(options.lexicon, numbers=not options.literal_numbers)
    corpus = Corpus.from_paths(options.corpus, errors=options.errors, progress=options.output is not None)
    num_lines = 0
    with atomic_write(options.output) if options.output else nullcontext(sys.stdout) as file:
        for text in _segmented(segmenter, _batches(corpus), options.separator, num_workers(options.workers)):
            file.write(text)
            num_lines += text.count("\n")
    if corpus.num_replaced:
        print(f"{corpus.num_replaced:,} invalid bytes were replaced", file=sys.stderr)
    return num_lines


def _batches(corpus: Corpus) -> Iterator[str]:
    """The lines of the corpus, many at a time."""
    lines, length = [], 0
    for line in corpus.lines():
        lines.append(line)
        length += len(line) + 1
        if length >= _BATCH:
            yield "\n".join(lines) + "\n"
            lines, length = [], 0
    if lines:
        yield "\n".join(lines) + "\n"


def _segmented(segmenter: UnigramSegmenter, texts: Iterator[str], separator: str, workers: int) -> Iterator[str]:
    """In the order of the text, a few batches ahead of the writer."""
    waiting: deque[Future[str]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for text in texts:
            waiting.append(pool.submit(segmenter.spaced, text, separator))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


if __name__ == "__main__":
    run(main)
