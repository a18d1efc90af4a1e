"""Spark mines the templates of one process."""

import importlib.util
import random
import shutil
import warnings

import pytest

from entropy import UserError, spark, template_spark
from entropy.templates import TemplateMiner

pytestmark = pytest.mark.skipif(
    not (shutil.which("java") and all(map(importlib.util.find_spec, ("pyspark", "pyarrow", "pandas")))),
    reason="needs Java and the extra [spark]: pyspark, pyarrow, pandas",
)


def test_same_templates_as_one_process(tmp_path):
    rng = random.Random(0)
    frames = ["我 {} 吗", "{} 的 {} 是 {} 呢", "{} 可以 {} 吗 ， X {}", "{} 和 {}"]
    things = [first + second for first in "红黄蓝白" for second in "苹梨桃杏"]
    lines = [frame.format(*rng.choices(things, k=3)) for frame in rng.choices(frames, k=600)]
    for number in range(3):
        (tmp_path / f"part{number}.txt").write_text("\n".join(lines[number::3]) + "\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("，。\n", encoding="utf-8")
    options = {"window": 4, "min_prob": 1e-3, "min_pmi": 0.3, "max_paths": 20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pyspark's own
        session = spark.session("local[2]")
        try:
            one = TemplateMiner(**options).fit(lines)
            many = template_spark.fit(TemplateMiner(**options), session, str(tmp_path / "part*.txt"))
            assert len(one.templates_) > 20
            assert many.templates_ == one.templates_
            assert many.skip_grams_ == one.skip_grams_
            assert many.words_ == one.words_
            assert many.report_ == one.report_
            for path, options, message in (
                ("none*.txt", {}, "Spark cannot read"),
                ("empty.txt", {}, "no words"),
                ("part0.txt", {"prune": True}, "prune in one process"),
            ):
                with pytest.raises(UserError, match=message):
                    template_spark.fit(TemplateMiner(**options), session, str(tmp_path / path))
        finally:
            session.stop()
