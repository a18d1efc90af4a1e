"""The two-part code: its bits by plain loops, and what it keeps of a corpus whose templates are known."""

import math
import random

import numpy as np
import pytest

from entropy.sequences import Sequences
from entropy.template_pruning import Choices, _gains_and_costs, _learn, _needed, prune_templates
from entropy.templates import TemplateMiner


def sequences(templates):
    lengths = np.array([len(template) for template in templates], np.int64)
    symbols = np.array([symbol for template in templates for symbol in template], np.uint32)
    counts = np.ones(len(templates), np.int64)
    return Sequences(symbols, np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))), counts, counts)


def clause_bits(words, template, bits, s):
    """Bits of a clause before log p: as one filler, or as a template that leaves the rest to its fillers."""
    go_on, stop = -math.log2(1 - s), -math.log2(s)
    own = [symbol for symbol in template if symbol] if template else []
    fillers = template.count(0) if template else 1
    rest = list(words)
    for word in own:
        rest.remove(word)
    return sum(bits[word] for word in rest) + (len(rest) - fillers) * go_on + fillers * stop


def test_gain_is_the_difference_of_two_codes():
    counts = np.array([0, 5, 3, 2, 6])
    bits = -np.log2(np.maximum(counts, 1) / counts.sum())
    words = [1, 4, 2, 4, 3]
    found = sequences([(1, 0, 3), (0, 2, 0), (1, 4, 2, 4, 3), (0, 3)])
    gains, costs = _gains_and_costs(found, bits, 4, int(counts.sum()))
    for template, gain in zip([(1, 0, 3), (0, 2, 0), (1, 4, 2, 4, 3), (0, 3)], gains, strict=True):
        expected = clause_bits(words, None, bits, 4 / 16) - clause_bits(words, template, bits, 4 / 16)
        assert gain == pytest.approx(expected)
    assert costs[0] == pytest.approx(4 * math.log2(3) + bits[1] + bits[3] + 1)


def test_learn_counts_bits_as_plain_loops_do():
    rng = random.Random(0)
    num, clauses = 6, [sorted(rng.sample(range(6), rng.randint(1, 4))) for _ in range(40)]
    choices = Choices(np.concatenate(clauses), np.cumsum([0, *map(len, clauses)]), 50)
    gains = np.array([rng.uniform(0, 9) for _ in range(num)])
    costs = np.array([rng.uniform(3, 20) for _ in range(num)])
    kept = np.array([True, True, False, True, True, False])
    usage, none, best = [sum(t in clause for clause in clauses) for t in range(num)], 25, math.inf
    while True:  # choose and count in turn
        scale = math.log2(50 + 0.5 * (1 + kept.sum()))
        value = [gains[t] + math.log2(usage[t] + 0.5) - scale if kept[t] else -math.inf for t in range(num)]
        nothing = math.log2(none + 0.5) - scale
        chosen = [max(clause, key=lambda t: value[t]) for clause in clauses]
        chosen = [t if value[t] > nothing else -1 for t in chosen]
        bits = sum(costs[kept]) - 10 * nothing - sum(value[t] if t >= 0 else nothing for t in chosen)
        if not bits < best - 1e-6:
            break
        best, usage, none = bits, [chosen.count(t) for t in range(num)], 10 + chosen.count(-1)
    state = _learn(choices, gains, costs, kept)
    assert state.bits == pytest.approx(best)
    assert state.usage.tolist() == usage


def test_needed_keeps_the_one_that_takes_over():
    first, second = np.array([0, 2, 3, -1]), np.array([1, 3, -1, -1])
    drop, order = np.array([True, True, True, False]), np.array([1, 0, 2, 3])
    assert _needed(first, second, drop, order).tolist() == [True, False, False, False]


def planted(num=3000, seed=1):
    """Clauses of random words, half of them in one of three frames."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(300)]

    def block():
        return rng.choices(vocabulary, k=rng.randint(1, 3))

    frames = [
        lambda: [*block(), "的", *block(), "是", *block(), "呢"],
        lambda: ["请问", *block(), "吗"],
        lambda: [*block(), "可以", *block(), "吗"],
    ]
    return [rng.choice(frames)() if rng.random() < 0.5 else block() + block() for _ in range(num)]


PLANTED = {(None, "的", None, "是", None, "呢"), ("请问", None, "吗"), (None, "可以", None, "吗")}


def test_planted_templates_stay_and_chance_goes():
    clauses = planted()
    every = TemplateMiner(None, 5, 1e-4, 0.5, min_template_prob=1e-6).fit(clauses)
    miner = TemplateMiner(None, 5, 1e-4, 0.5, min_template_prob=1e-6, prune=True).fit(clauses)
    assert len(every.templates_) > 1000  # chance: pairs of rare words look strong
    assert miner.templates_.keys() >= PLANTED
    assert len(miner.templates_) < 20
    assert miner.pruning_.bits_kept < miner.pruning_.bits_without < miner.pruning_.bits_all
    assert {template: every.templates_[template] for template in miner.templates_} == miner.templates_
    assert miner.saved_.keys() == miner.templates_.keys()
    assert set(sorted(miner.saved_, key=miner.saved_.get)[-3:]) == PLANTED


def test_every_kept_template_pays():
    miner = TemplateMiner(None, 5, 1e-4, 0.5, min_template_prob=1e-6, prune=True).fit(planted())
    assert min(miner.saved_.values()) > 0


def test_too_little_text_keeps_nothing():
    miner = TemplateMiner(None, 5, 0.0, -9.0, prune=True).fit([["a", "b"], ["c", "d"]])
    assert miner.templates_ == {}
    assert miner.pruning_.bits_kept == miner.pruning_.bits_without


def test_no_templates_and_no_choices():
    pruned = prune_templates(sequences([]), Choices(np.empty(0, np.int64), np.zeros(1, np.int64), 3), np.array([0, 4]))
    assert pruned.bits_all == pruned.bits_kept == pruned.bits_without
