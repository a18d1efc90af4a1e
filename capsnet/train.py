r"""The two-digit experiment (Su 2018, archives/4819 and 5112): train on single digits, be asked about several.

    python -m capsnet.train --data mnist --precision bf16                 # the article's network, kmeans routing
    python -m capsnet.train --data mnist --precision bf16 --model cnn     # its control
    python -m capsnet.train --data mnist --precision bf16 --recipe ours   # ours

Results, minutes and hardware of these commands: README.md. A validation part of the training set chooses the epoch;
the test digits are looked at once, at the end. With a constant learning rate the score on two digits moves by two
points from epoch to epoch while that on single digits stands still, so the article's recipe is judged by validation
digits stacked in pairs; ours anneals its rate and never sees a pair, not even there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, lr_scheduler
from torch.utils.tensorboard import SummaryWriter

from capsnet import figures
from capsnet.augment import Augmentation
from capsnet.data import DataName, DigitBatches, Digits, load, split
from capsnet.multidigit import COUNTS, compose, evaluate, predict, set_scores
from capsnet.networks import WIDTHS, DigitCapsNet, PooledCNN
from capsnet.routing import Routing
from losses import capsule_margin
from trainer import (
    EpochBatches,
    Progress,
    Run,
    RunSettings,
    Trainer,
    load_checkpoint,
    parse,
    run_main,
    seed_everything,
    shuffled,
    world,
)

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "faithful": {},
    # Meant to matter: margins so tight that what several digits wrongly say for a class stays small when it adds up,
    # edges that meet, and features that are right more often. benchmarks/two_digits.py ablation tells them apart.
    "ours": {
        "epochs": 15,
        "choose_by": "single",
        "widths": (32, 32, 64, 64, 128, 128),
        "batch_norm": True,
        "capsule_gain": 0.05,
        "lr": 4e-3,
        "schedule": "one_cycle",
        "positive": 0.95,
        "negative": 0.01,
        "down_weight": 0.5,
        "augmentation": Augmentation(shift=2.0, rotation=15.0, scale=0.15, shear=0.2, wrap=8),
    },
}


@dataclass(frozen=True)
class Settings(RunSettings):
    """Train capsules or the pooling control on single digits; test on one to four."""

    recipe: Literal["faithful", "ours"] = "faithful"
    """which defaults the other flags start from: the article's, or this repository's own"""
    model: Literal["capsules", "cnn"] = "capsules"
    """DigitCapsNet, or PooledCNN: mean pooling and dense layers in place of capsules"""
    data: DataName = "digits"
    """mnist and fashion are searched for, then fetched; digits (8x8, enlarged) comes with scikit-learn"""
    data_root: Path = Path("data")
    """folder of the IDX files, and of downloads"""
    train_images: int = 0
    """use only so many training images; 0: all but the validation part"""
    validation_share: float = 1 / 12
    """part of the training set that chooses the epoch (1/12 of MNIST is 5,000 images)"""
    routing: Routing = "kmeans"
    """dynamic (Hinton), fixed_point (archives/4819), kmeans or kmeans_hard (archives/5112)"""
    num_iters: int = 3
    """iterations of routing; 1 is a uniform average"""
    squash_constant: float = 0.5
    """of the squash function: 0.5 (the article's) or 1 (Hinton's)"""
    widths: tuple[int, ...] = WIDTHS
    """channels of the convolutions; a mean pool comes behind the second"""
    batch_norm: bool = False
    """normalise before every ReLU of the convolutions"""
    capsule_gain: float = 1.0
    """factor on the initial capsule weights; small where batch_norm would otherwise saturate the squash"""
    lr: float = 1e-3
    """learning rate of Adam; the peak of a one-cycle schedule"""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """of the learning rate, by step"""
    weight_decay: float = 0.0
    """decoupled, a share per unit of learning rate"""
    positive: float = 0.9
    """margin loss: length above which a present class costs nothing"""
    negative: float = 0.1
    """margin loss: length below which an absent class costs nothing"""
    down_weight: float = 0.25
    """margin loss: weight of the absent classes (0.25 in the original's code, 0.5 in Hinton's paper)"""
    choose_by: Literal["pairs", "single"] = "pairs"
    """the epoch that is kept: best on validation digits stacked in pairs (never trained on), or of the least loss on
    single ones
    """
    final: Literal["test", "validation"] = "test"
    """what the scores at the end are of; validation: the test digits stay unseen, for choices between settings"""
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.validation_share < 1, "validation_share", "between 0 and 1")
        self.require(self.train_images >= 0, "train_images", "0 or more")
        self.require(self.num_iters >= 1, "num_iters", "at least 1")
        self.require(len(self.widths) >= 2 and min(self.widths) >= 1, "widths", "two or more positive numbers")
        self.require_positive("lr", "squash_constant")

    @property
    def run_name(self) -> str:
        """Folder of the run, unless --name says otherwise."""
        model = f"capsules-{self.routing}" if self.model == "capsules" else "cnn"
        return f"{self.data}-{self.recipe}-{model}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, then test the best epoch; returns what metrics.json holds."""
    settings = parse(Settings, argv, "python -m capsnet.train", RECIPES)
    with world(settings.device) as place:
        run = Run(settings, "capsnet", settings.run_name, place)
        seed_everything(settings.seed)

        everything = load(settings.data, "train", settings.data_root)
        train, validation = split(everything, round(settings.validation_share * len(everything)))
        train = train[: settings.train_images or None]
        dataset = DigitBatches(train, settings.augmentation or None, settings.seed)
        pairs = compose(validation, 2, "stacked")
        final = final_digits(settings.plain())  # now: what is missing or damaged is said before the training
        batches = EpochBatches(shuffled(len(train), settings.seed), settings.batch_size, place)

        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        model = build(settings.plain()).to(place.device, memory_format=memory_format)  # type: ignore[call-overload]
        if place.is_main:
            print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} parameters; {run.folder}")
        optimizer = AdamW(model.parameters(), settings.lr, eps=1e-7, weight_decay=settings.weight_decay)
        steps = settings.epochs * len(batches)
        scheduler: lr_scheduler.LRScheduler = (
            lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps + 1, pct_start=0.2)
            if settings.schedule == "one_cycle"
            else lr_scheduler.ConstantLR(optimizer, factor=1.0)
        )

        bf16 = settings.precision == "bf16"

        def loss_terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
            images, labels = batch
            scores = model(images.to(memory_format=memory_format))
            return {"loss": margin(scores, labels)}

        def margin(scores: Tensor, labels: Tensor) -> Tensor:
            return capsule_margin(scores.float(), labels, settings.positive, settings.negative, settings.down_weight)

        def validate(model: nn.Module) -> dict[str, float]:
            scores = predict(model, validation.images, bf16)
            accuracy = (scores.argmax(dim=1) == validation.labels).float().mean().item()
            two_digits = set_scores(predict(model, pairs.images, bf16), pairs.labels)["top"]
            return {"loss": margin(scores, validation.labels).item(), "single": 100 * accuracy, "pairs": two_digits}

        def score(values: dict[str, float]) -> tuple[float, ...]:
            return (-values["loss"],) if settings.choose_by == "single" else (values["pairs"], -values["loss"])

        trainer = Trainer(run, model, optimizer, scheduler, dataset, batches, loss_terms)
        progress = trainer.fit(validate, score)
        if not place.is_main:
            return {}
        return test(run, model, settings, progress, final, train.sha256())


