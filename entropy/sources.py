"""Where text comes from: files, plain or compressed, and standard input, as byte strings that end at a boundary."""

import glob
import gzip
import io
import lzma
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from entropy.errors import UserError

BLOCK_BYTES = 1 << 20
_BOUNDARIES = (b"\n", "。".encode(), "，".encode(), b" ")


class Chunk(NamedTuple):
    """Bytes of one source that end at a boundary, and where they start in it."""

    number: int
    source: "Source"
    offset: int
    data: bytes


class Source:
    """A file, plain or compressed, or standard input (name "-")."""

    def __init__(self, name: str, file: BinaryIO | None = None):
        self.name, self._file = name, file
        if file is not None:
            weakref.finalize(self, file.close)
        if name == "-" and file is None:
            self.num_bytes = None
        else:
            self.num_bytes = _size(file) if file is not None else Path(name).stat().st_size

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """The stream of text bytes and, for progress, the stream underneath it."""
        if self._file is not None:
            self._file.seek(0)
            yield self._file, self._file
        elif self.name == "-":
            yield sys.stdin.buffer, sys.stdin.buffer
        else:
            with open(self.name, "rb") as raw:
                yield _decompressed(self.name, raw), raw

    def rereadable(self) -> "Source":
        """This source, or a temporary copy of standard input."""
        if self.name != "-" or self._file is not None:
            return self
        return spooled(iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b""), name="-")

    def chunks(self, size: int, bar: tqdm, boundaries: tuple[bytes, ...] = _BOUNDARIES) -> Iterator[Chunk]:
        """Byte strings of about `size` that end after a boundary. A stretch without any is kept whole."""
        offset, rest, done = 0, b"", 0
        with self.open() as (stream, raw):
            while data := self._read(stream, max(size, len(rest))):
                if offset == 0 and not rest and data.startswith(b"\xef\xbb\xbf"):  # byte order mark
                    offset, data = 3, data[3:]
                place = done + len(data) if self.num_bytes is None else raw.tell()
                bar.update(place - done)
                done = place
                cut = _cut(data, boundaries)
                if not cut:
                    rest += data
                    continue
                whole = rest + data[:cut] if rest else data[:cut]
                yield Chunk(0, self, offset, whole)
                offset, rest = offset + len(whole), data[cut:]
            if rest:
                yield Chunk(0, self, offset, rest)

    def _read(self, stream: BinaryIO, size: int) -> bytes:
        try:
            return stream.read(size)
        except (OSError, EOFError, lzma.LZMAError) as fault:
            raise UserError(f"{self.name}: cannot be read ({fault}); the file may be damaged or cut short") from None

    def describe(self, offset: int, byte: int) -> str:
        """Where the invalid byte lies, for a person; its line only if the text can be read again to count lines."""
        if self.name == "-" and self._file is None:
            place = "standard input"
        else:
            line, left = 1, offset
            with self.open() as (stream, _):
                while left and (data := stream.read(min(left, BLOCK_BYTES))):
                    line, left = line + data.count(b"\n"), left - len(data)
            place = f"{self.name}, line {line}"
        return (
            f"{place}, byte offset {offset}: 0x{byte:02x} is not valid UTF-8; "
            "convert the file (iconv -t UTF-8) or pass --errors replace"
        )


def expand(pattern: str) -> list[Source]:
    if pattern == "-":
        return [Source("-")]
    if Path(pattern).is_file():
        return [Source(pattern)]
    names = sorted(name for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
    if not names:
        if Path(pattern).is_dir():
            raise UserError(f"corpus {pattern!r} is a folder: name its files, such as {str(Path(pattern) / '*.txt')!r}")
        raise UserError(f"corpus {pattern!r}: no such file; check the name, or quote a pattern such as 'news/*.txt'")
    return [Source(name) for name in names]


def _decompressed(name: str, raw: BinaryIO) -> BinaryIO:
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK_BYTES)
    if name.endswith(".xz"):
        return lzma.LZMAFile(raw)  # type: ignore[return-value]
    return raw


def spooled(pieces: Iterable[bytes], name: str = "texts") -> Source:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the source)
    for piece in pieces:
        file.write(piece)
    return Source(name, file)


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _cut(data: bytes, boundaries: tuple[bytes, ...]) -> int:
    """The end of the last boundary in `data`, of the first kind that occurs; 0 if none does."""
    for mark in boundaries:
        place = data.rfind(mark)
        if place >= 0:
            return place + len(mark)
    return 0
