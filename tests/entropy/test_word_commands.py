"""The commands end to end: files in, files out, one line for a mistake."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entropy import compare, discover, evaluate, segment
from entropy.commands import num_bytes, run, table
from entropy.errors import UserError
from entropy.lexicon import read_lexicon
from entropy.scoring import score

GOLDEN = Path(__file__).parents[1] / "golden" / "nlp_zero_laws.json.gz"


@pytest.fixture
def corpus(tmp_path) -> Path:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        texts = json.load(file)["corpus"][:300]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_discover_segment_evaluate_compare(corpus, tmp_path, capsys):
    lexicons = []
    for method in ("mdl", "entropy", "ngram"):
        lexicons.append(tmp_path / f"{method}.tsv")
        options = [str(corpus), "-o", str(lexicons[-1]), "--method", method]
        options += ["--min-prob", "1e-3"] if method == "entropy" else []
        figures = discover.main([*options, "--held-out", str(corpus)])
        words = read_lexicon(lexicons[-1])
        assert figures["words kept"] == len(words) > 100
        assert figures["L = H / l, bits per character"] == pytest.approx(
            figures["H, bits per word"] / figures["l, characters per word"]
        )
        assert 3 < figures["held-out bits per character"] < 15
        printed = capsys.readouterr().out
        assert "description, total, bytes" in printed
        assert "pruned, for example:" in printed

    out = tmp_path / "out.txt"
    num_lines = segment.main([str(lexicons[0]), str(corpus), "-o", str(out), "--workers", "2"])
    lines = out.read_text(encoding="utf-8").splitlines()
    assert num_lines == len(lines) == 300
    for line, original in zip(lines, corpus.read_text(encoding="utf-8").splitlines(), strict=True):
        assert "".join(line.split()) == "".join(original.split())

    # words that the lexicon cuts itself are all right
    figures = evaluate.main(["--gold", str(out), "--lexicon", str(lexicons[0])])
    assert figures["all words"]["f1"] == 1.0
    assert figures["one character a word"]["f1"] < 0.5
    assert evaluate.main(["--gold", str(out), "--segmented", str(out)])["all words, Han only"]["f1"] == 1.0

    same = compare.main([str(lexicons[0]), str(lexicons[0])])
    assert same["jaccard"] == 1.0
    assert same["most_changed"] == []
    other = compare.main([str(lexicons[0]), str(lexicons[1])])
    assert 0 < other["jaccard"] < 1
    assert f"only in {lexicons[1]}" in capsys.readouterr().out


def test_figures(corpus, tmp_path, capsys):
    discover.main([str(corpus), "-o", str(tmp_path / "w.tsv"), "--method", "entropy", "--figures", str(tmp_path / "f")])
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["information.png", "pmi.png", "zipf.png"]
    assert capsys.readouterr().out.count("figure: ") == 3


def test_score_by_hand():
    gold = [["天地", "玄", "黄"], ["，"], []]
    proposed = [["天地", "玄黄"], ["，"], []]
    assert score(proposed, gold) == (2, 3, 4)
    assert score(proposed, gold, han_only=True) == (1, 2, 3)
    found = score(proposed, gold)
    assert (found.precision, found.recall, found.f1) == (2 / 3, 2 / 4, 4 / 7)
    assert score([], []).f1 == 0.0
    with pytest.raises(UserError, match=r"line 1: .* not of one text"):
        score([["天"]], [["地"]])
    with pytest.raises(UserError, match=r"line 2: .*\(no line\)"):
        score([["天"]], [["天"], ["地"]])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["discover", "none.txt"], "error: corpus 'none.txt': no such file"),
        (["discover", "bad.txt"], "error: bad.txt, line 1, byte offset 0: 0xff is not valid UTF-8"),
        (["discover", "empty.txt"], "error: no word found in empty.txt"),
        (
            ["discover", "good.txt", "--method", "mdl", "--min-pmi", "2"],
            "error: min_prob, min_pmi and compatible belong",
        ),
        (["discover", "good.txt", "-o", "no/w.tsv"], "error: --output no/w.tsv: its folder does not exist"),
        (["discover", "good.txt", "-o", "."], "error: --output . is a folder"),
        (["discover", "good.txt", "--figures", "empty.txt"], "error: --figures empty.txt: cannot be made a folder"),
        (["discover", "good.txt", "--held-out", "none.txt"], "error: corpus 'none.txt': no such file"),
        (["discover", "good.txt", "--min-pmi", "nan"], "error: min_pmi and prune_pmi: expected nats"),
        (["discover", "good.txt", "--workers", "0"], "error: workers=0: expected 1 or more"),
        (["discover", "good.txt", "--flag"], "error: unrecognized arguments: --flag; see python -m entropy.discover"),
        (["discover", "good.txt", "--memory", "much"], "error: argument --memory: 'much': expected a size"),
        (["segment", "none.tsv", "good.txt"], "error: none.tsv: cannot be read"),
        (["segment", "late.tsv", "good.txt"], "error: late.tsv, line 3001, byte offset 18000: not valid UTF-8"),
        (["evaluate"], "error: nothing to compare"),
        (["evaluate", "--gold", "bad.txt", "--lexicon", "w.tsv"], "error: bad.txt, line 1, byte offset 0: not valid"),
        (["compare", "bad.txt", "good.txt"], "error: bad.txt, line 1, byte offset 0: not valid UTF-8"),
        (["compare", "good.txt", "good.txt", "--top", "-5"], "error: argument --top: '-5': expected a whole number"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, command, message):
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "good.txt").write_text("天地玄黄\n", encoding="utf-8")
    (tmp_path / "w.tsv").write_text("天地\t3\n", encoding="utf-8")
    (tmp_path / "late.tsv").write_bytes("词\t3\n".encode() * 3000 + b"\xff\t2\n")  # past a reader's first piece
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    main = {"discover": discover, "segment": segment, "evaluate": evaluate, "compare": compare}[command[0]].main
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(message)


def test_standard_input_and_output(tmp_path):
    (tmp_path / "w.tsv").write_text("天地\t3\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "entropy.segment", str(tmp_path / "w.tsv"), "-", "--separator", "/"],
        input="玄天地，天 地\n".encode(),
        env=environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == "玄/天地/，/天/地\n"


def test_sizes_and_tables():
    assert num_bytes("512M") == 1 << 29
    assert num_bytes("1.5 GiB") == 3 << 29
    with pytest.raises(Exception, match="expected a size"):
        num_bytes("much")
    assert table([("天", 1000), ("abc", "2.5")]) == "天   1,000\nabc    2.5"
