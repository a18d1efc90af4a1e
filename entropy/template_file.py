r"""Template files: UTF-8, the header `template TAB count`, then a line a template: words and placeholders, tab, count.

Words are separated by spaces, a placeholder is `X`; a word X is written `\X`, and space, tab, line ends and backslash
inside a word as `\s`, `\t`, `\n`, `\r`, `\\`. Further columns are passed over, and the header may be missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from os import PathLike

from entropy.errors import UserError
from entropy.lexicon import atomic_write, open_text
from entropy.template_node import Template

_HEADER = ("template", "count")
_ESCAPES = {"\\": "\\\\", " ": "\\s", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {escaped[1]: plain for plain, escaped in _ESCAPES.items()} | {"X": "X"}


def format_template(template: Template) -> str:
    r"""`(None, "是", "X")` as `X 是 \X`."""
    return " ".join("X" if word is None else _escape(word) for word in template)


def parse_template(text: str) -> Template:
    r"""The inverse of `format_template`. Raises ValueError for an empty one and for an unknown escape."""
    if "" in text.split(" "):
        raise ValueError("empty word")
    return tuple(None if word == "X" else _unescape(word) for word in text.split(" "))


def is_trivial(template: Template) -> bool:
    """One word, whatever placeholders stand around it: it says nothing about structure."""
    return sum(word is not None for word in template) == 1


def write_templates(
    path: str | PathLike, templates: Mapping[Template, float], columns: Mapping[str, Callable[[Template], str]] = {}
) -> None:
    """Write templates by falling count, equal ones in the order of the mapping, with further columns by name."""
    with atomic_write(path) as file:
        file.write("\t".join([*_HEADER, *columns]) + "\n")
        for template, count in sorted(templates.items(), key=lambda item: -item[1]):
            cells = [format_template(template), f"{float(count)!r}" if count % 1 else f"{int(count)}"]
            file.write("\t".join([*cells, *(make(template) for make in columns.values())]) + "\n")


def read_templates(path: str | PathLike) -> dict[Template, float]:
    """Template -> count. The same template twice adds up.

    Raises:
        UserError: naming file and line, for a line that is no template or a count that is not positive, and for a file
            without templates.
    """
    templates: dict[Template, float] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            line = line.strip("\r\n\ufeff")
            if not line or (number == 1 and tuple(line.split("\t")[:2]) == _HEADER):
                continue
            template, count = _parse_line(line, f"{path}, line {number}")
            templates[template] = templates.get(template, 0) + count
    if not templates:
        raise UserError(
            f"{path}: no template in it; expected lines 'X 是 X TAB count', as entropy.templates writes them"
        )
    return templates


def _parse_line(line: str, where: str) -> tuple[Template, float]:
    cells = line.split("\t")
    try:
        template, count = parse_template(cells[0]), float(cells[1])
    except (IndexError, ValueError):
        template, count = (), 0.0
    if not (math.isfinite(count) and count > 0):
        raise UserError(f"{where}: {line!r:.60}: expected words and X separated by spaces, a tab and a positive count")
    if all(word is None for word in template):
        raise UserError(
            f"{where}: template {cells[0]!r} has no word of its own: it would explain everything; remove it"
        )
    return template, int(count) if count % 1 == 0 else count


def _escape(word: str) -> str:
    if word == "X":
        return "\\X"
    return re.sub(r"[\\ \t\n\r]", lambda match: _ESCAPES[match[0]], word)


def _unescape(word: str) -> str:
    def plain(match: re.Match) -> str:
        if match[1] not in _UNESCAPES:
            raise ValueError(f"unknown escape {match[0]}")
        return _UNESCAPES[match[1]]

    return re.sub(r"\\(.?)", plain, word)
