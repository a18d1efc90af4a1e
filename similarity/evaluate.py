"""Ask held-out groups again: retrieval scores of a trained encoder, beside a character tf-idf of the same pool.

python -m similarity.evaluate runs/similarity/made-up-faithful-am_softmax-mask-seed0
python -m similarity.evaluate runs/similarity/NAME --data other.tsv --part all     # groups that it never saw
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter

from similarity.data import load_split
from similarity.encoder import SentenceEncoder
from similarity.groups import Groups
from similarity.retrieval import Retrieval, neighbour_table, retrieve
from similarity.text import normalize
from similarity.threshold import Calibration, Trials, leave_one_out
from trainer import UserError, load_checkpoint, run_main, write_json

PROJECTED = 2000  # sentences in TensorBoard's projector
SHOWN = 20  # rows of the neighbour table


@dataclass(frozen=True)
class Settings:
    """Print the retrieval scores of a trained run."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    data: tuple[Path, ...] = ()
    """other files of groups or pairs; none: those of the run. A group with a sentence of the training groups, or of
    those of a run that this one started from, is left out"""
    part: Literal["test", "validation", "all"] = "test"
    """of the files; all: every group, which only makes sense for files that the run was not trained on"""
    neighbours: int = 5
    """rows of nearest neighbours that are printed"""


def pool_vectors(encoder: SentenceEncoder, pool: Groups) -> torch.Tensor:
    return torch.as_tensor(encoder.encode(pool.sentences, convert_to_tensor=True))


def pool_scores(encoder: SentenceEncoder, pool: Groups) -> dict[str, float]:
    """top1, top5, top10, mrr, map_r and roc_auc of the pool's groups."""
    return retrieve(pool_vectors(encoder, pool), pool.labels).scores()


def report(encoder: SentenceEncoder, pool: Groups, writer: SummaryWriter | None = None) -> dict[str, float]:
    """Score the pool, print its table, and give TensorBoard the vectors and the neighbours of some sentences."""
    vectors = pool_vectors(encoder, pool)
    found = retrieve(vectors, pool.labels)
    values = found.scores()
    print(table(found, len(pool)))
    if writer is not None:
        sentences = pool.sentences
        queries = np.linspace(0, len(sentences) - 1, min(SHOWN, len(sentences))).astype(int).tolist()
        writer.add_text("neighbours", neighbour_table(sentences, vectors, pool.labels, queries))
        writer.add_embedding(vectors[:PROJECTED], metadata=[s.replace("\t", " ") for s in sentences[:PROJECTED]])
    return values


def pool_trials(encoder: SentenceEncoder, groups: Groups, size: int) -> Trials:
    """The trials of all groups, each asked in a pool of about `size` of them."""
    count = max(1, round(len(groups) / size))
    pools = [Groups(groups.groups[i::count]) for i in range(count)]
    trials = [leave_one_out(pool_vectors(encoder, pool), pool.labels) for pool in pools]
    return Trials(*(np.concatenate([getattr(t, f.name) for t in trials]) for f in dataclasses.fields(Trials)))


def rejection(encoder: SentenceEncoder, validation: Groups, test: Groups, promised: float) -> dict[str, float]:
    """Is the promise of a threshold kept? Chosen on validation groups, asked of test groups, in pools of one size.

    The larger part is cut into pools as large as the smaller one: with more strangers in a pool the nearest one is
    nearer, and the threshold another. Half of the questions have no answer in the pool (`threshold.leave_one_out`).

    Returns:
        threshold, promised, kept (the precision on test), coverage, answerable_auc; the first four NaN where validation
        has no threshold with that precision.
    """
    size = min(len(validation), len(test))
    asked = pool_trials(encoder, test, size)
    values = {"answerable_auc": asked.roc_auc()}
    try:
        chosen = Calibration.fit(pool_trials(encoder, validation, size), promised)
    except UserError as error:
        print(f"validation: {error}")
        return {**dict.fromkeys(("threshold", "promised", "kept", "coverage"), float("nan")), **values}
    found = asked.at(chosen.threshold)
    values |= {"threshold": chosen.threshold, "promised": promised, "kept": found["precision"]}
    print(
        f"threshold {chosen.threshold:.4f}: precision promised {promised:.3f}, kept {found['precision']:.3f}, "
        f"answering {found['coverage']:.1%}; answerable or not: AUC {values['answerable_auc']:.4f}"
    )
    return {**values, "coverage": found["coverage"]}


