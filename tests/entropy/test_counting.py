"""The numba counters equal `collections.Counter` for any text, block size, number of threads, spilled or not."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropy.characters import DIGIT, IDEOGRAPH, LETTER, MARK, OTHER, SPACE, character_classes, word_characters
from entropy.corpus import Corpus, for_each_block
from entropy.counting import KeyCounter, PairCounter, unpack_pair
from entropy.discoverer import count_pairs
from entropy.sequences import SequenceCounter
from entropy.utf8 import code_points

CHINESE = st.text(alphabet="天地玄黄宇宙洪荒A7，\n〇𠀀é", max_size=80)
ANY = st.one_of(st.text(max_size=80), CHINESE)


def slow_pairs(texts, is_word):
    singles, pairs = Counter(), Counter()
    for text in texts:
        singles.update(c for c in text if is_word[ord(c)])
        pairs.update((a, b) for a, b in pairwise(text) if is_word[ord(a)] and is_word[ord(b)])
    return singles, pairs


def as_counters(singles, keys, counts):
    found = Counter({chr(code): int(singles[code]) for code in np.flatnonzero(singles)})
    first, second = unpack_pair(keys)
    return found, Counter({(chr(a), chr(b)): int(n) for a, b, n in zip(first, second, counts, strict=True)})


@given(st.lists(ANY, max_size=6), st.sampled_from(["unicode", "ascii"]), st.sampled_from([1, 2]))
@settings(max_examples=80, deadline=None)
def test_pairs_equal_a_counter(texts, alphabet, workers):
    is_word = word_characters(alphabet)
    assert as_counters(*count_pairs(Corpus(texts), is_word, workers).result()) == slow_pairs(texts, is_word)


@given(CHINESE, CHINESE)
@settings(max_examples=60, deadline=None)
def test_counts_do_not_depend_on_the_sample(sample, text):
    """Characters without a row of the dense table go through the hash table, with the same counts."""
    is_word = word_characters()
    counter = PairCounter(is_word, code_points(sample))
    counter.add(code_points(text))
    assert as_counters(*counter.result()) == slow_pairs([text], is_word)


def test_blocks_workers_and_growth(tmp_path):
    generator = np.random.default_rng(0)
    codes = generator.integers(0x4E00, 0x4E00 + 6000, 60_000).astype(np.uint32)  # more than the dense table holds
    codes[generator.random(len(codes)) < 0.05] = ord("\n")
    text = codes.tobytes().decode("utf-32-le")
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="\n")
    truth = slow_pairs([text], word_characters())
    for workers, size in ((1, 1 << 20), (2, 5000), (3, 777)):
        first = PairCounter(word_characters(), codes[:9000])
        counters = [first, *(first.twin() for _ in range(workers - 1))]
        corpus = Corpus.from_paths([path])
        for_each_block(corpus, counters, lambda state, block: state.add(block.codes), size=size)
        for other in counters[1:]:
            first.merge(other)
        assert as_counters(*first.result()) == truth


@given(st.lists(st.tuples(st.integers(0, 2**64 - 2), st.integers(1, 9)), max_size=200))
def test_keys_equal_a_counter(items):
    counter, truth = KeyCounter(4), Counter()
    for key, amount in items:
        truth[key] += amount
    counter.add(np.array([k for k, _ in items], np.uint64), np.array([n for _, n in items], np.int64))
    keys, counts = counter.items()
    assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == dict(truth)
    assert keys.tolist() == sorted(truth)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=60), st.booleans(), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_sequences_equal_a_counter(sequences, spill, num_counters):
    truth = Counter(map(tuple, sequences))
    counters = [SequenceCounter(1 if spill else None) for _ in range(num_counters)]
    for i, sequence in enumerate(sequences):
        ends = np.array([len(sequence)])
        counters[i % num_counters].add(np.array(sequence, np.uint32), np.array([0]), ends, firsts=np.array([i]))
        if spill and i % 5 == 0:
            counters[i % num_counters]._spill()
    first, *others = counters
    for other in others:
        first.merge(other)
    assert first.total == len(sequences)
    found = first.more_than(0)
    listed = [tuple(found.symbols[a:b].tolist()) for a, b in pairwise(found.starts)]
    assert dict(zip(listed, found.counts.tolist(), strict=True)) == dict(truth)
    assert listed == list(truth)  # by first occurrence, as a Counter keeps them


def test_spilling_under_a_small_budget():
    generator = np.random.default_rng(1)
    text = generator.integers(0x4E00, 0x4E00 + 300, 200_000).astype(np.uint32)
    begins = np.arange(0, 199_990)
    free, tight = SequenceCounter(), SequenceCounter(2 << 20)
    for counter in (free, tight):
        for chunk in np.array_split(begins, 9):
            counter.add(text, chunk, chunk + 2)
    assert tight._file
    assert not free._file
    for mine, theirs in zip(tight.more_than(1), free.more_than(1), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("characters", "kind"),
    [
        ("一龥鿿〇々㐀𠀀𫝀豈○かン한ไ", IDEOGRAPH),
        ("azA９Ｚéяאع"[:3] + "Ｚéяאع", LETTER),
        ("07９٣", DIGIT),
        (" \t\n\u3000\x00", SPACE),
        ("，。！—·①😀½\ufffd", OTHER),
        ("\u0301\u20e3\ufe0f\u200d", MARK),
    ],
)
def test_classes_follow_unicode(characters, kind):
    assert [character_classes()[ord(c)] for c in characters] == [kind] * len(characters)


def test_alphabets():
    ascii_only = word_characters("ascii")
    assert [c for c in "一龥鿿〇é9９aＡ" if ascii_only[ord(c)]] == ["一", "龥", "9", "a"]
    assert all(word_characters()[ord(c)] for c in "一龥鿿〇é9９aＡ\u0301")
    with pytest.raises(ValueError, match="expected 'unicode' or 'ascii'"):
        word_characters("latin")
