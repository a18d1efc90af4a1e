"""Every layout that pairs and groups are handed around in, and the line of what does not fit."""

import gzip
import json
import lzma
import re

import pytest

from similarity.readers import load, read
from trainer import UserError

A, B, C = "怎么还款", "如何还款", "今天天气"
LAYOUTS = {
    "lcqmc": f"{A}\t{B}\t1\n{A}\t{C}\t0\n",
    "header": f"text_a\ttext_b\tlabel\n{A}\t{B}\t1\n{A}\t{C}\t0\n",
    "bq csv": f'sentence1,sentence2,label\n{A},{B},1\n"{A}",{C},0\n',
    "atec": f"\ufeff1\t{A}\t{B}\t1\n2\t{A}\t{C}\t0\n",
    "paws-x": f"id\tsentence1\tsentence2\tlabel\n1\t{A}\t{B}\t1\n\n2\t{A}\t{C}\t0",
    "windows": f"{A}\t{B}\t1\r\n{A}\t{C}\t0\r\n",
    "afqmc": "".join(
        json.dumps({"sentence1": a, "sentence2": b, "label": label}) + "\n"
        for a, b, label in ((A, B, "1"), (A, C, "0"))
    ),
    "simclue": json.dumps({"query": A, "title": [B], "neg_title": [C]}, ensure_ascii=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_groups(layout, tmp_path):
    path = tmp_path / "pairs"
    path.write_text(LAYOUTS[layout], encoding="utf-8")
    groups = read(path)
    assert (list(groups), groups.singles, groups.negatives) == ([[A, B]], [C], [(A, C)])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_compressed_files(compress, tmp_path):
    path = tmp_path / "pairs.tsv"  # the name says nothing; the content does
    path.write_bytes(compress(LAYOUTS["lcqmc"].encode()))
    assert list(read(path)) == [[A, B]]
    path.write_bytes(compress(LAYOUTS["lcqmc"].encode() * 50)[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        read(path)


def test_group_files_and_several_files_as_one(tmp_path):
    groups, pairs = tmp_path / "groups.tsv", tmp_path / "pairs.tsv"
    groups.write_text(f"g1\t{A}\ng1\t还款方式\ng2\t{C}\n", encoding="utf-8")
    pairs.write_text(LAYOUTS["lcqmc"], encoding="utf-8")
    assert list(read(groups)) == [[A, "还款方式"]]
    assert list(load([groups, pairs])) == [[A, "还款方式", B]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{A}\t{B}\t1\n{A}\t{B}\n", "line 2: 2 columns; expected 3 as in line 1"),
        (f"1\t{A}\n2\t{B}\t1\n", "line 2: 3 columns; expected group_id TAB sentence"),
        (f"{A}\t{B}\t1\n\n{A}\t{B}\t0.5\n", "line 3: label '0.5'; expected 1"),
        (f"{A}\t{B}\t1\n{A}\t \t1\n", "line 2: an empty sentence"),
        (f"g\t{A}\ng\t　\n", "line 2: an empty sentence"),
        (f"{A}\n{A}\t{B}\n", "line 2: a tab; expected a sentence alone as in line 1"),
        (f"{A},{B}\n　\t\n{A}\t", "line 3: a tab; expected a sentence alone as in line 1"),
        (f"group_id,sentence\n1,{A}\n", r"line 1: 2 column\(s\); expected group_id TAB sentence"),
        (f"a\tb\tc\td\t{A}\n", r"line 1: 5 column\(s\)"),
        ('{"sentence1": "a", "sentence2": "b", "label": 1}\n{"sentence1": "a"}\n', "line 2: expected keys sentence1"),
        ('{"sentence1": "a", "sentence2": "b", "label": 1}\n{"sentence1"\n', "line 2: not a JSON object"),
        ('{"sentence1": "a", "sentence2": "b", "label": 1}\n[1]\n', "line 2: not a JSON object"),
        ('{"sentence1": "a", "sentence2": "b"}\n', "line 1: label 'None'"),
        ('{"query": "a", "title": ["b", 3]}\n', "line 1: 3 among the titles"),
        ('{"sentence1": "a", "sentence2": 5, "label": 1}\n', "line 1: 5; expected text"),
        ('{"query": "a", "title": ["b"], "neg_title": "cd"}\n', "line 1: neg_title 'cd'; expected a list of texts"),
        ('{"query": "a", "title": ["b"], "neg_title": null}\n', "line 1: neg_title None; expected a list of texts"),
        ('{"sentence1": "a", "sentence2": "b", "label": ' + "1" * 5000 + "}\n", "line 1: not a JSON object"),
        ('{"sentence1": ' + "[" * 100_000 + "\n", "line 1: not a JSON object"),
        (f"{A},{B},1\n{A},{'x' * 140_000},1\n", "line 2: not comma-separated text"),
        (f"{A},{'x' * 140_000},1\n", "line 1: not comma-separated text"),
        ("", "empty; expected group_id TAB sentence"),
        ("\n\n", "empty; expected group_id TAB sentence"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(content, message, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}.*{message}"):
        read(path)


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "gb.tsv"
    path.write_bytes(f"{A}\t{B}\t1\n".encode() + f"{A}\t{B}\t1\n".encode("gb18030"))
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "missing.tsv")
    path.write_text(f"{A}\t{C}\t0\n", encoding="utf-8")
    with pytest.raises(UserError, match="no group of two sentences or more"):
        load([path])


def test_raw_sentences_are_single_ones_and_join_the_groups_of_other_files(tmp_path):
    raw, pairs = tmp_path / "raw.txt", tmp_path / "pairs.tsv"
    raw.write_text(f"{C}\n\n{A}, {B}\n一,二,三,四,五\n{C}\n{B}\n", encoding="utf-8")
    pairs.write_text(LAYOUTS["lcqmc"], encoding="utf-8")
    found = read(raw)
    assert (list(found), found.singles) == ([], [C, f"{A}, {B}", "一,二,三,四,五", B])
    both = load([raw, pairs])
    assert (list(both), both.singles) == ([[B, A]], [C, f"{A}, {B}", "一,二,三,四,五"])


def test_real_pairs(data_root):
    path = data_root / "pairs" / "bq.tsv.xz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    groups = read(path)
    assert len(groups) > 1800
    assert len(groups.sentences) == len(set(groups.sentences))
