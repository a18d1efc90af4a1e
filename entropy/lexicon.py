"""Lexicon files: one word and its count a line, UTF-8."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TextIO

from entropy.errors import UserError


def read_lexicon(path: str | PathLike) -> dict[str, int]:
    """Word -> count from lines `word TAB count` or `word SPACE count`; further columns, empty lines are ignored."""
    words: dict[str, int] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            line = line.strip("\r\n\ufeff")
            if not line:
                continue
            word, *rest = line.split("\t") if "\t" in line else line.rsplit(" ") if " " in line else [line]
            try:
                count = int(rest[0])
            except (IndexError, ValueError):
                count = 0
            if not word or count < 1:
                raise UserError(f"{path}, line {number}: {line!r:.60}: expected a word, a tab and a count of 1 or more")
            words[word] = words.get(word, 0) + count
    if not words:
        raise UserError(f"{path}: no word in it; expected lines 'word TAB count', as entropy.discover writes them")
    return words


def write_lexicon(path: str | PathLike, words: Mapping[str, int]) -> None:
    """Write words by falling count, equal ones by code points. A name in .txt gets the space that jieba asks for."""
    separator = " " if str(path).endswith(".txt") else "\t"
    for word in words:
        if any(mark in word for mark in ("\n", "\r", "\t", " ")):
            raise UserError(
                f"word {word!r} cannot be written to {path}: it contains the space, tab or line end that separates"
            )
    with atomic_write(path) as file:
        for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])):
            file.write(f"{word}{separator}{count}\n")


@contextmanager
def atomic_write(path: str | PathLike) -> Iterator[TextIO]:
    """A text file that appears under its name only when it is complete and on disk."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    try:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115 (renamed, not deleted)
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=path.name, delete=False
        )
    except OSError as fault:
        raise UserError(f"{path}: cannot be written ({fault.strerror}): name a file in a folder that exists") from None
    try:
        with file:
            yield file  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o666 & ~_umask())
        os.replace(file.name, path)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def open_text(path: str | PathLike) -> Iterator[TextIO]:
    """A UTF-8 file to read, with errors that say what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except OSError as fault:
        raise UserError(f"{path}: cannot be read ({fault.strerror}): check the name") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path}, {_first_invalid(Path(path).read_bytes())}: not valid UTF-8; convert the file"
        ) from None


def _first_invalid(data: bytes) -> str:
    """Where in a whole file decoding fails; a stream's own error counts from the piece that it had in hand."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        return f"line {line}, byte offset {fault.start}"
    return "changed while it was read"
