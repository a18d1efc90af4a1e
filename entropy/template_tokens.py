"""A corpus as word ids in a temporary file: segmented once, read as often as the miner likes, in bounded memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from entropy.characters import word_characters
from entropy.corpus import Block, Corpus
from entropy.errors import UserError

_FLUSH = 1 << 20  # ids held in memory while reading


class _Numbers(dict):
    """Word -> id, from 1 on in the order of first sight; 0 for what has no letter, digit or ideograph."""

    def __init__(self) -> None:
        super().__init__()
        self.words = [""]
        self.is_word = word_characters()

    def __missing__(self, word: str) -> int:
        if any(self.is_word[ord(character)] for character in word):
            self[word] = len(self.words)
            self.words.append(word)
        else:
            self[word] = 0
        return self[word]


class Tokens:
    """Word ids (uint32) of a corpus, a 0 after every clause.

    Args:
        file: an empty temporary file.
        texts: a `Corpus`, paths, or an iterable of strings or of sequences of words.
        segment: see `TemplateMiner`.
        progress: show bars.
    """

    def __init__(self, file: BinaryIO, texts: Any, segment: Callable | None, progress: bool):
        self.progress = progress
        numbers = _Numbers()
        ids = array("I")
        self.num_tokens = 0
        for words in words_of(texts, segment, progress):
            try:
                ids.extend(map(numbers.__getitem__, words))
            except TypeError:
                raise UserError(f"{words!r:.60} in the corpus: expected words as strings") from None
            ids.append(0)
            if len(ids) >= _FLUSH:
                self.num_tokens += len(ids)
                ids.tofile(file)
                ids = array("I")
        ids.tofile(file)
        file.flush()
        self.num_tokens += len(ids)
        self.words = numbers.words
        empty = np.empty(0, np.uint32)
        self._ids = np.memmap(file, np.uint32, "r") if self.num_tokens else empty

    def blocks(self, size: int, what: str = "reading", quiet: bool = False) -> Iterator[Callable[..., Block]]:
        """Blocks of whole clauses, `size` ids or a little more, as `entropy.corpus.for_each_block` takes them."""
        start = number = 0
        hidden = True if quiet or not self.progress else None  # None: shown on a terminal
        with tqdm(total=self.num_tokens, desc=what, unit="word", unit_scale=True, delay=1, disable=hidden) as bar:
            while start < self.num_tokens:
                end = min(start + size, self.num_tokens)
                while self._ids[end - 1]:
                    end += 1
                part = slice(start, end)
                yield lambda _=None, number=number, part=part: Block(number, np.array(self._ids[part]))
                bar.update(end - start)
                start, number = end, number + 1


def words_of(texts: Any, segment: Callable | None, progress: bool = False) -> Iterator[Sequence[str]]:
    """The words of each text, punctuation included."""
    if isinstance(texts, str | PathLike):
        raise UserError(f"{texts!r:.60} as a corpus: expected a list of texts, or Corpus.from_paths([...])")
    cut = getattr(segment, "segment", segment)
    if isinstance(texts, Corpus):  # it shows its own bar
        source: Iterable = texts.lines()
    else:
        hidden = None if progress else True
        source = tqdm(texts, "segmenting", unit="text", unit_scale=True, delay=1, disable=hidden)
    for text in source:
        if not isinstance(text, str):
            yield text
        elif cut is None:
            yield text.split()
        else:
            yield cut(text)
