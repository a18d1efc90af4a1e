"""Text from files, patterns, compressed files, standard input or Python iterables, streamed in blocks.

Everything that counts reads through `Corpus.blocks()`: blocks end where no word can continue (a line end, else a full
stop, a comma or a space), so the counts of separate blocks add up to those of the whole text whatever the block size.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from entropy.errors import UserError
from entropy.sources import BLOCK_BYTES, Chunk, Source, expand, spooled
from entropy.utf8 import code_points, decode_utf8

_REPLACEMENT = "\ufffd".encode()
State = TypeVar("State")


class Block(NamedTuple):
    """A stretch of text: its place in the order of the corpus, and the code points (uint32)."""

    number: int
    codes: np.ndarray


class Corpus:
    """A text that can be read several times.

    Args:
        source: file names or patterns as `pathlib.Path` objects, "-" for standard input (see `from_paths` for plain
            strings), or an iterable of texts. A text is a document or a line; no word continues from one to the next.
        errors: "strict": bytes that are not UTF-8 raise an error which names file, line and offset; "replace": they
            become U+FFFD, and `num_replaced` counts them.
        progress: show a bar in bytes on standard error.

    Iterators and standard input are copied to a temporary file when they are first read by `blocks`.
    """

    def __init__(self, source: Any, *, errors: str = "strict", progress: bool = False):
        if errors not in ("strict", "replace"):
            raise UserError(f"errors={errors!r}: expected 'strict' or 'replace'")
        if isinstance(source, str):
            raise UserError("one string given as a corpus: pass a list of texts, or pathlib.Path(...) to name a file")
        if isinstance(source, PathLike):
            source = [source]
        self._sources: list[Source] = []
        self._texts: Iterable[str] | None = None
        if isinstance(source, Sequence) and source and all(isinstance(item, PathLike) for item in source):
            self._sources = [found for item in source for found in expand(fspath(item))]
        else:
            self._texts = source
        self.errors, self.progress = errors, progress
        self.num_replaced, self._lock = 0, threading.Lock()

    @classmethod
    def from_paths(cls, paths: Iterable[str | PathLike], **options: Any) -> "Corpus":
        """A corpus of files given by name or pattern ("news/*.txt.gz"); "-" is standard input."""
        paths = [Path(path) for path in paths]
        if not paths:
            raise UserError("no corpus given: name at least one file, or '-' for standard input")
        return cls(paths, **options)

    @classmethod
    def of(cls, source: Any) -> "Corpus":
        """`source` itself if it is a corpus, else a corpus made of it."""
        return source if isinstance(source, Corpus) else cls(source)

    def lines(self) -> Iterator[str]:
        """The texts one by one: the lines of files without their line end, or the items of an iterable. Reads once."""
        if self._texts is not None:
            for number, text in enumerate(self._texts):
                yield _checked(text, number)
            return
        for source in self._sources:
            with self._bar("reading", [source]) as bar:
                for chunk in source.chunks(BLOCK_BYTES, bar, boundaries=(b"\n",)):
                    yield from (line.removesuffix("\r") for line in self._decode(chunk).removesuffix("\n").split("\n"))

    def blocks(self, size: int = BLOCK_BYTES, what: str = "reading") -> Iterator[Callable[..., Block]]:
        """The corpus as blocks of about `size` bytes, each a function that decodes it in the thread that counts.

        The function takes an optional buffer (uint32) to decode into; the codes may then be a view of it.
        """
        if self._texts is not None and iter(self._texts) is self._texts:
            encoded = (
                (_checked(text, number) + "\n").encode("utf-8", "replace") for number, text in enumerate(self._texts)
            )
            self._texts, self._sources = None, [spooled(encoded)]
        if self._texts is not None:
            for number, texts in enumerate(_batches(self._texts, max(1, size // 3))):
                yield lambda _=None, number=number, texts=texts: Block(number, code_points("\n".join(texts)))
            return
        self._sources = [source.rereadable() for source in self._sources]
        self.num_replaced = 0
        number = 0
        with self._bar(what, self._sources) as bar:
            for source in self._sources:
                for chunk in source.chunks(size, bar):
                    chunk = chunk._replace(number=number)
                    yield lambda out=None, chunk=chunk: Block(chunk.number, self._code_points(chunk, out))
                    number += 1

    def _code_points(self, chunk: Chunk, out: np.ndarray | None) -> np.ndarray:
        data = np.frombuffer(chunk.data, np.uint8)
        if out is None or len(out) < len(data):
            out = np.empty(len(data), np.uint32)
        length, fault = decode_utf8(data, out)
        return out[:length] if fault < 0 else code_points(self._decode(chunk))

    def _decode(self, chunk: Chunk) -> str:
        try:
            return chunk.data.decode("utf-8")
        except UnicodeDecodeError as fault:
            if self.errors == "strict":
                raise UserError(chunk.source.describe(chunk.offset + fault.start, chunk.data[fault.start])) from None
            text = chunk.data.decode("utf-8", "replace")
            with self._lock:
                self.num_replaced += text.count("\ufffd") - chunk.data.count(_REPLACEMENT)
            return text

    @contextmanager
    def _bar(self, what: str, sources: "list[Source]") -> Iterator[tqdm]:
        sizes = [source.num_bytes for source in sources]
        total = None if None in sizes else sum(sizes)  # type: ignore[arg-type]
        with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=not self.progress, delay=1.0) as bar:
            yield bar


def _checked(text: object, number: int) -> str:
    if not isinstance(text, str):
        raise UserError(f"text {number} of the corpus is {type(text).__name__} {text!r:.60}: expected str")
    return text


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch, length = [], 0
    for number, text in enumerate(texts):
        batch.append(_checked(text, number))
        length += len(text) + 1
        if length >= size:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def num_workers(workers: int | None) -> int:
    """`workers`, or for None the number of cores that this process may use."""
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: expected 1 or more, or None for all cores")
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers


class Blocks(Protocol):
    """Anything that can be read in blocks."""

    def blocks(self, size: int, what: str) -> Iterator[Callable[..., Block]]: ...


def for_each_block(
    corpus: Blocks,
    states: list[State],
    work: Callable[[State, Block], None],
    what: str = "reading",
    size: int = BLOCK_BYTES,
) -> list[State]:
    """Hand every block to `work(state, block)`, one thread a state; returns the states.

    Threads, not processes: the kernels release the global lock, and nothing is copied. Reading happens under a lock.
    The codes of a block are valid during the call only.
    """
    blocks, lock, stop = corpus.blocks(size, what), threading.Lock(), threading.Event()

    def run(state: State) -> None:
        buffer = np.empty(size + size // 4, np.uint32)  # reused: fresh pages cost more than decoding
        try:
            while not stop.is_set():
                with lock:
                    decode = next(blocks, None)
                if decode is None:
                    return
                work(state, decode(buffer))
        except BaseException:
            stop.set()
            raise

    if len(states) == 1:
        run(states[0])
        return states
    with ThreadPoolExecutor(len(states)) as pool:
        try:
            for future in [pool.submit(run, state) for state in states]:
                future.result()
        finally:
            stop.set()
    return states