def table(found: Retrieval, groups: int) -> str:
    values = found.scores()
    head = f"{len(found.first_rank):,} questions of {groups:,} groups, each asked among all others\n"
    return head + "\n".join(f"{name:>8} {value:7.4f}" for name, value in values.items())


def unseen(pool: Groups, seen: Groups) -> Groups:
    """The pool's groups that share no sentence with `seen`."""
    known = {normalize(sentence) for sentence in [*seen.sentences, *seen.singles]}
    kept = [group for group in pool if not any(normalize(sentence) in known for sentence in group)]
    return Groups(kept, [sentence for sentence in pool.singles if normalize(sentence) not in known])


def training_parts(start: str | Path | None, later: Sequence[Path] = ()) -> list[Groups]:
    """What a run, or the encoder file in its folder, was trained on, and what those that it started from were.

    The split depends on the files and shares of a run: what is held out here may have been trained on there. Where that
    cannot be told, a warning says so.

    Args:
        start: folder or encoder.pt, as --start takes it; None: nothing, random weights.
        later: folders that started from this one.
    """
    if start is None:
        return []
    file = Path(start) / "encoder.pt" if Path(start).is_dir() else Path(start)
    folder = file.parent
    try:
        if folder.resolve() in later:
            raise UserError(f"{folder}: the run that it started from was overwritten")
        best, weights = load_checkpoint(folder / "best.pt"), load_checkpoint(file)["model"]
        if any(
            not torch.equal(best["model"].get(f"encoder.{name}", torch.empty(0)), value)
            for name, value in weights.items()
        ):
            raise UserError(f"{file}: not the encoder of the run in its folder")
        saved = best["settings"]
        data = [Path(path) for path in saved["data"]]
        train = load_split(data, saved["validation_share"], saved["test_share"], progress=False).train
    except UserError as error:
        print(f"warning: {start}: may have been trained on held-out groups, which nobody can tell ({error})")
        return []
    return [train, *training_parts(saved.get("start"), [*later, folder.resolve()])]


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate a run; writes evaluation.json beside metrics.json."""
    settings = tyro.cli(Settings, args=argv, prog="python -m similarity.evaluate")
    encoder = SentenceEncoder.load(settings.run)
    trained = load_checkpoint(settings.run / "best.pt")["settings"]
    shares = trained["validation_share"], trained["test_share"]
    own = load_split([Path(path) for path in trained["data"]], *shares, progress=not settings.data)
    if settings.part == "all" and not settings.data:
        raise UserError("--part all without --data would ask the training groups; name other files")
    parts = load_split(settings.data, *shares) if settings.data else own
    if settings.part == "all":
        groups = [*parts.train, *parts.validation, *parts.test]
        pool = Groups(groups, [*parts.train.singles, *parts.validation.singles, *parts.test.singles])
    else:
        pool = parts.test if settings.part == "test" else parts.validation
    before = len(pool)
    for seen in [own.train, *training_parts(trained.get("start"), [settings.run.resolve()])]:
        pool = unseen(pool, seen)
    if settings.data or len(pool) < before:
        print(f"{before - len(pool)} of {before} groups left out: they share a sentence with the training groups")
    if not pool.groups:
        raise UserError("no group left that the run was not trained on")
    values = report(encoder, pool)
    queries = np.linspace(0, len(pool.sentences) - 1, settings.neighbours).astype(int).tolist()
    print(neighbour_table(pool.sentences, pool_vectors(encoder, pool), pool.labels, queries))
    write_json(settings.run / "evaluation.json", values)
    return values


if __name__ == "__main__":
    run_main(main)
