"""The miner against plain loops over all paths, nlp-zero's templates, and its own promises about bounds and memory."""

import gzip
import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropy import template_counting, templates
from entropy.corpus import Corpus
from entropy.errors import UserError
from entropy.segmenter import UnigramSegmenter
from entropy.template_file import format_template, is_trivial, parse_template, read_templates, write_templates
from entropy.templates import TemplateMiner

SHARED = Path(os.environ.get("DATA_ROOT", Path(__file__).parents[3] / "shared" / "data")).parent
GOLDEN = SHARED / "golden" / "nlp_zero.json.gz"


def all_paths(words, strong, window):
    """Every path of a clause as positions, by recursion."""
    links = {
        i: [j for j in range(i + 1, min(i + 1 + window, len(words))) if (words[i], words[j]) in strong]
        for i in range(len(words))
    }
    entered = {j for targets in links.values() for j in targets}

    def onward(i):
        return [[i, *rest] for j in links[i] for rest in onward(j)] or [[i]]

    return [path for i in range(len(words)) if i not in entered for path in onward(i)]


def template_of(words, path):
    template, expected = [], 0
    for i in path:
        template += [None] * (i != expected) + [words[i]]
        expected = i + 1
    return (*template, *[None] * (expected != len(words)))


def oracle(clauses, window, min_prob, min_pmi, max_words=math.inf):
    """templates_, skip_grams_ by the definition."""
    words = Counter(word for clause in clauses for word in clause)
    pairs = Counter(
        (clause[i], clause[j]) for clause in clauses for i in range(len(clause))
        for j in range(i + 1, min(i + 1 + window, len(clause)))
    )  # fmt: skip
    total, total_pairs = sum(words.values()), sum(pairs.values())
    strong = {
        pair: count for pair, count in pairs.items()
        if math.log(count / total_pairs) > (math.log(min_prob) if min_prob else -math.inf) + 1e-12
        and math.log(count / total_pairs * total**2 / words[pair[0]] / words[pair[1]]) > min_pmi + 1e-12
    }  # fmt: skip
    found = Counter(
        template_of(clause, path)
        for clause in clauses
        for path in all_paths(clause, strong, window)
        if len(path) <= max_words
    )
    total = sum(found.values())
    return {template: count for template, count in found.items() if count > min_prob * total}, strong


CLAUSES = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=7), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(CLAUSES, st.integers(1, 4), st.sampled_from([0.0, 0.011, 0.061]), st.sampled_from([-0.3, 0.2, 1.1]))
def test_equals_plain_loops(clauses, window, min_prob, min_pmi):
    miner = TemplateMiner(None, window, min_prob, min_pmi, max_paths=None, workers=1).fit(clauses)
    found, strong = oracle(clauses, window, min_prob, min_pmi)
    assert miner.templates_ == found
    assert miner.skip_grams_ == strong
    assert miner.words_ == Counter(word for clause in clauses for word in clause)
    assert list(miner.templates_.values()) == sorted(found.values(), reverse=True)


def some_clauses(num=400, seed=0):
    rng = random.Random(seed)
    frames = ["我 {} 吗", "{} 的 {} 是 {} 呢", "{} 可以 {} 吗", "{} 和 {}", "这 本 {}"]
    fillers = ["苹果", "牛肉", "红 苹果", "雪梨 和 香蕉", "什么", "颜色", "吃", "书"]
    return [frame.format(*rng.choices(fillers, k=frame.count("{}"))).split() for frame in rng.choices(frames, k=num)]


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 3}, {"memory": 1 << 10, "workers": 2}])
@pytest.mark.parametrize("min_prob", [0.0, 0.02])
def test_blocks_workers_and_memory_change_nothing(monkeypatch, options, min_prob):
    clauses = some_clauses()
    expected = oracle(clauses, 5, min_prob, 0.3)[0]
    monkeypatch.setattr(templates, "BLOCK", 50)
    monkeypatch.setattr(template_counting, "BLOCK", 50)
    monkeypatch.setattr(template_counting, "_SYMBOLS", 64)
    monkeypatch.setattr(template_counting, "_MOST_PARTS", 8)
    miner = TemplateMiner(None, 5, min_prob, 0.3, **options).fit(iter(clauses))
    assert miner.templates_ == expected
    one = TemplateMiner(None, 5, min_prob, 0.3, workers=1).fit(clauses)
    assert list(miner.templates_) == list(one.templates_)


