r"""Parse sentences with templates.

    python -m entropy.parse templates.tsv 苹果的颜色是什么呢
    python -m entropy.parse templates.tsv --words words.tsv --format brackets < sentences.txt

Without --words the sentence is cut at the words of the templates; what lies between two of them is one word.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from entropy.commands import Parser, run
from entropy.errors import UserError
from entropy.lexicon import atomic_write
from entropy.parser import TemplateParser
from entropy.segmenter import UnigramSegmenter
from entropy.template_file import read_templates
from entropy.template_node import Node, Template

_FORMATS: dict[str, Callable[[Node], str]] = {
    "text": Node.text,
    "brackets": Node.brackets,
    "json": Node.to_json,
    "dot": Node.to_dot,
    "svg": Node.to_svg,
}


def words_of_templates(templates: Mapping[Template, float]) -> Callable[[str], list[str]]:
    """A function that cuts a sentence at the words of templates; characters between two of them are one word."""
    counts: Counter[str] = Counter()
    for template, count in templates.items():
        for word in template:
            if word is not None:
                counts[word] += max(1, int(count))
    segmenter = UnigramSegmenter(counts, numbers=False)

    def cut(text: str) -> list[str]:
        words: list[str] = []
        joined = False  # whether the last word can grow
        for word in segmenter.segment(text):
            unknown = word not in counts and not word.isspace()
            if unknown and joined:
                words[-1] += word
            elif not word.isspace():
                words.append(word)
            joined = unknown
        return words

    return cut


def _lines(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(
                f"standard input, line {number}: {line!r:.60}: not valid UTF-8; convert it (iconv -t UTF-8)"
            ) from None


def main(argv: Sequence[str] | None = None) -> list[Node]:
    """Print or write the trees of the command line `argv`, and return them."""
    parser = Parser("python -m entropy.parse", __doc__)
    add = parser.add_argument
    add("templates", help="template TAB count a line, from entropy.templates")
    add("sentences", nargs="*", help="sentences (default: the lines of standard input)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--words", metavar="TSV", help="lexicon to segment with, from entropy.discover")
    how.add_argument("--segmented", action="store_true", help="the sentences have spaces between words already")
    add("--format", choices=_FORMATS, default="text", help="of a tree (default text); svg takes one sentence")
    add("-k", type=int, default=1, help="best trees to print (default 1)")
    add("--null-score", type=float, default=-20.0, metavar="NATS", help="of a unit without a template (default -20)")
    add("--empty-score", type=float, metavar="NATS", help="of an empty placeholder (default: not allowed)")
    add("-o", "--output", type=Path, help="file to write (default: standard output)")
    options = parser.parse_intermixed_args(argv)  # sentences may come after options
    templates = read_templates(options.templates)
    if options.segmented:
        segment: Callable[[str], list[str]] = str.split
    elif options.words:
        segment = UnigramSegmenter.load(options.words).segment
    else:
        segment = words_of_templates(templates)
    templates_parser = TemplateParser(templates, options.null_score, options.empty_score, segment)
    sentences = options.sentences or list(_lines(sys.stdin.buffer))
    if options.format == "svg" and (len(sentences) != 1 or options.k != 1):
        raise UserError("--format svg draws one tree: pass one sentence and leave -k at 1")
    trees: list[Node] = []
    with atomic_write(options.output) if options.output else nullcontext(sys.stdout) as file:
        for sentence in sentences:
            for tree in templates_parser.k_best(sentence, options.k):
                trees.append(tree)
                if options.format == "text":
                    print(f"score {tree.score:.4f}", file=file)
                print(_FORMATS[options.format](tree).rstrip("\n"), file=file)
    return trees


if __name__ == "__main__":
    run(main)
