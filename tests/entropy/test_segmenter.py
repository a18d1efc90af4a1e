"""The segmenter covers any text exactly, equals its slow twin, stays linear, and reads and writes its lexicon."""

import math
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from entropy import segmenter as module
from entropy.characters import SPACE
from entropy.corpus import Corpus
from entropy.errors import UserError
from entropy.lexicon import atomic_write, read_lexicon, write_lexicon
from entropy.segmenter import UnigramSegmenter
from entropy.utf8 import code_points

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages: the oracle lies beside its test
import segment_oracle as oracle

CHARACTERS = "天地玄黄AbÉ09９.,，！ \n〇\u0301\u200d😀👩"
TEXT = st.one_of(st.text(max_size=40), st.text(alphabet=CHARACTERS, max_size=40))
WORDS = st.dictionaries(st.text(alphabet=CHARACTERS, min_size=1, max_size=4), st.integers(1, 20), max_size=12)


@given(TEXT, WORDS, st.booleans())
@example("👩\u200d👩 e\u0301！！", {"é": 1}, True)
@example("1998年3.14和1,000", {"0年": 3, "1": 2}, True)
@settings(max_examples=400, deadline=None)
def test_equals_the_slow_twin_and_covers_the_text(text, words, numbers):
    segmenter = UnigramSegmenter(words, numbers=numbers)
    found = segmenter.segment(text)
    assert "".join(found) == text
    assert found == oracle.segment(text, words, numbers=numbers)
    assert [text[a:b] for a, b in segmenter.offsets(text)] == found


