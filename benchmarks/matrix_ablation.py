"""What makes matrix capsules learn: one thing at a time changed in the beginning, the routing or the recipe.

    python benchmarks/matrix_ablation.py --data-root DATA                # every row, three seeds
    python benchmarks/matrix_ablation.py --data-root DATA --only normal  # the rows with this in their name

One pass over some training digits, the learning rate up and down once, error in per cent on 2,000 other digits of the
training set; test digits are never loaded. Work: forward and backward of 6,000 images a row and seed, under a minute
of a core with the widths below.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from torch.optim import Adam, lr_scheduler

from capsnet import train_matrix
from capsnet.data import Digits, load, split
from capsnet.matrix import MatrixCapsNet
from capsnet.schedules import one_cycle
from losses import spread
from losses.capsule import spread_margin
from trainer import EpochBatches, UserError, World, run_main, seed_everything, shuffled

VALIDATION = 2000
LAYERS = ("conv_caps1", "conv_caps2", "classes")


class RawDigits(train_matrix.SingleDigits):
    """The same digits as pixels from 0 to 1."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels, _ = self.placed.__getitems__(indices)
        return images, labels[:, 0]


@torch.no_grad()
def draw_matrices(model: MatrixCapsNet, identity: float, noise: float) -> None:
    """Matrices of every layer anew: so much of the identity and so much noise."""
    for name in LAYERS:
        weight = getattr(model, name).weight
        weight.copy_(identity * torch.eye(4) + noise * torch.randn_like(weight))


@torch.no_grad()
def costly_betas(model: MatrixCapsNet) -> None:
    """Every description costs: beta_u of a capsule above the usual log sigma, beta_a 0."""
    for name in LAYERS:
        getattr(model, name).beta_u.fill_(0.94)
        getattr(model, name).beta_a.zero_()


@torch.no_grad()
def small_poses(model: MatrixCapsNet) -> None:
    """Primary poses as torch draws them."""
    model.primary_poses.weight.div_(5)


def plain_beginning(model: MatrixCapsNet) -> None:
    """All of the above: what a reader of the paper would write."""
    draw_matrices(model, 0, 1)
    costly_betas(model)
    small_poses(model)


@dataclass(frozen=True)
class Row:
    """One thing changed."""

    changed: dict[str, Any] = field(default_factory=dict)
    """settings of train_matrix"""
    begin: Callable[[MatrixCapsNet], None] = lambda model: None
    """what is done to a new network"""
    raw: bool = False
    """pixels from 0 to 1, not mean 0 and variance 1"""


ROWS: dict[str, Row] = {
    "the defaults": Row(),
    "one M-step (no routing)": Row({"num_iters": 1}),
    "one M-step, final temperature 4": Row({"num_iters": 1, "final_temperature": 4.0}),
    "three M-steps": Row({"num_iters": 3}),
    "final temperature 2": Row({"final_temperature": 2.0}),
    "final temperature 0.5": Row({"final_temperature": 0.5}),
    "batches of 64": Row({"batch_size": 64}),
    "half the learning rate": Row({"lr": 5e-3}),
    "pixels from 0 to 1": Row(raw=True),
    "normal matrices": Row(begin=lambda model: draw_matrices(model, 0, 1)),
    "identity and noise of 0.01": Row(begin=lambda model: draw_matrices(model, 1, 0.01)),
    "identity and noise of 0.05": Row(begin=lambda model: draw_matrices(model, 1, 0.05)),
    "identity and noise of 0.2": Row(begin=lambda model: draw_matrices(model, 1, 0.2)),
    "identity and noise of 0.5": Row(begin=lambda model: draw_matrices(model, 1, 0.5)),
    "beta_u 0.94, beta_a 0": Row(begin=costly_betas),
    "primary poses a fifth": Row(begin=small_poses),
    "normal matrices, these betas, small poses": Row(begin=plain_beginning),
    "the same, pixels from 0 to 1": Row(begin=plain_beginning, raw=True),
    "the same, one M-step": Row({"num_iters": 1}, plain_beginning, raw=True),
}


@dataclass(frozen=True)
class Settings:
    """Short trainings of matrix capsules, scored on validation digits."""

    data: Literal["mnist", "fashion"] = "mnist"
    """which IDX files"""
    data_root: Path = Path("data")
    """folder of the IDX files"""
    train_images: int = 6000
    """digits of the one pass"""
    widths: tuple[int, int, int, int] = (32, 8, 8, 8)
    """A, B, C, D of the network"""
    seeds: int = 3
    """runs a row, seeds from 0"""
    only: str = ""
    """just the rows with this in their name"""


def error(row: Row, settings: train_matrix.Settings, train: Digits, validation: Digits) -> float:
    """Train once; per cent of the validation digits that are wrong."""
    seed_everything(settings.seed)
    kind = RawDigits if row.raw else train_matrix.SingleDigits
    dataset = kind(train, training=True, seed=settings.seed)
    batches = EpochBatches(shuffled(len(dataset), settings.seed), settings.batch_size, World(0, 1, torch.device("cpu")))
    model = train_matrix.build(settings.plain())
    row.begin(model)
    optimizer = Adam(model.parameters(), settings.lr)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, len(batches)))
    for step, indices in enumerate(batches):
        images, labels = dataset.__getitems__(indices)
        loss = spread(model(images), labels, spread_margin(step, round(settings.margin_share * len(batches))))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
    return train_matrix.errors(model.eval(), kind(validation, training=False), bf16=False)["error"]


def main(argv: Sequence[str] | None = None) -> None:
    settings = tyro.cli(Settings, args=argv)
    rows = {name: row for name, row in ROWS.items() if settings.only in name}
    if not rows:
        raise UserError(f"--only {settings.only}: no row has this in its name; there are {'; '.join(ROWS)}")
    if settings.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {settings.seeds}")
    most = max(row.changed.get("batch_size", train_matrix.Settings.batch_size) for row in rows.values())
    if settings.train_images < most:
        raise UserError(f"--train-images must be at least {most}, a batch of these rows, got {settings.train_images}")
    train, validation = split(load(settings.data, "train", settings.data_root), VALIDATION)
    train = train[: settings.train_images]
    print("| changed | error, each seed | mean | seconds |\n|---|---|---|---|")
    for name, row in rows.items():
        start, found = time.perf_counter(), []
        for seed in range(settings.seeds):
            one = train_matrix.Settings(data=settings.data, widths=settings.widths, seed=seed)
            found.append(error(row, replace(one, **row.changed), train, validation))
        seconds = (time.perf_counter() - start) / settings.seeds
        each = ", ".join(f"{value:.1f}" for value in found)
        print(f"| {name} | {each} | {statistics.mean(found):.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    run_main(main)
