"""Every equation of `entropy.information` against numbers worked out another way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropy.information import (
    approximate_gain,
    description_length,
    entropy_per_character,
    entry_bits,
    exact_gain,
    information,
    pmi,
)
from entropy.summary import leave_one_out_bits


def nats(counts):
    """-sum n log(n / N): all information of a text of these counts."""
    total = sum(counts)
    return -sum(n * math.log(n / total) for n in counts if n)


def test_entropy_by_hand():
    words = {"a": 2, "b": 1, "cd": 1}
    found = information(words)
    assert found.entropy == pytest.approx(0.5 * 1 + 2 * 0.25 * 2)
    assert found.length == pytest.approx(5 / 4)
    assert entropy_per_character(words) == pytest.approx(1.5 / 1.25)
    assert information({}) == (0.0, 0.0, 0.0)
    assert entropy_per_character({"a": 5}) == 0.0


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4), st.integers(1, 20), st.integers(0, 99))
def test_exact_gain_is_what_a_merge_saves(rests, joint, others):
    """F N nats are saved when `joint` occurrences of k parts become one word (eq. 2.11, k = 2)."""
    parts = [rest - 1 + joint for rest in rests]
    total = sum(parts) + others
    before = nats([*parts, others])
    after = nats([*(part - joint for part in parts), joint, others])
    gain = exact_gain(joint / total, *(part / total for part in parts))
    assert gain * total == pytest.approx(before - after, rel=1e-9, abs=1e-8)  # cancels over a few hundred nats


@given(st.floats(1e-6, 0.2), st.floats(1.0, 50.0), st.floats(1.0, 50.0))
def test_approximation_is_never_above(joint, first, second):
    p_a, p_b = min(joint * first, 0.5), min(joint * second, 0.5)
    assert approximate_gain(joint, p_a, p_b) <= exact_gain(joint, p_a, p_b) + 1e-12
    assert approximate_gain(joint, p_a, p_b) == pytest.approx(joint * (math.log(joint / (p_a * p_b)) - 1), abs=1e-12)


def test_approximation_is_first_order():
    """F / F* -> 1 for rare words, for any number of parts."""
    p = 1e-7
    for parts in ((1e-4, 2e-4), (1e-3, 2e-3, 3e-3), (0.01, 0.02, 0.03, 0.04)):
        assert exact_gain(p, *parts) == pytest.approx(float(approximate_gain(p, *parts)), rel=2e-3)
    assert pmi(0.1, 0.2, 0.5) == pytest.approx(0.0, abs=1e-15)


def test_description_length_by_hand():
    words = {"a": 4, "ab": 2, "b": 2}
    # characters: a 6, b 4 of 10; "ab" is spelled at -log2 .6 + 1 - log2 .4 + 1 bits; gamma codes of 4, 2, 2: 5 + 3 + 3
    lexicon = -math.log2(0.6) - math.log2(0.4) + 2 + 11
    found = description_length(words)
    assert found.lexicon == pytest.approx(lexicon)
    assert found.corpus == pytest.approx(4 * 1 + 2 * 2 + 2 * 2)
    assert found.total == pytest.approx(lexicon + 12)
    assert entry_bits(words, {"a": 6, "b": 4}).sum() == pytest.approx(lexicon)


def test_description_length_resists_what_entropy_per_character_welcomes():
    """A lexicon of whole texts has L near 0; its description is longer than that of characters."""
    generator = np.random.default_rng(0)
    texts = ["".join(chr(0x4E00 + int(c)) for c in generator.integers(0, 20, 30)) for _ in range(50)]
    whole = dict.fromkeys(texts, 1)
    characters: dict[str, int] = {}
    for text in texts:
        for character in text:
            characters[character] = characters.get(character, 0) + 1
    assert entropy_per_character(whole) < 0.2 < entropy_per_character(characters)
    assert description_length(whole).total > description_length(characters).total


def test_leave_one_out_by_hand():
    # 3 of "ab", 1 of "c": 3 (-log2 2/3), and -log2(.5 / 3) + 17 for the singleton, over 7 characters
    expected = (3 * -math.log2(2 / 3) - math.log2(0.5 / 3) + 17) / 7
    assert leave_one_out_bits({"ab": 3, "c": 1}) == pytest.approx(expected)