@given(st.lists(TEXT, max_size=4), WORDS, st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_segmented_words(texts, words, workers):
    words = {word: count for word, count in words.items() if not any(c.isdigit() or c == "\n" for c in word)}
    counted = UnigramSegmenter(words).count(Corpus(texts), workers)
    tokens = [token for token in oracle.segment("\n".join(texts), words) if token in words]
    assert {w: n for w, n in counted.items() if n} == {w: tokens.count(w) for w in set(tokens)}


@given(st.lists(TEXT, max_size=6), WORDS, st.sampled_from([1, 20, 1 << 16]))
@example(["", "天地", "", "\n", "\u0301天", " ", ""], {"天地": 1}, 20)
@settings(max_examples=100, deadline=None)
def test_many_texts_are_segmented_as_each_alone(texts, words, batch):
    segmenter = UnigramSegmenter(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", batch)
        assert list(segmenter.segment_many(iter(texts))) == [segmenter.segment(text) for text in texts]


def test_a_class_of_numbers_is_counted_once():
    segmenter = UnigramSegmenter({"1998年": 1, "2026年": 5, "年": 1})
    assert segmenter.count(Corpus(["1998年，2026年，7年年"])) == {"1998年": 3, "2026年": 0, "年": 1}


@given(TEXT, WORDS)
@settings(max_examples=100, deadline=None)
def test_spaced_text_is_the_words_of_each_line(text, words):
    segmenter = UnigramSegmenter(words)
    words_of = [[w for w in segmenter.segment(line) if not w.isspace()] for line in text.split("\n")]
    spaced = segmenter.spaced(text, "|")
    assert spaced.count("\n") == text.count("\n")
    if not any(oracle.kind(c) == SPACE for c in text.replace("\n", "")):
        assert spaced == "\n".join("|".join(line) for line in words_of)


def test_whole_units_and_number_classes():
    segmenter = UnigramSegmenter({"0年": 5, "卡拉OK": 2, "年": 1})
    assert segmenter.segment("２０２６年在卡拉OK唱3.14遍MP3 A-1，1,000！！") == [
        *("２０２６年", "在", "卡拉OK", "唱", "3.14", "遍", "MP3", " ", "A", "-", "1", "，", "1,000", "！！"),
    ]
    literal = UnigramSegmenter({"1998年": 5, "年": 1}, numbers=False)
    assert literal.segment("1998年1999年") == ["1998年", "1999", "年"]


def test_bits_by_hand():
    segmenter = UnigramSegmenter({"天地": 3, "玄": 0.5 + 4}, unseen=0.5)  # frequencies of 8
    bits, covered = segmenter.bits("天地玄，黄")
    assert bits == pytest.approx(-math.log2(3 / 8) - math.log2(4.5 / 8) - math.log2(0.5 / 8) + 17)
    assert covered == 4
    assert segmenter.bits("") == (0.0, 0)


def test_a_million_characters_in_one_line():
    """Linear: each position looks no further than the longest word, so this takes well under a second, not hours."""
    line = "哈" * 400_000 + "天地玄黄" * 150_000
    segmenter = UnigramSegmenter({"哈哈": 5, "天地": 3, "玄黄": 2, "哈哈哈": 1})
    ends = segmenter.ends(code_points(line))
    assert ends[-1] == len(line) == 1_000_000
    assert np.all(np.diff(ends) <= 3)


@pytest.mark.parametrize("text", ["", "天", "\n", " ", "，", "7"])
def test_tiny_texts(text):
    assert UnigramSegmenter({"天": 1}).segment(text) == ([text] if text else [])
    assert UnigramSegmenter({}).segment(text) == ([text] if text else [])


def test_pickle_save_and_load(tmp_path):
    segmenter = UnigramSegmenter({"天地": 3, "玄": 2, "黄": 2}, unseen=0.1)
    text = "天地玄黄宇宙"
    assert pickle.loads(pickle.dumps(segmenter)).segment(text) == segmenter.segment(text)
    segmenter.save(tmp_path / "words.tsv")
    assert (tmp_path / "words.tsv").read_bytes().decode() == "天地\t3\n玄\t2\n黄\t2\n"
    segmenter.save(tmp_path / "words.txt")
    assert (tmp_path / "words.txt").read_bytes().decode() == "天地 3\n玄 2\n黄 2\n"
    for name in ("words.tsv", "words.txt"):
        assert UnigramSegmenter.load(tmp_path / name, unseen=0.1).words == segmenter.words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.tsv", "words.txt"]  # no temporary file is left


def test_jieba_takes_the_lexicon(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jieba = pytest.importorskip("jieba", reason="jieba, of the extra [corpus], is not installed")
        jieba.setLogLevel(60)
        tokenizer = jieba.Tokenizer()
        path = tmp_path / "words.txt"
        write_lexicon(path, {"冽尕甪": 1000, "甪直": 7})
        tokenizer.load_userdict(str(path))
        assert tokenizer.lcut("冽尕甪", HMM=False) == ["冽尕甪"]
        assert tokenizer.FREQ["甪直"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("天\t1\n地\n", r"words\.tsv, line 2: '地': expected a word, a tab and a count"),
        ("天\tx\n", "line 1"),
        ("天\t0\n", "line 1"),
        ("\n\n", "no word in it"),
    ],
)
def test_broken_lexicon_files(tmp_path, content, message):
    path = tmp_path / "words.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_lexicon(path)


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_lexicon(tmp_path / "none.tsv")
    (tmp_path / "gbk.tsv").write_bytes("天\t1\n".encode("gbk"))
    with pytest.raises(UserError, match="not valid UTF-8"):
        read_lexicon(tmp_path / "gbk.tsv")
    with pytest.raises(UserError, match="contains the space"):
        write_lexicon(tmp_path / "a.tsv", {"a b": 1})
    with pytest.raises(UserError, match="folder that exists"):
        write_lexicon(tmp_path / "no" / "a.tsv", {"a": 1})
    with pytest.raises(UserError, match="count above 0"):
        UnigramSegmenter({"天": 0})
    with pytest.raises(UserError, match="unseen=0"):
        UnigramSegmenter({"天": 1}, unseen=0)


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "words.tsv"
    write_lexicon(path, {"天": 1})

    def interrupted():
        with atomic_write(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "天\t1\n"
    assert list(tmp_path.iterdir()) == [path]
