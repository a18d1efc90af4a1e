"""Treebank reading and unlabelled F1, by hand-computed numbers."""

import random

import pytest

from entropy.errors import UserError
from entropy.parser import TemplateParser
from entropy.trees import (
    balanced,
    binarized,
    compare,
    left_branching,
    random_tree,
    read_trees,
    right_branching,
    score,
)

# 我 吃 红 苹果 。 with 吃 as root, 红 below 苹果; then a sentence with a contraction, an empty node and a crossing edge
CONLLU = """\
# sent_id = 1
1	我	我	PRON	_	_	2	nsubj	_	_
2	吃	吃	VERB	_	_	0	root	_	_
3	红	红	ADJ	_	_	4	amod	_	_
4	苹果	苹果	NOUN	_	_	2	obj	_	_
5	。	。	PUNCT	_	_	2	punct	_	_

# sent_id = 2
1-2	甲乙	_	_	_	_	_	_	_	_
1	甲	甲	NOUN	_	_	3	x	_	_
2	乙	乙	NOUN	_	_	4	x	_	_
2.1	空	空	VERB	_	_	_	_	_	_
3	丙	丙	NOUN	_	_	0	root	_	_
4	丁	丁	NOUN	_	_	3	x	_	_
5	“	“	PUNCT	_	_	6	punct	_	_
6	戊	戊	NOUN	_	_	4	x	_	_
"""
BRACKETS = "( (IP (NP (PN 我)) (VP (VV 吃)\n (NP (ADJP (JJ 红)) (NP (NN 苹果)))) (PU 。)) )\n(FRAG (NN 日电) (PU ，))"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_conllu(tmp_path):
    first, second = read_trees(write(tmp_path / "a.conllu", CONLLU))
    assert first.words == ("我", "吃", "红", "苹果")
    assert first.spans == {(2, 4)}  # the whole sentence is the only other subtree of two words and more
    assert second.words == ("甲", "乙", "丙", "丁", "戊")
    assert second.spans == set()  # 丁 covers 乙, 丁, 戊, which are not contiguous; the rest is single or everything


def test_brackets(tmp_path):
    first, second = read_trees(write(tmp_path / "a.mrg", BRACKETS))
    assert first == read_trees(write(tmp_path / "a.conllu", CONLLU))[0]._replace(spans=frozenset({(1, 4), (2, 4)}))
    assert second.words == ("日电",)


def test_brackets_of_our_own_trees(tmp_path):
    parser = TemplateParser({(None, "的", None): 2, (None, "呢"): 1})
    tree = parser.parse(["我", "的", "苹果", "的", "颜色", "呢"])
    (read,) = read_trees(write(tmp_path / "own.txt", tree.brackets()))
    assert read.words == tree.words
    assert read.spans == tree.spans() - {(0, 6)}


def test_deep_brackets(tmp_path):
    text = "(X " * 5000 + "(N 一) (N 二)" + ")" * 5000
    assert read_trees(write(tmp_path / "deep.txt", text))[0].words == ("一", "二")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tree"),
        ("我\t吃\n", "line 1: .*10 tab-separated"),
        (CONLLU.replace("\t4\tamod", "\t9\tamod"), "line 1: word 3 has head 9"),
        (CONLLU.replace("\t4\tamod", "\t_\tamod"), "line 4: .*head '_'"),
        (CONLLU.replace("\t2\tobj", "\t3\tobj"), "expected a tree"),
        ("(S (N 我)", "1 brackets are still open"),
        ("(N 我)\n)", r"line 2: '\)' outside"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_trees(write(tmp_path / "bad", text))
    assert "bad" in str(error.value)


def test_missing_and_not_utf8(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        read_trees(tmp_path / "nowhere")
    (tmp_path / "latin").write_bytes(b"(S \xe9)")
    with pytest.raises(UserError, match="UTF-8"):
        read_trees(tmp_path / "latin")


def test_baselines_on_five_words():
    assert left_branching(5) == {(0, 2), (0, 3), (0, 4), (0, 5)}
    assert right_branching(5) == {(0, 5), (1, 5), (2, 5), (3, 5)}
    assert balanced(5) == {(0, 5), (0, 2), (2, 5), (3, 5)}
    assert binarized({(1, 4)}, 5) == {(0, 5), (1, 4), (1, 3), (0, 4)}
    assert binarized({(1, 4)}, 5, to_right=True) == {(0, 5), (1, 4), (2, 4), (1, 5)}


def test_every_tree_is_binary():
    rng = random.Random(0)
    for n in range(2, 30):
        gold = {span for span in random_tree(n, rng) if rng.random() < 0.5}
        completed = binarized(gold, n), binarized(gold, n, to_right=True)
        for spans in (left_branching(n), right_branching(n), balanced(n), random_tree(n, rng), *completed):
            assert len(spans) == n - 1
            assert not any(a < c < b < d for a, b in spans for c, d in spans)
        assert gold <= completed[0] & completed[1]
    assert binarized(set(), 9) == left_branching(9)
    assert binarized(set(), 9, to_right=True) == right_branching(9)


def test_score_by_hand(tmp_path):
    gold = read_trees(write(tmp_path / "a.conllu", CONLLU))
    # sentence 1: predicted (2, 4) and (0, 2), gold (2, 4); sentence 2: predicted (0, 2), gold none
    result = score(gold, [{(2, 4), (0, 2), (0, 4), (1, 2)}, {(0, 2), (0, 5)}])
    assert result.precision == pytest.approx(100 / 3)
    assert result.recall == pytest.approx(100)
    assert result.corpus_f1 == pytest.approx(50)
    assert result.sentence_f1 == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert score(gold, [{(2, 4)}, set()]).sentence_f1 == pytest.approx(100)


def test_compare_has_all_baselines(tmp_path):
    gold = read_trees(write(tmp_path / "a.mrg", BRACKETS))
    table = compare(gold, lambda words: right_branching(len(words)))
    assert table["templates"] == table["right-branching"] == table["oracle, binary"]
    assert table["left-branching"].corpus_f1 == 0
    flat = compare(gold, lambda words: set())
    assert flat["templates"].corpus_f1 == 0
    assert flat["templates, binary to the right"] == flat["right-branching"]
    assert flat["templates, binary to the left"] == flat["left-branching"]
