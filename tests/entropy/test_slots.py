"""Slots, their classes and sentences sampled from them."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest

from entropy.errors import UserError
from entropy.generate import Generator
from entropy.parser import TemplateParser
from entropy.slots import SlotClasses, clauses, main, ppmi, slot_classes, slot_fillers

TEMPLATES = {
    ("我", "吃", None): 5,
    ("他", "吃", None): 4,
    ("我", "去", None): 3,
    ("他", "去", None): 3,
    (None, "吗"): 2,
}
FOODS, PLACES = ["苹果", "牛肉", "鸡蛋", "香蕉"], ["北京", "上海", "学校", "公园"]


def sentences(num=300):
    rng = random.Random(0)
    return [
        [rng.choice("我他"), *rng.choice([("吃", rng.choice(FOODS)), ("去", rng.choice(PLACES))])] for _ in range(num)
    ]


def test_fillers_are_the_blocks_of_the_trees():
    fillers = slot_fillers(TemplateParser(TEMPLATES), [["我", "吃", "苹果", "吗"], ["我", "吃", "a", "b", "c"]])
    assert fillers == {  # 我吃(苹果吗), the more even of two readings; a b c is longer than two words
        (("我", "吃", None), 0): Counter({("苹果", "吗"): 1}),
        ((None, "吗"), 0): Counter({("苹果",): 1}),
    }


def test_max_words_leaves_long_blocks_out():
    parser = TemplateParser({("a", None): 1})
    assert slot_fillers(parser, [["a", "x", "y", "z"]], max_words=2) == {}
    assert slot_fillers(parser, [["a", "x", "y", "z"]], max_words=3) == {
        (("a", None), 0): Counter({("x", "y", "z"): 1})
    }


def test_slots_with_the_same_words_are_one_class():
    found = slot_classes(TemplateParser(TEMPLATES), sentences(), num_classes=2)
    eat = [found.labels[template, 0] for template in TEMPLATES if "吃" in template]
    go = [found.labels[template, 0] for template in TEMPLATES if "去" in template]
    assert eat[0] == eat[1] != go[0] == go[1]
    assert {word for (word,) in found.words(eat[0])} == set(FOODS)
    assert set(found.slots_of("苹果")) == {(("我", "吃", None), 0), (("他", "吃", None), 0)}
    assert found.members(go[0])[0][0][1] == "去"


@pytest.mark.parametrize("dim", [2, 50])
def test_no_more_classes_than_distinct_slots(dim):  # k-means would warn, and a warning fails a test
    found = slot_classes(TemplateParser(TEMPLATES), sentences(), num_classes=len(TEMPLATES), min_count=1, dim=dim)
    assert 1 < len(set(found.labels.values())) <= len(found.labels) == 4
    one = {("a", None): 1, ("b", None): 1, ("c", None): 1}
    same = slot_classes(TemplateParser(one), [[first, "x"] for first in "abc"], min_count=1, dim=dim)
    assert list(same.labels.values()) == [0, 0, 0]


def test_substitution():
    a, b = (("a", None), 0), (("b", None), 0)
    found = SlotClasses({a: Counter({("x",): 3, ("y",): 1}), b: Counter({("x",): 2, ("z",): 6})}, {})
    assert found.substitutes(a, b) == [(("x",), 3, 2)]
    assert found.substitutability(a, b) == 3 / 4
    assert found.substitutability(b, a) == 2 / 8


def test_ppmi_by_hand():
    rows = [Counter({("x",): 4, ("y",): 1}), Counter({("y",): 5})]
    table = ppmi(rows).toarray()
    assert table[0, 0] == pytest.approx(math.log(4 * 10 / (5 * 4)))
    assert table[0, 1] == 0  # log(1 * 10 / (5 * 6)) < 0
    assert table[1, 1] == pytest.approx(math.log(5 * 10 / (5 * 6)))


def test_rare_slots_get_no_class_and_many_slots_are_decomposed():
    none = slot_classes(TemplateParser(TEMPLATES), sentences(3), min_count=20)
    assert none.labels == {}
    few = slot_classes(TemplateParser(TEMPLATES), sentences(), num_classes=2, dim=2)
    assert len(set(few.labels.values())) == 2
    with pytest.raises(UserError, match="num_classes 0"):
        slot_classes(TemplateParser(TEMPLATES), [], num_classes=0)


def test_file_round_trip_and_broken_lines(tmp_path):
    found = slot_classes(TemplateParser(TEMPLATES), sentences(), num_classes=2)
    found.save(tmp_path / "slots.tsv")
    again = SlotClasses.load(tmp_path / "slots.tsv")
    assert (again.fillers, again.labels) == (found.fillers, found.labels)
    for line in ("a X\t1\t\tb\t3", "a X\t0\t\tX\t3", "a X\t0\t\tb\t0", "a X\t0\tb\t1"):
        (tmp_path / "bad.tsv").write_text(f"a X\t0\t\tb\t3\n{line}\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"bad\.tsv, line 2"):
            SlotClasses.load(tmp_path / "bad.tsv")
    (tmp_path / "bad.tsv").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no slots"):
        SlotClasses.load(tmp_path / "bad.tsv")


def test_command(tmp_path, capsys):
    a, b = (("a", None), 0), ((None, "b", None), 1)
    found = SlotClasses({a: Counter({("x",): 3, ("y",): 1}), b: Counter({("x",): 2, ("z",): 6})}, {b: 4})
    found.save(tmp_path / "slots.tsv")
    assert main([str(tmp_path / "slots.tsv"), "x"]) == [(a, 3), (b, 2)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["X", "b", "X", "2", "2", "4", "25%"]
    with pytest.raises(UserError, match="no slot holds 'x y'"):
        main([str(tmp_path / "slots.tsv"), "x", "y"])


def test_clauses():
    assert list(clauses([["a", "，", "b", "c", "。"], ["！"], ["d"]])) == [["a"], ["b", "c"], ["d"]]


@pytest.fixture
def generator():
    slots = slot_classes(TemplateParser(TEMPLATES), sentences(), num_classes=2)
    return Generator(TEMPLATES, slots, mix=0.3)


def test_probabilities_sum_to_one(generator):
    total = 0.0
    for template in generator.templates:
        keys = generator._shared((template, 0)) | generator.slots.fillers[template, 0]
        total += sum(math.exp(generator.log_prob(template, fillers)) for fillers in itertools.product(keys))
    assert total == pytest.approx(1)


def test_samples_follow_their_probabilities(generator):
    samples = list(generator.samples(4000, seed=1))
    counts = Counter((sample.template, sample.fillers) for sample in samples)
    for (template, fillers), count in counts.most_common(5):
        expected = 4000 * math.exp(generator.log_prob(template, fillers))
        assert abs(count - expected) < 5 * np.sqrt(expected)  # five standard deviations
    assert samples == list(generator.samples(4000, seed=1))
    assert all(sample.words[:2] == sample.template[:2] for sample in samples)
    assert (None, "吗") not in generator.templates  # nothing was seen in its slot, and it is trivial


def test_generator_bad_input(generator):
    with pytest.raises(UserError, match="mix=2"):
        Generator(TEMPLATES, generator.slots, mix=2)
    with pytest.raises(UserError, match="no template can be filled"):
        Generator({("b", "c", None): 1}, generator.slots)