def test_bounds_leave_out_what_they_report():
    clauses = [["a"] * 12, ["a", "b"], ["b", "a", "c"]]
    everything = oracle(clauses, 3, 0.0, -9.0)[0]
    bounded = TemplateMiner(None, 3, 0.0, -9.0, max_words=5, max_paths=None).fit(clauses)
    assert bounded.templates_ == oracle(clauses, 3, 0.0, -9.0, max_words=5)[0]
    assert bounded.report_.paths_left_out == sum(everything.values()) - sum(bounded.templates_.values()) > 0
    narrow = TemplateMiner(None, 3, 0.0, -9.0, max_paths=300).fit(clauses)
    # 12 words have 504 paths (tribonacci) through a window of 3, 144 (Fibonacci) through one of 2
    assert (narrow.report_.paths, narrow.report_.clauses_narrowed) == (144 + 1 + 2, 1)
    assert narrow.report_.paths_left_out == 504 - 144
    one = TemplateMiner(None, 3, 0.0, -9.0, max_paths=1).fit(clauses)
    assert one.templates_[("a",) * 12] == 1


def test_long_clause_needs_its_bound():
    # 60 words have 10^15 paths: nlp-zero does not come back, and neither would an exact count
    miner = TemplateMiner(None, 3, 0.0, -9.0, max_paths=1000).fit([["a"] * 60])
    assert miner.report_.clauses_narrowed == 1
    assert miner.report_.paths_left_out > 1e15
    with pytest.raises(UserError, match="lower max_paths"):
        TemplateMiner(None, 3, 0.0, -9.0, max_paths=None).fit([["a"] * 60])


def test_narrower_reading_with_more_paths_leaves_out_none():
    # a X c and u are two paths; through a window of 1, where nothing is linked, a, u and c are three
    miner = TemplateMiner(None, 2, 0.1, -9.0, max_paths=1).fit([["a", f"u{i}", "c"] for i in range(20)])
    assert miner.skip_grams_ == {("a", "c"): 20}
    assert (miner.report_.paths, miner.report_.paths_left_out) == (60, 0)


def test_clause_as_long_as_a_book():
    # a column a word of the longest path would take 80 GB, and room for paths as long as the clause 48 GB
    words = [word for i in range(20_000) for word in ("a", "b", "c", f"x{i}", f"y{i}")]
    miner = TemplateMiner(None, 2, 1e-5, 0.1, max_paths=10).fit([words])
    assert (miner.report_.paths, miner.report_.paths_left_out) == (60_000, 20_000)  # a-c is left out 20,000 times
    assert miner.templates_[None, "a", "b", "c", None] == 19_999


def test_window_one_mines_phrases():
    miner = TemplateMiner(None, 1, 0.0, 0.0).fit([["新", "华", "社", "电"], ["新", "华", "社", "记者"], ["电", "记者"]])
    assert miner.templates_[("新", "华", "社", "电")] == 1
    assert all(None not in template[1:-1] for template in miner.templates_)


def test_punctuation_and_texts_end_clauses():
    expected = TemplateMiner(None, 2, 0.0, -9.0).fit([["a", "b"], ["c"], ["a", "〇", "3.14"]]).templates_
    assert TemplateMiner(None, 2, 0.0, -9.0).fit(["a b ， c 。 ！", "a 〇 3.14"]).templates_ == expected
    assert TemplateMiner(list, 2, 0.0, -9.0).fit(["ab，c"]).templates_ == {("a", "b"): 1, ("c",): 1}


