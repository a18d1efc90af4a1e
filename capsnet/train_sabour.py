r"""CapsNet on MNIST, MultiMNIST and affNIST-like images (Sabour, Frosst & Hinton 2017), and its control.

    python -m capsnet.train_sabour --data mnist                                  # the paper: 8.2 M parameters
    python -m capsnet.train_sabour --data mnist --recipe small --precision bf16  # 162 k parameters
    python -m capsnet.train_sabour --data mnist --recipe small --task multimnist # two overlapping digits
    python -m capsnet.train_sabour --data mnist --recipe small --task affnist --model cnn    # trained on moved digits

Results, minutes and hardware: HINTON.md. The last epoch is the one that is tested, once: nothing is chosen on the
test set, and nothing but the curve is read from the validation part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, lr_scheduler
from torch.utils.tensorboard import SummaryWriter

from capsnet import figures, hinton_figures
from capsnet.augment import Augmentation
from capsnet.data import DataName, Digits, load, split
from capsnet.hinton_data import AFFNIST_SIZE, PLACEMENTS, PlacedDigits, Placement, affine
from capsnet.multidigit import set_scores
from capsnet.routing import Routing
from capsnet.sabour import BaselineCNN, CapsNet, Network, capsnet_loss
from capsnet.schedules import one_cycle
from trainer import (
    EpochBatches,
    Run,
    RunSettings,
    Trainer,
    UserError,
    load_checkpoint,
    parse,
    run_main,
    seed_everything,
    shuffled,
    world,
)

Task = Literal["mnist", "multimnist", "affnist"]

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "small": {"network": "small", "epochs": 4, "lr": 3e-3, "schedule": "one_cycle"},
}
TEST_SEED = 2_000_003  # of the fixed moves and partners of validation and test images, whatever the run's seed


@dataclass(frozen=True)
class Settings(RunSettings):
    """Train CapsNet with reconstruction, or its control, on the paper's three tasks."""

    recipe: Literal["paper", "small"] = "paper"
    """which defaults the other flags start from: the official code's (which goes on for 300,000 steps: --epochs 700),
    or a short schedule of the small network
    """
    task: Task = "mnist"
    """mnist: digits moved by up to 2 pixels; multimnist: two overlapping digits; affnist: digits anywhere on 40x40,
    tested on affine distortions never trained on
    """
    model: Literal["capsnet", "cnn"] = "capsnet"
    """CapsNet, or the convolutional control of the same scale"""
    network: Network = "paper"
    """paper: 8.2 M parameters (control 35.4 M); small: 162 k without decoder (control 157 k); both at 28x28 pixels"""
    data: DataName = "digits"
    """mnist and fashion are searched for, then fetched; digits (8x8, enlarged) comes with scikit-learn"""
    data_root: Path = Path("data")
    """folder of the IDX files, and of downloads"""
    train_images: int = 0
    """use only so many training images; 0: all but the validation part"""
    validation_share: float = 1 / 12
    """part of the training set that the curve is made from (1/12 of MNIST is 5,000 images)"""
    routing: Routing = "dynamic"
    """dynamic (the paper's), fixed_point or kmeans"""
    num_iters: int = 3
    """iterations of routing; 1 is a uniform average"""
    detach: bool = False
    """let no gradient through the agreements"""
    decoder: bool = True
    """draw the digit again from its capsule, as a second term of the loss"""
    fused: bool = False
    """route by the Triton kernels; needs a GPU"""
    rotation: float = 0.0
    """degrees (0 to 180): training digits are turned by up to so much either way before they are placed"""
    scale: float = 0.0
    """relative change of their size (0 to 0.9): 0.1 is 90 % to 110 %"""
    shear: float = 0.0
    """how far they lean, per unit of height (0 to 10)"""
    lr: float = 1e-3
    """learning rate of Adam; the peak of a one-cycle schedule"""
    schedule: Literal["exponential", "one_cycle"] = "exponential"
    """exponential: the official code's, times 0.96 every 2,000 steps, never below 1e-6"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.validation_share < 1, "validation_share", "between 0 and 1")
        self.require(self.train_images >= 0, "train_images", "0 or more")
        self.require(self.num_iters >= 1, "num_iters", "at least 1")
        self.require_positive("lr")
        for name, most in (("rotation", 180), ("scale", 0.9), ("shear", 10)):
            value = getattr(self, name)
            self.require(0 <= value <= most, name, f"from 0 to {most}")
            allowed = self.task != "affnist" or value == 0
            self.require(allowed, name, "0 with --task affnist, whose test is distortions never trained on")
        self.require(not self.fused or torch.cuda.is_available(), "fused", "left out: torch sees no GPU here")
        self.require(not self.fused or self.device != "cpu", "fused", "left out with --device cpu")
        other = self.routing != "dynamic" or self.detach
        self.require(not (self.fused and other), "fused", "left out with --detach and with other routings than dynamic")
        for field in fields(self):
            fine = self.model == "capsnet" or getattr(self, field.name) == field.default
            if field.name in ("routing", "num_iters", "detach", "decoder", "fused"):
                self.require(fine, field.name, "left out with --model cnn")

    @property
    def run_name(self) -> str:
        """Folder of the run, unless --name says otherwise."""
        model = f"{self.routing}{self.num_iters}" if self.model == "capsnet" else "cnn"
        return f"{self.task}-{self.data}-{self.network}-{model}-seed{self.seed}"


def build(settings: Mapping[str, Any]) -> CapsNet | BaselineCNN:
    """The network of these settings (of the command line, or of a checkpoint)."""
    size = PLACEMENTS[settings["task"]].size
    shape = (1, size, size)
    if settings["model"] == "cnn":
        return BaselineCNN(image_shape=shape, network=settings["network"])
    own = {key: settings[key] for key in ("routing", "num_iters", "detach", "fused", "decoder", "network")}
    return CapsNet(image_shape=shape, **own)


@torch.no_grad()
def errors(model: nn.Module, dataset: PlacedDigits, bf16: bool) -> dict[str, float]:
    """Margin loss, and error in per cent: a pair counts as right when both of its digits are found."""
    device = next(model.parameters()).device
    scores, labels, losses = [], [], []
    for indices in torch.arange(len(dataset)).split(250):
        images, truth, _ = dataset.__getitems__(indices.tolist())
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found = model(images.to(device)).float().cpu()
        scores.append(found)
        labels.append(truth)
        losses.append(capsnet_loss(found, truth)["margin"] * len(truth))
    return {
        "margin": float(torch.stack(losses).sum()) / len(dataset),
        "error": 100 - set_scores(torch.cat(scores), torch.cat(labels))["top"],
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, then test the last epoch; returns what metrics.json holds."""
    settings = parse(Settings, argv, "python -m capsnet.train_sabour", RECIPES)
    with world(settings.device) as place:
        run = Run(settings, "capsnet", settings.run_name, place)
        seed_everything(settings.seed)

        everything = load(settings.data, "train", settings.data_root)
        train, validation = split(everything, round(settings.validation_share * len(everything)))
        train = train[: settings.train_images or None]
        placement = PLACEMENTS[settings.task]
        for part, flag in ((train, "--train-images"), (validation, "--validation-share")):
            if placement.count == 2 and len(part.labels.unique()) < 2:
                raise UserError(f"{flag} leaves {len(part)} images of one class; pairs need two, so ask for more")
        home = torch.device("cpu") if settings.workers else place.device  # worker processes cannot serve from a GPU
        distortion = Augmentation(rotation=settings.rotation, scale=settings.scale, shear=settings.shear)
        dataset = PlacedDigits(train.to(home), placement, settings.seed, augmentation=distortion or None)
        held_out = test_set(validation, settings.task)
        tests = load_tests(settings.plain())  # now: what is missing or damaged is said before hours of training
        batches = EpochBatches(shuffled(len(train), settings.seed), settings.batch_size, place)

        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        model = build(settings.plain()).to(place.device, memory_format=memory_format)  # type: ignore[call-overload]
        if place.is_main:
            print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} parameters; {run.folder}")
        optimizer = Adam(model.parameters(), settings.lr)
        scheduler = make_scheduler(optimizer, settings, settings.epochs * len(batches))
        draws = settings.model == "capsnet" and settings.decoder

        def loss_terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
            images, labels, alone = batch
            images = images.to(memory_format=memory_format)
            if not draws:
                return capsnet_loss(model(images).float(), labels)
            lengths, drawn = model(images, labels)
            return capsnet_loss(lengths, labels, drawn, alone)

        trainer = Trainer(run, model, optimizer, scheduler, dataset, batches, loss_terms)
        trainer.fit(
            lambda model: errors(model, held_out, settings.precision == "bf16"),
            lambda values: (float(trainer.progress.epoch),),  # the last epoch, whatever its values
        )
        if not place.is_main:
            return {}
        return test(run, model, settings, tests, train.sha256())