def build(settings: Mapping[str, Any]) -> nn.Module:
    """The network of these settings (of the command line, or of a checkpoint)."""
    shared = {key: settings[key] for key in ("widths", "batch_norm")}
    if settings["model"] == "cnn":
        return PooledCNN(**shared)
    own = {key: settings[key] for key in ("routing", "num_iters", "squash_constant", "capsule_gain")}
    return DigitCapsNet(**own, **shared)


def test(
    run: Run, model: nn.Module, settings: Settings, progress: Progress, digits: Digits, data_sha256: str
) -> dict[str, Any]:
    """Load the best epoch, score it once on digits it never saw, write figures and metrics.json."""
    checkpoint = load_checkpoint(run.best, type(model).__name__)
    model.load_state_dict(checkpoint["model"])
    values = report(run.folder, model, settings.plain(), run.writer, digits, checkpoint["global_step"])
    best = {f"validation_{name}": value for name, value in progress.best["values"].items()}
    return run.finish({**values, **best, "best_epoch": progress.best["epoch"]}, data_sha256)


def report(
    folder: Path,
    model: nn.Module,
    settings: Mapping[str, Any],
    writer: SummaryWriter | None = None,
    digits: Digits | None = None,
    step: int = 0,
) -> dict[str, float]:
    """Score the model on the digits kept for the end (None: those the settings keep), print the table, write the
    figures.
    """
    digits = final_digits(settings) if digits is None else digits
    bf16 = settings["precision"] == "bf16"
    values = evaluate(model, digits, bf16)
    print(table(values))
    names = figures.class_names(settings["data"])
    pairs = compose(digits, 2, "stacked")
    pictures = {
        "scores_by_count": figures.counts_figure({str(settings["model"]): values}),
        "two_digits": figures.examples_figure(pairs, predict(model, pairs.images, bf16)),
    }
    if isinstance(model, DigitCapsNet):
        pictures["couplings_one_digit"] = figures.coupling_figure(model, digits.images[0], names)
        pictures["couplings_two_digits"] = figures.coupling_figure(model, pairs.images[0], names)
    figures.write(folder / "figures", pictures, writer, step)
    return values


def final_digits(settings: Mapping[str, Any]) -> Digits:
    """The test digits, or with ``final="validation"`` the validation part."""
    root = Path(settings["data_root"])
    if settings["final"] == "test":
        return load(settings["data"], "test", root)
    everything = load(settings["data"], "train", root)
    return split(everything, round(settings["validation_share"] * len(everything)))[1]


def table(values: Mapping[str, float]) -> str:
    """The scores of `evaluate` as text."""
    rows = [f"{'digits':>12} {'top n':>8} {'and > 0.5':>10}   (%)", f"{'single':>12} {values['single']:8.2f}"]
    for layout in ("stacked", "row", "overlap"):
        for count in COUNTS:
            key = f"{layout}_{count}"
            if f"{key}_top" in values:
                rows.append(f"{f'{count} {layout}':>12} {values[f'{key}_top']:8.2f} {values[f'{key}_confident']:10.2f}")
    return "\n".join(rows)


if __name__ == "__main__":
    run_main(main)
