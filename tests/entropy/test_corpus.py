"""Reading: every kind of source gives the same blocks of text, whatever their size; errors name the place."""

import gzip
import io
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropy import UnigramSegmenter, WordDiscoverer
from entropy.corpus import Corpus, for_each_block
from entropy.errors import UserError
from entropy.utf8 import code_points, decode_utf8, to_text

TEXT = "天地玄黄，宇宙洪荒。\n日月盈昃 辰宿列张\r\n\n" * 40


def read(corpus: Corpus, size: int = 1 << 20) -> str:
    return "".join(to_text(decode().codes) for decode in corpus.blocks(size))


@given(st.binary(max_size=60))
@settings(max_examples=400, deadline=None)
def test_decoder_equals_python(data):
    out = np.empty(len(data), np.uint32)
    length, fault = decode_utf8(np.frombuffer(data, np.uint8), out)
    text, valid = data.decode("utf-8", "ignore"), len(data)
    if fault >= 0:
        with pytest.raises(UnicodeDecodeError) as error:
            data.decode("utf-8")
        valid = error.value.start
        text = data[:valid].decode("utf-8")
        assert fault == valid
    assert to_text(out[:length]) == text
    assert text.encode("utf-8") == data[:valid]


@given(st.text(max_size=50))
@settings(deadline=None)
def test_decoder_takes_any_text(text):
    data = text.encode("utf-8")
    out = np.empty(len(data), np.uint32)
    length, fault = decode_utf8(np.frombuffer(data, np.uint8), out)
    assert fault == -1
    assert to_text(out[:length]) == text == to_text(code_points(text))


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_sources_agree(tmp_path, monkeypatch, size):
    plain = tmp_path / "a.txt"
    plain.write_bytes(TEXT.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(TEXT.encode()))
    for name in ("a.txt", "a.txt.gz", "a.txt.xz"):
        assert read(Corpus.from_paths([tmp_path / name]), size) == TEXT
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="utf-8"))
    stdin = Corpus.from_paths(["-"])
    assert read(stdin, size) == TEXT
    assert read(stdin, size) == TEXT  # a second time, from the copy
    lines = TEXT.split("\n")[:-1]
    assert read(Corpus(iter(lines)), size) == TEXT
    assert list(Corpus(lines).lines()) == lines
    assert list(Corpus.from_paths([plain]).lines()) == [line.removesuffix("\r") for line in lines]


def test_a_block_ends_where_no_word_goes_on(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("春夏秋冬" * 50 + "，" + "东西南北" * 100 + "\n", encoding="utf-8")
    for size in (5, 50, 500):
        blocks = [to_text(decode().codes) for decode in Corpus.from_paths([path]).blocks(size)]
        assert all(block[-1] in "，\n" for block in blocks)


def test_pattern_in_sorted_order_and_byte_order_mark(tmp_path):
    (tmp_path / "b.txt").write_bytes("乙\n".encode())
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "甲\n".encode())
    assert list(Corpus.from_paths([tmp_path / "*.txt"]).lines()) == ["甲", "乙"]
    assert read(Corpus([tmp_path / "b.txt", tmp_path / "a.txt"])) == "乙\n甲\n"


def test_invalid_bytes_are_named_or_replaced(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes("好\n坏".encode() + b"\xff\xfe" + "了\ufffd\n".encode())
    for size in (1, 1 << 20):
        with pytest.raises(UserError, match=r"bad\.txt, line 2, byte offset 7: 0xff is not valid UTF-8"):
            read(Corpus.from_paths([path]), size)
    with pytest.raises(UserError, match="line 2, byte offset 7"):
        list(Corpus.from_paths([path]).lines())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes() + b"\n" * 9), encoding="ascii"))
        with pytest.raises(UserError, match=r"^standard input, byte offset 7: 0xff is not valid UTF-8"):  # no line
            list(Corpus.from_paths(["-"]).lines())
    corpus = Corpus.from_paths([path], errors="replace")
    assert read(corpus) == "好\n坏\ufffd\ufffd了\ufffd\n"
    assert corpus.num_replaced == 2  # the third one was in the text


def test_damaged_file(tmp_path):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-20])
    with pytest.raises(UserError, match=r"cut\.gz: cannot be read"):
        read(Corpus.from_paths([path]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corpus.from_paths(["/no/such/file"]), "/no/such/file"),
        (lambda: Corpus.from_paths([]), "no corpus given"),
        (lambda: Corpus.from_paths([Path("/")]), "is a folder"),
        (lambda: Corpus("text.txt"), "pass a list of texts"),
        (lambda: Corpus([], errors="ignore"), "'strict' or 'replace'"),
        (lambda: read(Corpus(["a", 7])), "text 1 of the corpus is int 7"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("workers", [1, 3])
def test_every_block_is_worked_on_once_and_errors_come_out(tmp_path, workers):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    states = [[] for _ in range(workers)]
    for_each_block(Corpus.from_paths([path]), states, lambda state, block: state.append(to_text(block.codes)), size=50)
    assert sorted(text for state in states for text in state) == sorted(
        to_text(b().codes) for b in Corpus.from_paths([path]).blocks(50)
    )

    def fail(state, block):
        raise UserError("stop here")

    with pytest.raises(UserError, match="stop here"):
        for_each_block(Corpus.from_paths([path]), states, fail, size=50)


def test_lone_surrogates_separate():
    """They are no text, but Python strings may hold them; from any source they end a word."""
    texts = ["天地\ud800玄黄"] * 3
    assert WordDiscoverer(method="ngram").fit(texts).words_ == WordDiscoverer(method="ngram").fit(iter(texts)).words_
    assert UnigramSegmenter({"天地": 1}).segment(texts[0]) == ["天地", "\ud800", "玄", "黄"]
