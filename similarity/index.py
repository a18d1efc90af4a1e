"""A FAQ index from the command line: build, add, remove, calibrate, search, serve.

    python -m similarity.index build questions.tsv faq.npz --model runs/similarity/NAME
    python -m similarity.index search faq.npz "怎么还款" --model runs/similarity/NAME
    python -m similarity.index serve faq.npz --model runs/similarity/NAME     # then open http://127.0.0.1:8000

questions.tsv: ``answer TAB question``, a line a question; the answer is a text or the name of a group (the article's
group files fit), and several questions may share it. Or a question a line, without answers.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from similarity import storage
from similarity.encoder import SentenceEncoder
from similarity.faq import Backend, FaqIndex, Match
from similarity.readers import numbered_lines
from similarity.serve import serve_forever
from similarity.text import normalize
from similarity.threshold import Method, require_share
from similarity.vectors import Storage
from trainer import UserError, run_main

ADDED_AT_A_TIME = 50_000  # questions: bounds the memory of a large build

IndexPath = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a threshold is chosen for."""

    precision: float = 0.9
    """promised of the answers that are given; chooses the threshold"""
    unanswerable_share: float = 0.5
    """of the questions that will be asked"""
    method: Method = "isotonic"
    """of the probability"""


@dataclass(frozen=True, kw_only=True)
class Build(Promise):
    """Make an index of all questions in a file, and its threshold."""

    questions: Annotated[Path, tyro.conf.Positional]
    """answer TAB question, or a question a line; UTF-8, plain, gz or xz"""
    index: IndexPath
    """file to write"""
    model: Path
    """folder of a run, or an encoder.pt"""
    storage: Storage = "float32"
    """of the vectors; int8 needs a quarter of the memory and finds the same"""


@dataclass(frozen=True)
class Add:
    """Add the questions of a file to an index."""

    questions: Annotated[Path, tyro.conf.Positional]
    """as for build"""
    index: IndexPath
    """file of the index"""
    model: Path
    """that the index was built with"""


@dataclass(frozen=True)
class Remove:
    """Take questions out of an index."""

    index: IndexPath
    """file of the index"""
    questions: Annotated[tuple[str, ...], tyro.conf.Positional]
    """the questions themselves"""
    model: Path
    """that the index was built with"""


@dataclass(frozen=True, kw_only=True)
class Calibrate(Promise):
    """Choose the threshold of an index anew, after questions came or went."""

    index: IndexPath
    """file of the index"""
    model: Path
    """that the index was built with"""


@dataclass(frozen=True)
class Search:
    """Ask an index."""

    index: IndexPath
    """file of the index"""
    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """questions; none: those of standard input, a line each"""
    model: Path
    """that the index was built with"""
    top_k: int = 5
    """answers, at most"""
    threshold: float | None = None
    """least similarity; None: the index's own"""
    json: bool = False
    """print JSON, a line a question"""
    backend: Backend = "torch"
    """torch, or faiss (extra)"""


@dataclass(frozen=True)
class Serve:
    """Answer on a page and as JSON, on this machine."""

    index: IndexPath
    """file of the index"""
    model: Path
    """that the index was built with"""
    host: str = "127.0.0.1"
    """address; the default is reached from this machine only"""
    port: int = 8000
    """0: any free one"""
    backend: Backend = "torch"
    """torch, or faiss (extra)"""


def read_questions(path: Path) -> tuple[list[str], list[str]]:
    """Questions and answers of a file.

    Raises:
        UserError: empty, or a line with other columns than the first or without a question; names the line.
    """
    questions, answers, width = [], [], 0
    for number, line in numbered_lines(path):
        cells = line.split("\t")
        width = width or len(cells)
        if len(cells) != width or width > 2:
            expected = f"{width} as before" if width < 3 else "answer TAB question, or a question alone"
            raise UserError(f"{path}, line {number}: {len(cells)} columns; expected {expected}")
        if not normalize(cells[-1]):
            raise UserError(f"{path}, line {number}: an empty question")
        questions.append(cells[-1].strip())
        answers.append(cells[0].strip() if width == 2 else "")
    if not questions:
        raise UserError(f"{path}: empty; expected answer TAB question, or a question a line")
    return questions, answers


