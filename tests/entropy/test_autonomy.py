"""Autonomy and the MDL moves against definitions written out in dictionaries."""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropy.autonomy import autonomies, cut_by_autonomy
from entropy.corpus import Corpus
from entropy.mdl import read_symbols
from entropy.utf8 import code_points, to_text

TEXT = st.lists(st.text(alphabet="天地玄黄", max_size=12), min_size=1, max_size=5)


def slow_autonomies(texts, max_length):
    """n a(x) of every sequence, by the formulas of the module."""
    after, before = defaultdict(Counter), defaultdict(Counter)
    unique = iter(range(10**9))
    for text in texts:
        for n in range(1, max_length + 1):
            for i in range(len(text) - n + 1):
                x = text[i : i + n]
                after[x][text[i + n] if i + n < len(text) else next(unique)] += 1
                before[x][text[i - 1] if i else next(unique)] += 1

    def entropy(counter):
        total = sum(counter.values())
        return -sum(n / total * math.log(n / total) for n in counter.values())

    result = {}
    for n in range(1, max_length + 1):
        sequences = [x for x in after if len(x) == n]
        right = {x: entropy(after[x]) - (entropy(after[x[:-1]]) if n > 1 else 0) for x in sequences}
        left = {x: entropy(before[x]) - (entropy(before[x[1:]]) if n > 1 else 0) for x in sequences}
        for x in sequences:
            means = sum(right.values()) / len(right), sum(left.values()) / len(left)
            result[x] = n * (right[x] - means[0] + left[x] - means[1])
    return result


def symbols_of(texts):
    return np.where((codes := code_points("\n".join(texts) + "\n")) == ord("\n"), np.uint32(0), codes)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_autonomy_equals_its_definition(texts):
    symbols = symbols_of(texts)
    truth = slow_autonomies(texts, 3)
    for n, (ids, values) in enumerate(autonomies(symbols, 3), 1):
        found = {to_text(symbols[i : i + n]): values[ids[i]] for i in np.flatnonzero(ids >= 0)}
        assert found == pytest.approx({x: a for x, a in truth.items() if len(x) == n}, abs=1e-9)  # sums of logarithms


@given(TEXT, st.sampled_from([0.0, 1.5]))
@settings(max_examples=100, deadline=None)
def test_best_cut_equals_exhaustive_search(texts, bonus):
    texts = [text[:7] for text in texts]
    symbols = symbols_of(texts)
    scores = np.full((3, len(symbols)), -np.inf)
    for n, (ids, values) in enumerate(autonomies(symbols, 3)):
        scores[n, ids >= 0] = values[ids[ids >= 0]]
    ends = [0, *cut_by_autonomy(scores, symbols, bonus).tolist()]

    def worth(begin, end):
        return scores[end - begin - 1, begin] + (bonus if end - begin > 1 else 0)

    def best(begin, end):
        if begin == end:
            return 0.0
        return max(worth(begin, k) + best(k, end) for k in range(begin + 1, min(begin + 3, end) + 1))

    start = 0
    for text in texts:
        mine = [(a, b) for a, b in pairwise(ends) if start <= a and b <= start + len(text)]
        assert sum(b - a for a, b in mine) == len(text)
        assert sum(worth(a, b) for a, b in mine) == pytest.approx(best(start, start + len(text)), abs=1e-9)
        start += len(text) + 1


def test_symbols():
    symbols, complete = read_symbols(Corpus(["第１２届, 3.14天OK地\u0301！\n", "人"]), 1000)
    assert to_text(symbols).replace("\x00", "|") == "第0届|0|0天|地\u0301|人|"
    assert complete
    symbols, complete = read_symbols(Corpus(iter(["天地"] * 10)), 5)
    assert not complete
    assert len(symbols) >= 5
