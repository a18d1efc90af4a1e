"""Normalisation and vocabulary: ids, unknown characters, empty and endless text."""

import doctest

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from similarity import text
from similarity.text import Vocabulary, code_points, normalize, padded


def test_worked_examples():
    assert doctest.testmod(text).failed == 0
    assert doctest.testmod(text).attempted > 0


def test_normalize_by_hand():
    assert normalize("ＡＢＣ１２３！？") == "abc123!?"
    assert normalize("　花呗　怎么 还\n款\t ") == "花呗 怎么 还 款"
    assert normalize(" \u3000\n") == ""


@given(st.text())
def test_normalize_twice_is_once(string):
    assert normalize(normalize(string)) == normalize(string)


@given(st.text(st.characters(exclude_categories=[])))
def test_code_points_are_the_characters_surrogates_too(string):
    assert code_points(string).tolist() == [ord(character) for character in string]


def test_the_vocabulary_counts_sorts_and_cuts():
    vocabulary = Vocabulary.fit(["ab", "AB", "a b", "c", "ｃ", "d"], min_count=2)
    assert vocabulary.characters == "abc"  # a 3, b 3, c 2 in two widths; the blank and d once
    assert len(vocabulary) == 5
    assert vocabulary.encode(["Cab", "d a"]).tolist() == [[4, 2, 3], [1, 1, 2]]


def test_ids_of_empty_unknown_and_very_long_text():
    vocabulary = Vocabulary.fit(["天气好"], min_count=1)
    assert vocabulary.encode(["", "好"]).tolist() == [[0], vocabulary.encode(["好"])[0].tolist()]
    assert vocabulary.encode([]).shape == (0, 1)
    assert vocabulary.encode(["\U0001f600龘"]).tolist() == [[1, 1]]
    assert vocabulary.encode(["天" * 10_000], max_length=32).shape == (1, 32)
    assert vocabulary.encode(["天" + " " * 50 + "气"], max_length=32).shape == (1, 3)  # blanks shrink before the cut
    assert vocabulary.encode([" " * 200 + "天气"], max_length=32).shape == (1, 2)  # those in front do not count


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_ids_equal_a_lookup_character_by_character(texts):
    vocabulary = Vocabulary("好气天a")
    place = {character: i + 2 for i, character in enumerate(vocabulary.characters)}
    expected = [[place.get(character, 1) for character in normalize(text)][:7] for text in texts]
    ids = vocabulary.encode(texts, max_length=7)
    assert [row[: len(e)] for row, e in zip(ids.tolist(), expected, strict=True)] == expected
    assert all(not any(row[len(e) :]) for row, e in zip(ids.tolist(), expected, strict=True))
    assert ids.shape[1] == max(1, *map(len, expected))


def test_padded():
    rows = padded(np.array([5, 6, 7]), np.array([1, 0, 2]))
    assert torch.equal(rows, torch.tensor([[5, 0], [0, 0], [6, 7]]))
    assert padded(np.array([5]), np.array([1]), width=3).tolist() == [[5, 0, 0]]


def test_the_hash_tells_vocabularies_apart():
    assert Vocabulary("ab").sha256() != Vocabulary("ba").sha256()
    assert Vocabulary("ab").sha256() == Vocabulary("ab").sha256()