def add_from(index: FaqIndex, path: Path) -> None:
    questions, answers = read_questions(path)
    steps = range(0, len(questions), ADDED_AT_A_TIME)
    for first in tqdm(steps, desc="index", disable=len(steps) == 1, leave=False):
        part = slice(first, first + ADDED_AT_A_TIME)
        index.add(questions[part], answers[part])


def choose_threshold(index: FaqIndex, settings: Promise) -> None:
    found = index.calibrate(settings.precision, settings.unanswerable_share, settings.method)
    print(
        f"threshold {found.threshold:.4f}: answers {found.coverage:.1%} of the questions with a precision of "
        f"{found.precision:.1%}, if {found.unanswerable_share:.0%} have no answer here"
    )


def build(settings: Build) -> FaqIndex:
    require_share("--precision", settings.precision)
    require_share("--unanswerable-share", settings.unanswerable_share)
    storage.generation(settings.index)  # a damaged file there is refused now, and not after all was encoded
    index = FaqIndex(SentenceEncoder.load(settings.model), settings.storage)
    add_from(index, settings.questions)
    try:
        choose_threshold(index, settings)
    except UserError as error:
        print(f"no threshold: {error}", file=sys.stderr)
    index.save(settings.index)
    print(f"{settings.index}: {len(index):,} questions, {index.nbytes / 1e6:.1f} MB in memory")
    return index


def change(settings: Add | Remove) -> FaqIndex:
    index = FaqIndex.load(settings.index, SentenceEncoder.load(settings.model))
    before = len(index)
    if isinstance(settings, Add):
        add_from(index, settings.questions)
    elif not index.remove(settings.questions):
        raise UserError(f"{settings.index}: none of these questions is in there")
    index.save(settings.index)
    print(f"{settings.index}: {len(index):,} questions, {len(index) - before:+,}")
    if index.calibration:
        print(
            f"the threshold stays at {index.calibration.threshold:.4f}, chosen on other questions; choose it anew by "
            f"python -m similarity.index calibrate {settings.index} --model {settings.model}"
        )
    return index


def calibrate(settings: Calibrate) -> FaqIndex:
    index = FaqIndex.load(settings.index, SentenceEncoder.load(settings.model))
    choose_threshold(index, settings)
    index.save(settings.index)
    return index


def search(settings: Search) -> list[list[Match]]:
    index = FaqIndex.load(settings.index, SentenceEncoder.load(settings.model), settings.backend)
    texts = list(settings.text) or [line.rstrip("\n") for line in sys.stdin]
    found = index.search(texts, settings.top_k, settings.threshold)
    for text, matches in zip(texts, found, strict=True):
        if settings.json:
            content = {"question": text, "matches": [dataclasses.asdict(match) for match in matches]}
            print(json.dumps(content, ensure_ascii=False))
            continue
        print(f"{text}" + ("" if matches else "\n  no answer"))
        for match in matches:
            chance = "" if match.probability is None else f"  {match.probability:4.0%}"
            print(f"  {match.score:.4f}{chance}  {match.question}  ->  {match.answer}")
    return found


def serve(settings: Serve) -> None:
    index = FaqIndex.load(settings.index, SentenceEncoder.load(settings.model), settings.backend)
    serve_forever(index, settings.host, settings.port)


COMMANDS: dict[Any, Any] = {
    Build: build,
    Add: change,
    Remove: change,
    Calibrate: calibrate,
    Search: search,
    Serve: serve,
}


def main(argv: Sequence[str] | None = None) -> Any:
    settings = tyro.cli(Build | Add | Remove | Calibrate | Search | Serve, args=argv, prog="python -m similarity.index")
    return COMMANDS[type(settings)](settings)


if __name__ == "__main__":
    run_main(main)