def test_segmenter_and_corpus(tmp_path):
    (tmp_path / "a.txt").write_text("我爱苹果。\n我爱香蕉！", encoding="utf-8")
    segmenter = UnigramSegmenter({"我": 2, "爱": 2, "苹果": 1, "香蕉": 1})
    expected = {("我", "爱", "苹果"): 1, ("我", "爱", "香蕉"): 1}
    for texts in (Corpus.from_paths([tmp_path / "a.txt"]), ["我爱苹果。我爱香蕉"], iter(["我爱苹果", "我爱香蕉"])):
        assert TemplateMiner(segmenter, 1, 0.0, -9.0).fit(texts).templates_ == expected


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no words"),
        (["", "，。！"], {}, "no words"),
        ([["a", 3]], {}, "words as strings"),
        ("a b", {}, "list of texts"),
        (["a"], {"window": 0}, "window=0"),
        (["a"], {"max_paths": 0}, "max_paths=0"),
        (["a"], {"max_words": 1.5}, r"max_words=1\.5"),
        (["a"], {"min_prob": 1.0}, r"min_prob=1\.0"),
        (["a"], {"min_template_prob": -1}, "min_template_prob=-1"),
        (["a"], {"min_pmi": math.nan}, "min_pmi"),
        (["a"], {"workers": 0}, "workers=0"),
    ],
)
def test_bad_input(texts, options, message):
    with pytest.raises(UserError, match=message):
        TemplateMiner(**options).fit(texts)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_nlp_zero_templates_of_laws(number):
    with gzip.open(Path(__file__).parents[1] / "golden" / "nlp_zero_templates.json.gz", "rt", encoding="utf-8") as file:
        golden = json.load(file)
    case = golden["runs"][number]  # windows 1, 3 and 5
    miner = TemplateMiner(None, case["window"], case["min_prob"], case["min_pmi"]).fit(golden["clauses"])
    assert miner.templates_ == {tuple(template): count for template, count in case["templates"]}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_nlp_zero_templates_of_news_and_reviews(number):
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not here: it holds text that is not ours to distribute")
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        golden = json.load(file)
    case = golden["template_finder"][number]  # windows 3, 1 and 5
    miner = TemplateMiner(None, case["window"], case["min_proba"], case["min_pmi"]).fit(golden["clause_tokens"])
    assert miner.templates_ == {tuple(template): count for template, count in case["templates"]}
    assert miner.report_.paths_left_out == 0


def test_trivial_is_one_word():
    # the article hides (X, w, X) only; (X, w), (w, X) and (w,) are as empty (facts/entropy.md, 7.15)
    assert all(map(is_trivial, [(None, "a", None), (None, "a"), ("a", None), ("a",)]))
    assert not any(map(is_trivial, [("a", "b"), (None, "a", None, "b", None)]))
    miner = TemplateMiner(None, 2, 0.0, 9.0).fit([["a", "b"], ["c"]])
    assert miner.templates_ == {("a", None): 1, (None, "b"): 1, ("c",): 1}
    assert miner.report_.trivial_templates == 3


# files

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4) | st.sampled_from(
    ["X", "\\X", "\\", " ", "a\tb\n"]
)
TEMPLATES = st.lists(st.none() | WORDS, min_size=1, max_size=6).map(tuple).filter(any)


@settings(max_examples=200, deadline=None)
@given(TEMPLATES)
def test_format_round_trip(template):
    assert parse_template(format_template(template)) == template


def test_file_round_trip(tmp_path):
    mined = {("X", None, "a b"): 3, (None, "template"): 1234567.25, ("#", "\ufeff"): 7, ("template",): 1}
    write_templates(tmp_path / "t.tsv", mined, {"bits": lambda template: str(len(template))})
    assert read_templates(tmp_path / "t.tsv") == mined
    lines = (tmp_path / "t.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "template\tcount\tbits"
    assert lines[1:3] == ["X template\t1234567.25\t2", "# \ufeff\t7\t2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no template"),
        ("template\tcount\n", "no template"),
        ("X 呢\t10\nX 的\n", "line 2"),
        ("X 呢\tmany\n", "line 1"),
        ("X 呢\t0\n", "line 1.*positive"),
        ("X 呢\tnan\n", "line 1"),
        ("X  呢\t3\n", "line 1"),
        ("X \\q\t3\n", "line 1"),
        ("a\t1\nX X\t3\n", "line 2.*no word of its own"),
    ],
)
def test_broken_files(tmp_path, text, message):
    (tmp_path / "broken.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"broken.tsv.*{message}"):
        read_templates(tmp_path / "broken.tsv")
