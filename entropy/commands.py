"""What the commands of this package share."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from entropy.errors import UserError


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are told in one line, without the page of usage before it."""

    def __init__(self, prog: str, description: str | None = None):
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def run(main: Callable[[Sequence[str] | None], object]) -> None:
    """Run a command from the shell: a user's mistake is one line on standard error and exit status 2."""
    try:
        main(None)
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of standard output has gone
        sys.stderr.close()
        sys.exit(0)


def num_bytes(text: str) -> int:
    """A size such as 512M or 1.5G (binary units) for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)I?B?", text.strip().upper())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size such as 512M or 1.5G")
    return int(float(match[1]) * _UNITS[match[2]])


def positive(text: str) -> int:
    """A whole number of at least 1 for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def add_corpus_options(parser: Parser) -> None:
    """The corpus and how to read it."""
    parser.add_argument("corpus", nargs="+", help="UTF-8 text: files or quoted patterns, also .gz and .xz; - is stdin")
    parser.add_argument("--errors", choices=("strict", "replace"), default="strict", help="bytes that are not UTF-8")
    parser.add_argument("--workers", type=int, help="threads (default: all cores)")


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as aligned columns; numbers right, text left."""
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*texts, strict=True)]
    lines = []
    for row in texts:
        cells = [
            " " * (width - _width(cell)) + cell if cell[:1].isdigit() else cell + " " * (width - _width(cell))
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns on a terminal: ideographs take two."""
    return sum(2 if ord(character) >= 0x2E80 else 1 for character in text)
