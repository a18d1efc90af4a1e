r"""Star, unknown, galaxy or quasar (Su 2018, archives/5505): cross-entropy first, then the soft macro-F1 itself.

    python -m spectra.simulator data/train --num 36000 --seed 1 --shares 0.46 0.18 0.18 0.18
    python -m spectra.train --data data/train --precision bf16                    # the article's recipe
    python -m spectra.train --data data/train --precision bf16 --recipe ours      # this repository's

Stage 1 minimises cross-entropy (Adam, 1e-3); stage 2 starts from its best weights and minimises
-log of the macro-F1 with soft counts (Adam, 1e-4). Batches hold 0.8 / 0.1 / 0.05 / 0.05 of the classes. The epoch is
chosen on a validation part by the macro-F1 at the survey's class shares. Results, minutes, hardware: README.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, lr_scheduler

from losses import soft_macro_f1
from spectra.data import Augmentation, SpectraBatches, drawn_by_class, prepared, split
from spectra.evaluate import build, logits_of, report
from spectra.metrics import class_f1, class_weights, confusion, fit_temperature, log_softmax, posterior
from spectra.network import DILATIONS, WIDTHS
from spectra.preprocess import Preprocessing
from spectra.spectrum import CLASSES, SURVEY_SHARES
from spectra.survey import open_survey
from trainer import (
    EpochBatches,
    Progress,
    Run,
    RunSettings,
    Trainer,
    UserError,
    World,
    load_checkpoint,
    parse,
    run_main,
    save_checkpoint,
    seed_everything,
    world,
)

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "faithful": {},
    # Half the pixels (207 km/s each), no unit, even classes, a longer reach; README.md tells what each of them does.
    "ours": {
        "preprocessing": Preprocessing(step=5e-4, size=780, normalisation="asinh"),
        "batch_size": 64,
        "shares": (0.4, 0.2, 0.2, 0.2),
        "schedule": "one_cycle",
        "augmentation": Augmentation(redshift_jitter=10, noise=0.3, splice=0.05),
    },
}


@dataclass(frozen=True)
class Settings(RunSettings):
    """Train a classifier of spectra in two stages; the best epoch of the second is kept."""

    recipe: Literal["faithful", "ours"] = "faithful"
    """which defaults the other flags start from: the article's, or this repository's own"""
    data: Path = Path("data/train")
    """folder of a survey: python -m spectra.simulator, or spectra.survey for real ones"""
    test: Path | None = None
    """folder of a survey to score once at the end; empty: the validation part is scored"""
    validation_share: float = 0.1
    """part of each class that chooses the epoch and sets the temperature"""
    train_spectra: int = 0
    """use only so many training spectra; 0: all but the validation part"""
    shares: tuple[float, float, float, float] = (0.8, 0.1, 0.05, 0.05)
    """of star, unknown, galaxy, qso in a batch, on average"""
    batch_size: int = 160
    """spectra a step, over all processes together"""
    epochs: int = 50
    """of stage 1, cross-entropy"""
    f1_epochs: int = 50
    """of stage 2, soft macro-F1; 0: no second stage"""
    epoch_steps: int = 500
    """steps an epoch"""
    lr: float = 1e-3
    """learning rate of Adam in stage 1; the peak of a one-cycle schedule"""
    f1_lr: float = 1e-4
    """learning rate in stage 2, constant"""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """of the learning rate in stage 1, by step"""
    weight_decay: float = 0.0
    """decoupled, a share per unit of learning rate"""
    widths: tuple[int, ...] = WIDTHS
    """channels of the blocks; a max pool of 2 lies between"""
    dilations: tuple[int, ...] = DILATIONS
    """of the convolutions in a block; 1 4 16 reaches three times as far"""
    kernel: int = 3
    """bins of a convolution"""
    dropout: float = 0.5
    """share of positions that are dropped before the global pool"""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.validation_share < 1, "validation_share", "between 0 and 1")
        self.require(self.train_spectra >= 0, "train_spectra", "0 or more")
        self.require(min(self.shares) >= 0 and abs(sum(self.shares) - 1) < 1e-3, "shares", "four shares of sum 1")
        self.require(self.f1_epochs >= 0, "f1_epochs", "0 or more")
        self.require(self.epoch_steps >= 1, "epoch_steps", "at least 1")
        self.require_positive("lr", "f1_lr")
        self.require(len(self.widths) > 0 and min(self.widths) > 0, "widths", "one or more positive numbers")
        self.require(len(self.dilations) > 0 and min(self.dilations) > 0, "dilations", "one or more positive numbers")
        self.require(self.kernel > 0 and self.kernel % 2 == 1, "kernel", "odd and positive")
        self.require(0 <= self.dropout < 1, "dropout", "from 0 to below 1")
        if self.augmentation.splice and self.preprocessing.axis == "pixels":
            raise UserError(
                f"--splice is {self.augmentation.splice}; expected 0 with --axis pixels, which has no 5,900 angstrom"
            )
        least = 2 ** (len(self.widths) - 1)
        if self.preprocessing.size < least:
            raise UserError(
                f"--size must be at least {least} for {len(self.widths)} blocks, got {self.preprocessing.size}"
            )

    @property
    def run_name(self) -> str:
        """Folder of the run, unless --name says otherwise."""
        return f"{self.data.name}-{self.recipe}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train both stages, calibrate, score; returns what metrics.json holds."""
    settings = parse(Settings, argv, "python -m spectra.train", RECIPES)
    with world(settings.device) as place:
        seed_everything(settings.seed)
        survey = open_survey(settings.data)
        inputs = prepared(survey, settings.preprocessing)
        rows, held = split(np.asarray(survey.labels), settings.validation_share)
        if settings.train_spectra:
            rows = np.sort(np.random.default_rng(settings.seed).permutation(rows)[: settings.train_spectra])
        augmentation = settings.augmentation or None
        dataset = SpectraBatches(inputs, survey.labels, rows, settings.preprocessing, augmentation, settings.seed)
        validation = SpectraBatches(inputs, survey.labels, held, settings.preprocessing)

        model = build(settings.plain()).to(place.device)
        if place.is_main:
            print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} parameters")
        folder = settings.name or settings.run_name
        stages: list[tuple[Run, Progress]] = []
        if settings.f1_epochs:
            stages.append(train_stage(settings, f"{folder}/stage1", "cross_entropy", place, model, dataset, validation))
            place.any(False)  # every process waits here until the main one has written best.pt
            model.load_state_dict(load_checkpoint(stages[0][0].best)["model"])
        loss: Literal["cross_entropy", "soft_f1"] = "soft_f1" if settings.f1_epochs else "cross_entropy"
        stages.append(train_stage(settings, folder, loss, place, model, dataset, validation))
        if not place.is_main:
            return {}
        return finish(settings, stages, model, validation, survey.sha256)


