r"""Files of groups, of labelled pairs and of raw sentences, in the layouts in which such data is handed around.

UTF-8, plain, gz or xz.

===================== =====================================================================
group file            ``group_id TAB sentence`` (the article's)
LCQMC, BQ, PAWS-X     ``sentence1 TAB sentence2 TAB label``, or with commas (csv, quoted)
ATEC, PAWS-X          ``id TAB sentence1 TAB sentence2 TAB label``
AFQMC, SimCLUE pairs  a JSON object a line: ``sentence1``, ``sentence2``, ``label``
SimCLUE ranks         a JSON object a line: ``query``, lists ``title`` and ``neg_title``
raw text              a sentence, without any tab (commas may be in it)
===================== =====================================================================

The layout is found from the first line; a header line is recognised by its words and skipped, as are empty lines. Every
line after that has to fit, or an error names it.
"""

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from similarity.groups import Groups, groups_from_pairs, groups_from_rows, merged
from trainer import UserError

HEADER_WORDS = {
    "label",
    "labels",
    "sentence1",
    "sentence2",
    "sentence",
    "text_a",
    "text_b",
    "group",
    "group_id",
    "score",
}
FIRST_KEYS = ("sentence1", "text1", "text_a", "question1", "query")
SECOND_KEYS = ("sentence2", "text2", "text_b", "question2", "title")
Pair = tuple[str, str, int]
Numbered = Iterator[tuple[int, str]]


def read(path: Path) -> Groups:
    """Groups out of one file of any layout.

    Raises:
        UserError: not readable, of no known layout, or a line that does not fit; names file and line.
    """
    lines = numbered_lines(path)
    first = next(lines, None)
    if first is None:
        raise UserError(
            f"{path}: empty; expected group_id TAB sentence, sentence1 TAB sentence2 TAB label, or raw sentences"
        )
    layout = _layout(path, *first)
    rows = [] if _is_header(first[1]) else layout(*first)
    for number, line in lines:
        rows += layout(number, line)
    make: Callable[[Iterable], Groups] = groups_from_rows if layout.__name__ == "group" else groups_from_pairs
    return make(rows)


def load(paths: Iterable[Path]) -> Groups:
    """Groups of several files as one set.

    Raises:
        UserError: as `read`, or no group in any of them.
    """
    paths = list(paths)
    groups = merged([read(path) for path in paths])
    if not groups.groups:
        raise UserError(f"{', '.join(map(str, paths))}: no group of two sentences or more in there")
    return groups


def numbered_lines(path: Path) -> Numbered:
    """Line number from 1, line without its end; empty lines are passed over."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        elif content[:6] == b"\xfd7zXZ\x00":
            content = lzma.decompress(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read ({error or 'cut short'})") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file first") from error
        if line.strip():
            yield number, line


def _is_header(line: str) -> bool:
    words = {word.strip(' "').lower() for word in line.replace(",", "\t").split("\t")}
    return not line.lstrip().startswith("{") and bool(words & HEADER_WORDS)


def _layout(path: Path, number: int, line: str) -> Callable[[int, str], list]:
    """The parser that the first line asks for."""

    def wrong(at: int, problem: str) -> UserError:
        return UserError(f"{path}, line {at}: {problem}")

    def checked(at: int, text: str) -> str:
        if not text.strip():
            raise wrong(at, "an empty sentence")
        return text

    def group(at: int, line: str) -> list[tuple[str, str]]:
        cells = line.split("\t")
        if len(cells) != 2:
            raise wrong(at, f"{len(cells)} columns; expected group_id TAB sentence as in line {number}")
        return [(cells[0].strip(), checked(at, cells[1]))]

    def sentence(at: int, line: str) -> list[Pair]:
        if "\t" in line:
            raise wrong(at, f"a tab; expected a sentence alone as in line {number}")
        return [(checked(at, line), line, 1)]  # joined to nothing

    def cells_of(at: int, line: str) -> list[str]:
        try:
            return line.split("\t") if by_tab else next(csv.reader([line]))
        except csv.Error as error:
            raise wrong(at, f"not comma-separated text ({error})") from error

    def columns(at: int, line: str) -> list[Pair]:
        cells = cells_of(at, line)
        if len(cells) != width:
            raise wrong(at, f"{len(cells)} columns; expected {width} as in line {number}")
        label = _label(cells[-1], lambda problem: wrong(at, problem))
        return [(checked(at, cells[-3]), checked(at, cells[-2]), label)]

    def record(at: int, line: str) -> list[Pair]:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets 100,000 deep
            raise wrong(at, f"not a JSON object ({getattr(error, 'msg', error)})") from error
        if not isinstance(fields, dict):
            raise wrong(at, "not a JSON object")
        pairs = _pairs_of(fields, lambda problem: wrong(at, problem))
        return [(checked(at, first), checked(at, second), label) for first, second, label in pairs]

    if line.lstrip().startswith("{"):
        return record
    by_tab = "\t" in line
    width = len(cells_of(number, line))
    if width in (3, 4):
        return columns
    if by_tab and width == 2:
        return group
    if not by_tab and (width == 1 or not _is_header(line)):
        return sentence
    raise wrong(
        number,
        f"{width} column(s); expected group_id TAB sentence, sentence1 TAB sentence2 TAB label, the same with an id in "
        "front or with commas, a JSON object a line, or a sentence a line",
    )


def _pairs_of(fields: dict[str, Any], wrong: Callable[[str], UserError]) -> Iterator[Pair]:
    first = next((fields[key] for key in FIRST_KEYS if key in fields), None)
    second = next((fields[key] for key in SECOND_KEYS if key in fields), None)
    if not isinstance(first, str) or second is None:
        raise wrong(f"expected keys sentence1, sentence2, label or query, title, neg_title; found {sorted(fields)}")
    if isinstance(second, list):
        strangers = fields.get("neg_title", [])
        if not isinstance(strangers, list):
            raise wrong(f"neg_title {strangers!r}; expected a list of texts")
        for label, others in ((1, second), (0, strangers)):
            for other in others:
                if not isinstance(other, str):
                    raise wrong(f"{other!r} among the titles; expected text")
                yield first, other, label
        return
    if not isinstance(second, str):
        raise wrong(f"{second!r}; expected text")
    yield first, second, _label(fields.get("label"), wrong)


def _label(value: Any, wrong: Callable[[str], UserError]) -> int:
    text = str(value).strip()
    if text not in ("0", "1"):
        raise wrong(f"label {text!r}; expected 1 (the same meaning) or 0 (another)")
    return int(text)
