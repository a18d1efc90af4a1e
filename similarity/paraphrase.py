"""A made-up corpus: customers' questions in Chinese, written for this repository as a grammar of paraphrases.

Nobody asked these questions: they exist so that every command runs offline. A group is one intent about one topic;
its sentences differ by synonyms, word order and politeness. Intents share their words across topics and topics across
intents, so that neither alone finds the group.

    python -m similarity.paraphrase groups.tsv     # group_id TAB sentence
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from similarity.groups import Groups, groups_from_rows
from trainer import run_main, write_atomically

# {"services": {"topics": {name: names}, "intents": {name: [patterns]}}, "goods": ..}
# In a pattern [a|b] is a choice and {t} the topic; choices may be empty and do not nest.
GRAMMAR = Path(__file__).with_name("questions.json")
OPENINGS = ["", "", "", "请问", "你好，", "想问一下，", "麻烦问下，", "客服，"]
ENDINGS = ["", "", "", "？", "？", "，谢谢", "呢", "啊"]


def expansions(pattern: str) -> list[str]:
    """Every sentence of a pattern, in order.

    >>> expansions("[怎么|如何]取消[会员|]")
    ['怎么取消会员', '怎么取消', '如何取消会员', '如何取消']
    """
    choice = re.search(r"\[([^\]]*)\]", pattern)
    if choice is None:
        return [pattern]
    rest = expansions(pattern[choice.end() :])
    return [pattern[: choice.start()] + option + end for option in choice[1].split("|") for end in rest]


def made_up_groups(sentences: int = 6) -> Groups:
    """All intents about all topics, the same on every machine: 472 groups.

    Args:
        sentences: to a group, at most; drawn in turn from its patterns, so that each pattern is there.
    """
    rows: list[tuple[str, str]] = []
    for family in json.loads(GRAMMAR.read_text(encoding="utf-8")).values():
        rows += _rows(family["topics"], family["intents"], sentences)
    return groups_from_rows(rows)


def _rows(topics: Mapping[str, str], intents: Mapping[str, Sequence[str]], sentences: int) -> list[tuple[str, str]]:
    rows = []
    for topic, names in topics.items():
        for intent, patterns in intents.items():
            rng = random.Random(f"{topic} {intent}")  # of its own: a new topic leaves the others as they were
            pools = [expansions(pattern.replace("{t}", names)) for pattern in patterns]
            for pool in pools:
                rng.shuffle(pool)
            for i in range(sentences):
                pool = pools[i % len(pools)]
                core = pool[i // len(pools) % len(pool)]
                rows.append((f"{topic}/{intent}", rng.choice(OPENINGS) + core + rng.choice(ENDINGS)))
    return rows


@dataclass(frozen=True)
class Settings:
    """Write the made-up groups to a file, group_id TAB sentence."""

    path: Annotated[Path, tyro.conf.Positional]
    """file to write"""
    sentences: int = 6
    """to a group, at most"""


def main(argv: Sequence[str] | None = None) -> Groups:
    settings = tyro.cli(Settings, args=argv, prog="python -m similarity.paraphrase")
    groups = made_up_groups(settings.sentences)
    lines = [f"{number}\t{sentence}\n" for number, group in enumerate(groups) for sentence in group]
    write_atomically(settings.path, lambda file: file.write("".join(lines).encode()))
    print(f"{settings.path}: {groups.summary()}")
    return groups


if __name__ == "__main__":
    run_main(main)
