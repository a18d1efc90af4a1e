r"""Train a sentence encoder on groups of synonyms (Su 2018, archives/5743: "GRU + AM-Softmax sentence similarity").

    python -m similarity.train                                           # made-up questions, the article's network
    python -m similarity.train --data bq.tsv atec.tsv --padding original    # its code to the letter
    python -m similarity.train --data bq.tsv atec.tsv --recipe ours
    python -m similarity.train --data bq.tsv raw.txt --recipe ours --sentences raw --ngram-drop 0.3    # pretraining
    python -m similarity.train --data bq.tsv --recipe ours --start runs/similarity/NAME    # on from another run

raw.txt is a sentence a line: each is trained on by itself, and the groups of the other files choose the epoch. Results,
minutes and hardware of these commands: README.md. Groups are split whole into training, validation and test; validation
chooses the epoch, the test groups are asked once, at the end. In the article a group is a class and the classifier is
thrown away afterwards; our recipe needs no classes: each sentence of a batch has to find its fellow among all others of
the batch, under the same losses.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, lr_scheduler

from losses import MarginSoftmaxHead, a_softmax, am_softmax, arc_face, normalized_softmax, simpler_a_softmax
from similarity.data import GroupPairs, LabelledSentences, load_split
from similarity.encoder import Architecture, SentenceEncoder
from similarity.evaluate import pool_scores, rejection, report, training_parts, unseen
from similarity.groups import Groups, Split
from similarity.optimizer import RowAdagrad
from similarity.text import Vocabulary
from trainer import (
    EpochBatches,
    Progress,
    Run,
    RunSettings,
    Trainer,
    UserError,
    load_checkpoint,
    parse,
    run_main,
    seed_everything,
    world,
    write_json,
)
from trainer.keras_training import keras_init_

LossName = Literal["normalized_softmax", "am_softmax", "simpler_a_softmax", "a_softmax", "arc_face"]
LOSSES = {f.__name__: f for f in (normalized_softmax, am_softmax, simpler_a_softmax, a_softmax, arc_face)}
LEFT_BEHIND = ("encoder.pt", "evaluation.json", "projector_config.pbtxt")  # by a run, beside what `Run` replaces
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "faithful": {},
    # Chosen on validation groups; benchmarks/similarity_groups.py ablation changes one thing at a time.
    "ours": {
        "objective": "pairs",
        "epochs": 2,
        "batch_size": 512,
        "lr": 0.5,
        "schedule": "linear",
        "scale": 16.0,
        "margin": 0.2,
        "min_count": 2,
        "neighbours": 32,
        "architecture": Architecture(dim=512, hidden=0, max_length=64, buckets=1 << 17),
    },
}


@dataclass(frozen=True)
class Settings(RunSettings):
    """Train a sentence encoder on groups of synonyms."""

    recipe: Literal["faithful", "ours"] = "faithful"
    """which defaults the other flags start from: the article's, or this repository's own"""
    data: tuple[Path, ...] = ()
    """files of groups or of labelled pairs (README, Data); none: made-up questions"""
    validation_share: float = 0.05
    """part of the groups that chooses the epoch"""
    test_share: float = 0.1
    """part of the groups that is asked once, at the end"""
    min_count: int = 5
    """times that a character has to occur in the training part to have an id"""
    batch_size: int = 100
    """sentences a step (objective classes), or groups, two sentences each (objective pairs; where there are fewer than
    eight such batches, an eighth of the groups)"""
    epochs: int = 25
    """passes over the training data"""
    objective: Literal["classes", "pairs"] = "classes"
    """classes: a group is a class with a vector, as in the article; pairs: find the fellow inside the batch"""
    sentences: Literal["groups", "raw"] = "groups"
    """raw: every training sentence is its own fellow, with other n-grams dropped (objective pairs, --ngram-drop): for
    pretraining, since the sentences that no group has are trained on too, such as files of a sentence a line"""
    start: Path | None = None
    """run or encoder file of the same architecture to go on from, with its vocabulary; none: random weights. Held-out
    groups that it was trained on are left out"""
    loss: LossName = "am_softmax"
    """of the margin softmax family; normalized_softmax is the one without a margin"""
    scale: float = 30.0
    """s, by which cosines are multiplied"""
    margin: float = 0.35
    """m, of am_softmax and arc_face"""
    chunk_size: int = 8192
    """classes of the head that are computed at a time; 0: all at once"""
    sample_rate: float = 1.0
    """share of the classes that a step uses (Partial FC)"""
    sub_centers: int = 1
    """vectors of a class, of which the nearest counts"""
    neighbours: int = 0
    """objective pairs: similar groups that are put into a batch together; 0: none"""
    lr: float = 1e-3
    """learning rate; of Adam, and with an n-gram bag of the bag's Adagrad"""
    schedule: Literal["constant", "linear"] = "constant"
    """of the learning rate, by step; linear: down to 0"""
    promised: float = 0.6
    """precision of the answers that are given, for which a threshold is chosen on validation and tried on test"""
    final: Literal["test", "validation"] = "test"
    """what the scores at the end are of; validation: the test groups stay unseen, for choices between settings"""
    architecture: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("validation_share", "test_share"):
            self.require(0 < getattr(self, name) < 0.5, name, "between 0 and 0.5")
        for name in ("min_count", "sub_centers"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require_positive("lr", "scale")
        self.require(0 < self.sample_rate <= 1, "sample_rate", "above 0 and up to 1")
        self.require(0 < self.promised < 1, "promised", "between 0 and 1")
        self.require(self.chunk_size >= 0, "chunk_size", "0 or more")
        self.require(self.neighbours >= 0, "neighbours", "0 or more")
        self.require(self.objective == "classes" or self.batch_size > 1, "batch_size", "at least 2 with pairs")
        differ = self.objective == "pairs" and self.architecture.buckets and self.architecture.ngram_drop
        self.require(self.sentences == "groups" or bool(differ), "sentences", "groups without a bag's --ngram-drop")

    @property
    def run_name(self) -> str:
        """Folder of the run, unless --name says otherwise."""
        data = "-".join(path.name.split(".")[0] for path in self.data) or "made-up"
        return f"{data}-{self.recipe}-{self.loss}-{self.architecture.padding}-seed{self.seed}"

    @property
    def loss_options(self) -> dict[str, float]:
        """Scale, and the margin of the losses that have one."""
        return {"scale": self.scale, **({"margin": self.margin} if self.loss in ("am_softmax", "arc_face") else {})}


class EncoderWithLoss(nn.Module):
    """What is trained: the encoder and, for classes, the head. A batch -> terms of the loss."""

    def __init__(self, encoder: SentenceEncoder, head: MarginSoftmaxHead | None, settings: Settings) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.loss, self.options = LOSSES[settings.loss], settings.loss_options

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        vectors = self.encoder(ids)
        if self.head is not None:
            return {"loss": self.head(vectors, labels)}
        return in_batch_terms(vectors.float(), self.loss, self.options)


def in_batch_terms(vectors: Tensor, loss: Any, options: Mapping[str, float]) -> dict[str, Tensor]:
    r"""Each of 2G sentences has to find its fellow among the other 2G - 1 (van den Oord et al. 2018 with a margin).

    Args:
        vectors: (2G, D), row i and row G + i fellows.

    Returns:
        The loss, a mean over all 2G sentences, and how many of them found their fellow.
    """
    count = len(vectors)
    cosine = vectors @ vectors.T  # (2G, 2G)
    cosine = cosine.masked_fill(torch.eye(count, dtype=torch.bool, device=vectors.device), -1.0)  # not itself
    fellow = torch.arange(count, device=vectors.device).roll(count // 2)
    return {"loss": loss(cosine, fellow, **options), "found": (cosine.argmax(dim=1) == fellow).float().mean()}


def first_encoder(settings: Settings, train: Groups) -> tuple[SentenceEncoder, Vocabulary]:
    """With the weights that training begins with.

    Raises:
        UserError: --start names a run of another architecture, or a file without characters.
    """
    architecture = settings.architecture
    if settings.start is not None:
        start = SentenceEncoder.load(settings.start)
        like = dataclasses.replace(
            start.architecture, ngram_drop=architecture.ngram_drop, dropout=architecture.dropout
        )  # of training alone
        if like != architecture or start.vocabulary is None:
            raise UserError(f"{settings.start}: has {start.architecture}; this run has {architecture}")
        encoder = SentenceEncoder(start.vocabulary, architecture)
        encoder.load_state_dict(start.state_dict())
        return encoder, start.vocabulary
    texts = [*train.sentences, *train.singles]
    vocabulary = Vocabulary.fit(texts, settings.min_count)
    encoder = SentenceEncoder(vocabulary, architecture)
    keras_init_(encoder)  # the article's learning rate was chosen for these
    if encoder.bag is not None:
        ids, width = vocabulary.encode, architecture.max_length
        encoder.bag.weigh_([ids(texts[i : i + 4096], width) for i in range(0, len(texts), 4096)])
    return encoder, vocabulary


def build(settings: Settings, train: Groups) -> tuple[EncoderWithLoss, Vocabulary]:
    """Network and head with their first weights."""
    encoder, vocabulary = first_encoder(settings, train)
    if settings.objective == "pairs":
        return EncoderWithLoss(encoder, None, settings), vocabulary
    options = {"sub_centers": settings.sub_centers, "sample_rate": settings.sample_rate, **settings.loss_options}
    head = MarginSoftmaxHead(
        encoder.dim,
        len(train),
        settings.loss,
        settings.chunk_size or None,
        unit_columns="projected",
        **options,  # type: ignore[arg-type]
    )
    return EncoderWithLoss(encoder, head, settings), vocabulary


def optimizers(settings: Settings, model: EncoderWithLoss, steps: int) -> tuple[Optimizer, lr_scheduler.LRScheduler]:
    optimizer: Optimizer
    if model.encoder.bag is not None:
        optimizer = RowAdagrad(model.parameters(), settings.lr)
    else:
        optimizer = Adam(model.parameters(), settings.lr, eps=1e-7, fused=True)
    if model.head is not None:
        optimizer.register_step_post_hook(lambda *_: model.head.project_())  # type: ignore[union-attr]
    if settings.schedule == "linear":
        return optimizer, lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    return optimizer, lr_scheduler.ConstantLR(optimizer, factor=1.0)


def held_out(parts: Split, start: Path, progress: bool) -> Split:
    """The split without the validation and test groups that `start` was trained on.

    Raises:
        UserError: none is left.
    """
    validation, test = parts.validation, parts.test
    for seen in training_parts(start):
        validation, test = unseen(validation, seen), unseen(test, seen)
    if progress:
        gone = [len(parts.validation) - len(validation), len(parts.test) - len(test)]
        print(f"{gone[0]} validation and {gone[1]} test groups left out: {start} was trained on a sentence of theirs")
    if not (validation.groups and test.groups):
        raise UserError(f"--start {start}: was trained on all validation or test groups; give --data that it never saw")
    return Split(parts.train, validation, test)


def begin(run: Run, inputs: Mapping[str, str]) -> None:
    """Keep the hashes of what a new run begins with, and take away what an overwritten one left.

    Raises:
        UserError: a run that goes on finds other inputs; says which.
    """
    path = run.folder / "inputs.json"
    if run.resumed is None:
        if run.world.is_main:
            for name in LEFT_BEHIND:
                (run.folder / name).unlink(missing_ok=True)
            write_json(path, inputs)
        return
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else inputs  # older runs have no such file
    changed = [name for name, value in inputs.items() if before.get(name) != value]
    if changed:
        raise UserError(f"{run.last}: --resume needs the inputs the run began with; changed: {', '.join(changed)}")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, then test the best epoch; returns what metrics.json holds."""
    settings = parse(Settings, argv, "python -m similarity.train", RECIPES)
    with world(settings.device) as place:
        if place.size > 1 and (settings.objective == "pairs" or settings.architecture.buckets):
            # fellows are sought in the whole batch, and DistributedDataParallel takes no sparse gradients of this kind
            raise UserError("--objective pairs and n-gram bags (--recipe ours) need one process: leave torchrun out")
        seed_everything(settings.seed)

        parts = load_split(settings.data, settings.validation_share, settings.test_share, place.is_main)
        if settings.start is not None:
            parts = held_out(parts, settings.start, place.is_main)
        train = parts.train
        if settings.sentences == "raw":
            train = Groups([[sentence] for sentence in [*train.sentences, *train.singles]])
        model, vocabulary = build(settings, train)
        inputs = {
            "training sentences": hashlib.sha256(repr([train.groups, train.singles]).encode()).hexdigest(),
            "split": parts.sha256(),
            "vocabulary": vocabulary.sha256(),
            "--start": model.encoder.sha256() if settings.start is not None else "",
        }
        width, seed = settings.architecture.max_length, settings.seed
        dataset: LabelledSentences | GroupPairs
        batch_size = settings.batch_size
        if settings.objective == "classes":
            dataset = LabelledSentences(train, vocabulary, width)
            by_length = settings.architecture.padding == "mask"
            order = dataset.order(seed, batch_size, by_length)
        else:
            dataset = GroupPairs(train, vocabulary, width, seed)
            firsts = [group[0] for group in train] if settings.neighbours else []
            vectors = model.encoder.encode(firsts, convert_to_tensor=True)
            order = dataset.order(seed, torch.as_tensor(vectors), settings.neighbours)
            batch_size = min(batch_size, max(2, len(dataset) // 8 // place.size * place.size))
        batches = EpochBatches(order, batch_size, place)

        run = Run(settings, "similarity", settings.run_name, place)  # not before all inputs were found to be fine
        begin(run, inputs)
        model = model.to(place.device)
        if place.is_main:
            count = sum(p.numel() for p in model.encoder.parameters())
            print(f"{count:,} parameters, {len(train):,} training groups; split {parts.sha256()}; {run.folder}")
        optimizer, scheduler = optimizers(settings, model, settings.epochs * len(batches))

        def loss_terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
            return model(*batch)

        def validate(model: nn.Module) -> dict[str, float]:
            return pool_scores(model.encoder, parts.validation)  # type: ignore[arg-type]

        def score(values: dict[str, float]) -> tuple[float, ...]:
            return values["top1"], values["mrr"]

        trainer = Trainer(run, model, optimizer, scheduler, dataset, batches, loss_terms)
        progress = trainer.fit(validate, score)
        return test(run, model, settings, progress, parts) if place.is_main else {}


def test(run: Run, model: EncoderWithLoss, settings: Settings, progress: Progress, parts: Split) -> dict[str, Any]:
    """Load the best epoch, write encoder.pt, ask the held-out groups once, write figures and metrics.json."""
    model.load_state_dict(load_checkpoint(run.best, type(model).__name__)["model"])
    model.encoder.save(run.folder / "encoder.pt")
    pool = parts.validation if settings.final == "validation" else parts.test
    values = report(model.encoder, pool, run.writer)
    if settings.final == "test":
        values |= rejection(model.encoder, parts.validation, parts.test, settings.promised)
    best = {f"validation_{name}": value for name, value in progress.best["values"].items()}
    return run.finish({**values, **best, "best_epoch": progress.best["epoch"]}, parts.sha256())


if __name__ == "__main__":
    run_main(main)
