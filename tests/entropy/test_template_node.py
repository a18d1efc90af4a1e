"""The forms of a parse tree."""

import copy
import json
import pickle
from xml.etree import ElementTree

import pytest

from entropy.parser import TemplateParser
from entropy.template_node import Node
from entropy.trees import read_trees

PARSER = TemplateParser({(None, "的", None): 3, (None, "呢"): 2, ("a", None, "b"): 1}, empty_score=-5.0)
SENTENCES = [
    ["我", "的", "苹果", "呢", "甲", "乙"],
    ["我"],
    ["甲", "乙"],
    ["a", "b"],
    ["(", "的", ")", '"', "\\", "<&>", "x y"],
    [],
]


@pytest.mark.parametrize("words", SENTENCES)
def test_every_form_of_every_tree(words):
    tree = PARSER.parse(words)
    for again in (pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree)):
        assert again == tree
        assert hash(again) == hash(tree)
        assert [node.score for node in again.walk()] == [node.score for node in tree.walk()]

    def check(node, fields):
        assert fields["words"] == list(node.words)
        assert (fields["template"] and tuple(fields["template"])) == node.template
        assert fields["score"] == node.score
        for child, below in zip(node.children, fields["children"], strict=True):
            check(child, below)

    check(tree, json.loads(tree.to_json()))
    svg = ElementTree.fromstring(tree.to_svg())
    shown = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert shown[len(shown) - len(words) :] == words
    num_parts = sum(len(node.parts()) for node in tree.walk())
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}line"))) == num_parts
    assert tree.to_dot().count("->") == num_parts
    assert len(tree.text().splitlines()) == num_parts + 1


def test_text_of_a_row():
    tree = TemplateParser({(None, "呢", "。"): 1}).parse(["我", "呢", "。", "甲", "乙"])
    assert tree.text().splitlines() == [
        "+---> (我呢。)甲乙",
        "|     +---> (我)呢。",
        "|     |     +---> 我",
        "|     |     +---> 呢",
        "|     |     +---> 。",
        "|     +---> 甲",
        "|     +---> 乙",
    ]
    assert tree.line(" ") == "(我 呢 。) 甲 乙"


def test_brackets_escape_and_read_back(tmp_path):
    tree = TemplateParser({("(", None, ")"): 1}).parse(["(", "x y", ")", "z"])
    assert tree.brackets() == "(row (-LRB-_X_-RRB- -LRB- x_y -RRB-) z)"
    (tmp_path / "tree").write_text(tree.brackets(), encoding="utf-8")
    assert read_trees(tmp_path / "tree")[0].words == ("x_y", "z")  # brackets are punctuation to a treebank


def test_spans_and_equality():
    tree = PARSER.parse(["我", "的", "苹果", "呢"])
    assert tree.spans() == {(0, 4), (2, 4)}
    assert tree != PARSER.parse(["你", "的", "苹果", "呢"])
    assert tree != "tree"
    assert Node(None, 0, 1, 0.0, (), ("我",)) == Node(None, 0, 1, -1.0, (), ("我",))  # the score follows from the rest


def test_deep_tree_survives_pickle():
    tree = TemplateParser({("a", None): 1}).parse(["a"] * 400)
    assert pickle.loads(pickle.dumps(tree)) == tree