def make_scheduler(optimizer: Adam, settings: Settings, steps: int) -> lr_scheduler.LRScheduler:
    """The learning rate by step."""
    least = min(1.0, 1e-6 / settings.lr)
    if settings.schedule == "one_cycle":
        return lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps, least))
    return lr_scheduler.LambdaLR(optimizer, lambda step: max(0.96 ** (step / 2000), least))


def test_set(digits: Digits, task: Task) -> PlacedDigits:
    """Digits as they are (mnist), or at fixed places with fixed partners."""
    placement = PLACEMENTS[task]
    if task == "mnist":
        placement = Placement(placement.size, 0)
    return PlacedDigits(digits, placement, TEST_SEED, fixed=True)


def load_tests(settings: Mapping[str, Any]) -> dict[str, PlacedDigits]:
    """The test digits by the name of their error: those of the task and, of affnist, the distorted ones."""
    digits = load(settings["data"], "test", Path(settings["data_root"]))
    tests = {"error": test_set(digits, settings["task"])}
    if settings["task"] == "affnist":
        tests["affine_error"] = PlacedDigits(affine(digits), Placement(AFFNIST_SIZE, 0), fixed=True)
    return tests


def test(
    run: Run,
    model: CapsNet | BaselineCNN,
    settings: Settings,
    tests: Mapping[str, PlacedDigits],
    data_sha256: str,
) -> dict[str, Any]:
    """Score the last epoch once on digits it never saw, write figures and metrics.json."""
    checkpoint = load_checkpoint(run.best, type(model).__name__)
    model.load_state_dict(checkpoint["model"])
    values = report(run.folder, model.eval(), settings.plain(), run.writer, tests, checkpoint["global_step"])
    validation = {f"validation_{name}": value for name, value in checkpoint["best"]["values"].items()}
    return run.finish({**values, **validation, "epoch": checkpoint["epoch"]}, data_sha256)


def report(
    folder: Path,
    model: CapsNet | BaselineCNN,
    settings: Mapping[str, Any],
    writer: SummaryWriter | None = None,
    tests: Mapping[str, PlacedDigits] | None = None,
    step: int = 0,
) -> dict[str, float]:
    """Score the model, in evaluation mode, on its test digits (None: load them), print the errors, write the
    figures.
    """
    tests = load_tests(settings) if tests is None else tests
    bf16 = settings["precision"] == "bf16"
    values = errors(model, tests["error"], bf16)
    values |= {name: errors(model, tests[name], bf16)["error"] for name in tests if name != "error"}
    print(", ".join(f"test {name} {value:.4f}" for name, value in values.items()))
    if isinstance(model, CapsNet):
        figures.write(folder / "figures", hinton_figures.capsnet_figures(model, tests["error"]), writer, step)
    return values


if __name__ == "__main__":
    run_main(main)
