"""Spark gives the lexicon of one process; without Java or pyspark it says so."""

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from entropy import UserError, WordDiscoverer
from entropy import spark as entropy_spark

GOLDEN = Path(__file__).parents[1] / "golden" / "nlp_zero_laws.json.gz"


def test_missing_java_or_package(monkeypatch):
    monkeypatch.setattr(entropy_spark, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pyspark, pyarrow, pandas; pip install"):
        entropy_spark.session("local[1]")
    monkeypatch.setattr(entropy_spark, "find_spec", lambda name: True)
    monkeypatch.setitem(__import__("sys").modules, "pyspark.sql", type("module", (), {"SparkSession": None}))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UserError, match="Spark needs Java"):
        entropy_spark.session("local[1]")


needs_spark = pytest.mark.skipif(
    not (shutil.which("java") and all(map(importlib.util.find_spec, ("pyspark", "pyarrow", "pandas")))),
    reason="needs Java and the extra [spark]: pyspark, pyarrow, pandas",
)


@needs_spark
def test_same_lexicon_as_one_process(tmp_path):
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        texts = json.load(file)["corpus"]
    for number in range(3):
        part = "\n".join(texts[number::3]) + "\n"
        (tmp_path / f"part{number}.txt").write_text(part, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pyspark's own
        session = entropy_spark.session("local[2]")
        try:
            one = WordDiscoverer(1e-5, method="entropy").fit(sorted(tmp_path.glob("part*.txt")))
            many = WordDiscoverer(1e-5, method="entropy")
            entropy_spark.fit(many, session, str(tmp_path / "part*.txt"))
            assert len(one.words_) > 1000
            assert many.words_ == one.words_
            assert many.pruned_ == one.pruned_
            assert many.num_characters_ == one.num_characters_
            with pytest.raises(UserError, match="Spark cannot read"):
                entropy_spark.fit(many, session, str(tmp_path / "none.txt"))
            with pytest.raises(UserError, match="method='mdl'"):
                entropy_spark.fit(WordDiscoverer(), session, str(tmp_path / "part0.txt"))
        finally:
            session.stop()


@needs_spark
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--master", "nowhere"], "error: Spark does not start with master 'nowhere'"),
        (["--master", "local[1]", "-o", "no/w.tsv"], "error: --output no/w.tsv: its folder does not exist"),
        (["--master", "local[1]", "--min-prob", "3"], "error: min_prob=3.0: expected a frequency"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(tmp_path, options, message):
    (tmp_path / "c.txt").write_text("天地玄黄\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "entropy.spark", "c.txt", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr
