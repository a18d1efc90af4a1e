"""The commands on templates, run as a user runs them."""

import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from entropy import evaluate, generate, parse, slots, templates
from entropy.errors import UserError
from entropy.template_file import read_templates

SEVEN = "X 呢\t10\nX 可以 X 吗\t9\n我 X\t8\nX 的 X 是 X\t7\nX 的 X 是 X 呢\t7\nX 的 X\t12\nX 和 X\t12\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def seven(tmp_path):
    path = tmp_path / "seven.tsv"
    path.write_text(SEVEN, encoding="utf-8")
    return str(path)


def corpus(tmp_path):
    rng = random.Random(0)
    things = [first + second for first in "红黄蓝白青紫黑" for second in "苹梨桃杏枣瓜"]
    path = tmp_path / "corpus.txt"
    lines = ["{} 可以 吃 {} 吗 ， {} 的 颜色 是 什么 呢".format(*rng.choices(things, k=3)) for _ in range(150)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_parse_prints_the_tree_of_the_article(seven, capsys):
    parse.main([seven, "苹果的颜色是什么呢"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["score -2.2285", "+---> (苹果)的(颜色)是(什么)呢", "|     +---> 苹果"]


def stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))  # whatever the locale


def test_parse_names_the_broken_line_of_standard_input(seven, monkeypatch):
    stdin(monkeypatch, "苹果呢\n".encode() + b"\xff\n")
    with pytest.raises(UserError, match=r"standard input, line 2: .*not valid UTF-8"):
        parse.main([seven])


def test_parse_formats(seven, capsys, tmp_path, monkeypatch):
    (tree,) = parse.main([seven, "--format", "json", "苹果的颜色"])
    assert json.loads(capsys.readouterr().out)["template"] == [None, "的", None]
    parse.main([seven, "--format", "svg", "-o", str(tmp_path / "tree.svg"), "苹果的颜色"])
    assert (tmp_path / "tree.svg").read_text(encoding="utf-8").startswith("<svg")
    stdin(monkeypatch, "苹果 的 颜色\n牛肉 呢\n".encode())
    assert len(parse.main([seven, "--segmented", "--format", "dot"])) == 2
    (tmp_path / "words.tsv").write_text("苹\t3\n果\t3\n的\t2\n颜色\t1\n", encoding="utf-8")
    (tree,) = parse.main([seven, "--words", str(tmp_path / "words.tsv"), "苹果的颜色"])
    assert tree.sentence == ("苹", "果", "的", "颜色")
    assert len(parse.main([seven, "-k", "3", "苹果的颜色呢"])) == 3
    with pytest.raises(UserError, match="one tree"):
        parse.main([seven, "--format", "svg", "我", "你"])


def test_templates_slots_generate_and_evaluate(tmp_path, capsys):
    output, fillers = str(tmp_path / "t.tsv"), str(tmp_path / "s.tsv")
    options = ["--segmented", "--min-pmi", "0.5", "--min-prob", "0.01", "--prune", "--slots", fillers, "--classes", "3"]
    report = templates.main([corpus(tmp_path), *options, "-o", output])
    assert report.clauses == 300
    mined = read_templates(output)
    assert mined.keys() == {(None, "可以", "吃", None, "吗"), (None, "的", "颜色", "是", "什么", "呢")}
    samples = generate.main([output, fillers, "-n", "5"])
    assert len(samples) == 5
    (tmp_path / "gold.txt").write_text("(IP (NP 我) (VP 可以 (VP 吃 (NP 苹果)) 吗))", encoding="utf-8")
    scores = evaluate.main(["--trees", str(tmp_path / "gold.txt"), "--templates", output])
    assert scores["right-branching"].recall == pytest.approx(50)  # of 可以吃苹果吗 and 吃苹果
    assert "templates" in capsys.readouterr().out


def test_templates_find_their_own_words(tmp_path):
    raw = Path(corpus(tmp_path)).read_text(encoding="utf-8").replace(" ", "")
    (tmp_path / "raw.txt").write_text(raw, encoding="utf-8")
    templates.main([str(tmp_path / "raw.txt"), "-o", str(tmp_path / "t.tsv"), "--min-pmi", "0"])
    assert read_templates(tmp_path / "t.tsv")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (parse, ["nowhere.tsv", "我"], "nowhere.tsv: cannot be read"),
        (parse, ["broken.tsv", "我"], "broken.tsv, line 2"),
        (parse, ["alone.tsv", "我"], "alone.tsv, line 1: template 'X' has no word of its own"),
        (templates, ["empty.txt", "--segmented"], "the corpus has no words"),
        (templates, ["empty.txt", "-o", "no/t.tsv"], "folder does not exist"),
        (templates, ["empty.txt", "-o", "."], ". is a folder"),
        (parse, ["good.tsv", "-o", ".", "我"], ". is a folder"),
        (templates, ["c.txt", "--window", "0"], "window=0: expected a whole number"),  # before the words are found
        (templates, ["-", "--segmented", "--slots", "s.tsv"], "name files instead of -"),
        (templates, ["c.txt", "--master", "local"], "--master goes with --words or --segmented"),
        (templates, ["c.txt", "--segmented", "--master", "local", "--prune"], "--prune does not go with --master"),
        (templates, ["c.txt", "--segmented", "--master", "local", "--errors", "replace"], "--errors and --workers do"),
        (templates, ["c.txt", "--segmented", "--master", "local", "--workers", "2"], "--errors and --workers do not"),
        (evaluate, ["--trees", "empty.txt"], "empty.txt: no tree in it"),
        (evaluate, ["--templates", "good.tsv"], "--templates goes with --trees FILE"),
        (generate, ["good.tsv", "broken.tsv"], "broken.tsv, line 1"),
    ],
)
def test_mistakes_name_what_is_wrong(tmp_path, monkeypatch, command, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("broken.tsv").write_text("X 呢\t10\nX 的\n", encoding="utf-8")
    Path("good.tsv").write_text("X 呢\t10\n", encoding="utf-8")
    Path("alone.tsv").write_text("X\t10\n", encoding="utf-8")
    Path("empty.txt").write_text("", encoding="utf-8")
    Path("c.txt").write_text("我爱你\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        command.main(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (templates, ["c.txt", "--slot-texts", "0"]),
        (templates, ["c.txt", "--classes", "-3"]),
        (templates, ["c.txt", "--top", "x"]),
        (generate, ["t.tsv", "s.tsv", "-n", "-2"]),
        (slots, ["s.tsv", "我", "--top", "-1"]),
    ],
)
def test_numbers_are_checked_before_any_work(capsys, command, arguments):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert f"{arguments[-1]!r}: expected a whole number of at least 1" in capsys.readouterr().err


def test_templates_take_a_lexicon_or_segmented_text(capsys):
    with pytest.raises(SystemExit):
        templates.main(["c.txt", "--words", "w.tsv", "--segmented"])
    assert "--segmented: not allowed with argument --words" in capsys.readouterr().err


def test_slots_that_nothing_fills_are_said(tmp_path, capsys):
    (tmp_path / "c.txt").write_text("我 爱 你\n" * 5, encoding="utf-8")
    options = ["--segmented", "--min-pmi", "0", "-o", str(tmp_path / "t.tsv"), "--slots", str(tmp_path / "s.tsv")]
    templates.main([str(tmp_path / "c.txt"), *options])
    assert "no slots" in capsys.readouterr().out


def test_mistake_from_the_shell_is_one_line():
    command = [sys.executable, "-m", "entropy.parse", "nowhere.tsv", "我"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert done.stderr == "error: nowhere.tsv: cannot be read (No such file or directory): check the name\n"