def train_stage(
    settings: Settings,
    name: str,
    loss: Literal["cross_entropy", "soft_f1"],
    place: World,
    model: nn.Module,
    dataset: SpectraBatches,
    validation: SpectraBatches,
) -> tuple[Run, Progress]:
    """One loss, from the weights the model has, or on from where its own last.pt stands."""
    second = loss == "soft_f1"
    last = settings.out / "spectra" / name / "last.pt"
    settings = dataclasses.replace(
        settings,
        name=name,
        epochs=settings.f1_epochs if second else settings.epochs,
        resume=settings.resume and (last.exists() or not second),  # a run can stop before its second stage begins
    )
    run = Run(settings, "spectra", name, place)
    seed = settings.seed + 500_000_000 * second
    order = drawn_by_class(dataset.labels, settings.shares, settings.epoch_steps * settings.batch_size, seed)
    batches = EpochBatches(order, settings.batch_size, place)
    lr = settings.f1_lr if second else settings.lr
    optimizer = AdamW(model.parameters(), lr, eps=1e-7, weight_decay=settings.weight_decay)
    scheduler: lr_scheduler.LRScheduler = (
        lr_scheduler.OneCycleLR(optimizer, lr, total_steps=settings.epochs * len(batches) + 1, pct_start=0.2)
        if settings.schedule == "one_cycle" and not second
        else lr_scheduler.ConstantLR(optimizer, factor=1.0)
    )

    def loss_terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        inputs, labels = batch
        scores = model(inputs).float()
        terms = {"loss": F.cross_entropy(scores, labels)}
        if second:
            terms = {"loss": soft_macro_f1(scores.softmax(dim=1), labels), "cross_entropy": terms["loss"].detach()}
        return terms

    trainer = Trainer(run, model, optimizer, scheduler, dataset, batches, loss_terms)
    bf16 = settings.precision == "bf16"
    progress = trainer.fit(lambda model: validate(model, validation, bf16), lambda v: (v["macro_f1"], -v["loss"]))
    return run, progress


def validate(model: nn.Module, validation: SpectraBatches, bf16: bool) -> dict[str, float]:
    """Cross-entropy of even classes, macro-F1 at the survey's shares and at even ones, F1 of each class."""
    logits = logits_of(model, validation.inputs, validation.rows, bf16)
    labels = validation.labels
    counts = confusion(labels, logits.argmax(axis=1), len(CLASSES))
    even = [1 / len(CLASSES)] * len(CLASSES)
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    values = {
        "loss": float((class_weights(labels, even) * losses).sum()),
        "macro_f1": float(class_f1(counts, SURVEY_SHARES).mean()),
        "macro_f1_even": float(class_f1(counts, even).mean()),
    }
    return values | {f"f1_{c}": float(f) for c, f in zip(CLASSES, class_f1(counts, SURVEY_SHARES), strict=True)}


def finish(
    settings: Settings,
    stages: Sequence[tuple[Run, Progress]],
    model: nn.Module,
    validation: SpectraBatches,
    sha256: str,
) -> dict[str, Any]:
    """Fit each stage's temperature, write it into its best.pt, score the best epoch once, write metrics.json."""
    labels, weights = validation.labels, class_weights(validation.labels, settings.shares)
    values: dict[str, Any] = {}
    for prefix, (stage, progress) in zip(("stage1_", "")[-len(stages) :], stages, strict=True):
        checkpoint = load_checkpoint(stage.best, type(model).__name__)
        model.load_state_dict(checkpoint["model"])
        logits = logits_of(model.eval(), validation.inputs, validation.rows, settings.precision == "bf16")
        temperature = checkpoint["temperature"] = fit_temperature(logits, labels, weights)
        save_checkpoint(stage.best, {key: value for key, value in checkpoint.items() if key != "format"})
        shifted = posterior(logits, temperature, settings.shares, SURVEY_SHARES).argmax(axis=1)
        f1 = class_f1(confusion(labels, shifted, len(CLASSES)), SURVEY_SHARES)
        values |= {f"{prefix}validation_{key}": value for key, value in progress.best["values"].items()}
        values |= {f"{prefix}validation_survey_macro_f1": float(f1.mean())}
        values |= {f"{prefix}best_epoch": progress.best["epoch"], f"{prefix}temperature": temperature}
    if settings.test is not None:
        for name, (stage, _) in zip(("stage1_test_", "test_")[-len(stages) :], stages, strict=True):
            scores = report(stage.best, settings.test, with_figures=name == "test_")
            values |= {name + key: value for key, value in scores.items()}
    return stages[-1][0].finish(values, sha256)


if __name__ == "__main__":
    run_main(main)
