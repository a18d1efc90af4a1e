r"""Matrix capsules with EM routing on MNIST and smallNORB (Hinton, Sabour & Frosst 2018).

    python -m capsnet.train_matrix --data mnist                                # A, B, C, D = 64, 8, 16, 16
    python -m capsnet.train_matrix --data mnist --widths 32 8 8 8              # less than half of the work
    python -m capsnet.train_matrix --data norb --data-root DATA                # smallNORB, whose files you provide
    python -m capsnet.train_matrix --data norb --viewpoints azimuth            # train on six azimuths, test on the rest

Results, minutes and hardware: HINTON.md. The spread loss's margin grows from 0.2 to 0.9 over ``--margin-share`` of the
steps. The last epoch is the one that is tested, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, lr_scheduler
from torch.utils.tensorboard import SummaryWriter

from capsnet import figures, hinton_figures
from capsnet.data import Digits, load, split
from capsnet.hinton_data import PlacedDigits, Placement, standardized
from capsnet.matrix import MatrixCapsNet
from capsnet.norb import Norb, NorbBatches, Viewpoints, load_norb
from capsnet.schedules import one_cycle
from losses import spread
from losses.capsule import spread_margin
from trainer import (
    EpochBatches,
    EpochDataset,
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

MatrixData = Literal["digits", "mnist", "fashion", "norb"]


@dataclass(frozen=True)
class Settings(RunSettings):
    """Train the network of matrix capsules with the spread loss."""

    epochs: int = 12
    """passes over the training data"""
    batch_size: int = 32
    """examples a step, over all processes together; the last, smaller batch of an epoch is left out"""
    data: MatrixData = "digits"
    """mnist and fashion are searched for, then fetched; digits comes with scikit-learn; norb: smallNORB, provided"""
    data_root: Path = Path("data")
    """folder of the files, and of downloads"""
    viewpoints: Viewpoints = "all"
    """norb: what to train on; all, or six azimuths, or three elevations, tested on the familiar and on the novel"""
    train_images: int = 0
    """use only so many training images; 0: all but the validation part"""
    validation_share: float = 1 / 12
    """part of the training set that the curve is made from"""
    widths: tuple[int, int, int, int] = (64, 8, 16, 16)
    """A, B, C, D: channels, kinds of primary, first and second convolutional capsules"""
    num_iters: int = 2
    """M-steps of routing, in every layer"""
    final_temperature: float = 1.0
    """what EM's inverse temperature would tend to for a parent with one child to itself; more: surer activations"""
    fused: bool = False
    """route by the Triton kernels; needs a GPU, whose order of sums makes the last digits differ from run to run"""
    lr: float = 1e-2
    """learning rate of Adam at its highest; a fifth of the run up along a line, then down along half a cosine"""
    margin_share: float = 0.8
    """share of the steps after which the margin has grown from 0.2 to 0.9"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.validation_share < 1, "validation_share", "between 0 and 1")
        self.require(0 < self.margin_share <= 1, "margin_share", "above 0, at most 1")
        self.require(self.train_images >= 0, "train_images", "0 or more")
        self.require(self.num_iters >= 1, "num_iters", "at least 1")
        self.require(min(self.widths) >= 1, "widths", "four positive numbers")
        self.require_positive("lr", "final_temperature")
        self.require(not self.fused or torch.cuda.is_available(), "fused", "left out: torch sees no GPU here")
        self.require(not self.fused or self.device != "cpu", "fused", "left out with --device cpu")
        self.require(self.viewpoints == "all" or self.data == "norb", "viewpoints", "all, except for --data norb")

    @property
    def run_name(self) -> str:
        """Folder of the run, unless --name says otherwise."""
        widths = "-".join(map(str, self.widths))
        view = "" if self.viewpoints == "all" else f"-{self.viewpoints}"
        return f"matrix-{self.data}{view}-{widths}-it{self.num_iters}-seed{self.seed}"


class SingleDigits:
    """Digits on 28x28, moved by up to 2 pixels in training, each image of mean 0 and variance 1 as in the paper."""

    def __init__(self, digits: Digits, training: bool, seed: int = 0) -> None:
        self.placed = PlacedDigits(digits, Placement(28, 2 if training else 0), seed)

    def set_epoch(self, epoch: int) -> None:
        self.placed.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.placed)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels, _ = self.placed.__getitems__(indices)
        return standardized(images), labels[:, 0]


@torch.no_grad()
def errors(model: nn.Module, dataset: EpochDataset, bf16: bool) -> dict[str, float]:
    """Error in per cent, and the spread loss at its last margin, 0.9."""
    device = next(model.parameters()).device
    wrong, loss = 0.0, 0.0
    for indices in torch.arange(len(dataset)).split(100):
        images, labels = dataset.__getitems__(indices.tolist())
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            scores = model(images.to(device)).cpu()
        wrong += float((scores.argmax(dim=1) != labels).sum())
        loss += float(spread(scores, labels, 0.9)) * len(labels)
    return {"loss_at_0.9": loss / len(dataset), "error": 100 * wrong / len(dataset)}


def load_parts(settings: Settings, home: torch.device) -> tuple[EpochDataset, EpochDataset, str]:
    """Training images, served on the device ``home``, and validation images, and a hash of the former."""
    everything: Digits | Norb
    if settings.data == "norb":
        everything = load_norb("train", settings.data_root)
        everything = everything[everything.familiar(settings.viewpoints).nonzero().flatten()]
    else:
        everything = load(settings.data, "train", settings.data_root)
    train, validation = split(everything, round(settings.validation_share * len(everything)))
    train = train[: settings.train_images or None]
    data_sha256 = Digits(train.images, train.labels).sha256()
    return serve(train.to(home), True, settings.seed), serve(validation, False), data_sha256


def serve(part: Digits | Norb, training: bool, seed: int = 0) -> EpochDataset:
    """Batches of digits or of pairs of toys."""
    return NorbBatches(part, training, seed) if isinstance(part, Norb) else SingleDigits(part, training, seed)


def load_tests(settings: Mapping[str, Any]) -> dict[str, EpochDataset]:
    """The test images by the name of their error: with viewpoints held out, the familiar and the novel ones."""
    root = Path(settings["data_root"])
    if settings["data"] != "norb":
        return {"error": serve(load(settings["data"], "test", root), False)}
    norb = load_norb("test", root)
    known = norb.familiar(settings["viewpoints"])
    tests = {"error": serve(norb[known.nonzero().flatten()], False)}
    if not known.all():
        tests["novel_error"] = serve(norb[(~known).nonzero().flatten()], False)
    return tests


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, then test the last epoch; returns what metrics.json holds."""
    settings = parse(Settings, argv, "python -m capsnet.train_matrix")
    with world(settings.device) as place:
        run = Run(settings, "capsnet", settings.run_name, place)
        seed_everything(settings.seed)
        home = torch.device("cpu") if settings.workers else place.device  # worker processes cannot serve from a GPU
        dataset, validation, data_sha256 = load_parts(settings, home)
        tests = load_tests(settings.plain())  # now: what is missing or damaged is said before hours of training
        batches = EpochBatches(shuffled(len(dataset), settings.seed), settings.batch_size, place)

        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        model = build(settings.plain()).to(place.device)
        if place.is_main:
            print(f"MatrixCapsNet: {sum(p.numel() for p in model.parameters()):,} parameters; {run.folder}")
        steps = settings.epochs * len(batches)
        optimizer = Adam(model.parameters(), settings.lr)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))

        def loss_terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
            images, labels = batch
            margin = spread_margin(trainer.progress.global_step, max(1, round(settings.margin_share * steps)))
            scores = model(images.to(memory_format=memory_format))
            hits = (scores.argmax(dim=1) == labels).float().mean()
            return {"loss": spread(scores, labels, margin), "accuracy": 100 * hits, "margin": scores.new_tensor(margin)}

        trainer = Trainer(run, model, optimizer, scheduler, dataset, batches, loss_terms)
        trainer.fit(
            lambda model: errors(model, validation, settings.precision == "bf16"),
            lambda values: (float(trainer.progress.epoch),),  # the last epoch, whatever its values
        )
        if not place.is_main:
            return {}
        return test(run, model, settings, tests, data_sha256)


def build(settings: dict[str, Any]) -> MatrixCapsNet:
    """The network of these settings (of the command line, or of a checkpoint)."""
    norb = settings["data"] == "norb"
    routing = {key: settings[key] for key in ("num_iters", "final_temperature", "fused")}
    return MatrixCapsNet(*settings["widths"], num_classes=5 if norb else 10, in_channels=2 if norb else 1, **routing)


def test(
    run: Run, model: MatrixCapsNet, settings: Settings, tests: Mapping[str, EpochDataset], data_sha256: str
) -> dict[str, Any]:
    """Score the last epoch once on images it never saw, write figures and metrics.json."""
    checkpoint = load_checkpoint(run.best, "MatrixCapsNet")
    model.load_state_dict(checkpoint["model"])
    values = report(run.folder, model.eval(), settings.plain(), run.writer, tests, checkpoint["global_step"])
    validation = {f"validation_{name}": value for name, value in checkpoint["best"]["values"].items()}
    return run.finish({**values, **validation, "epoch": checkpoint["epoch"]}, data_sha256)


def report(
    folder: Path,
    model: MatrixCapsNet,
    settings: Mapping[str, Any],
    writer: SummaryWriter | None = None,
    tests: Mapping[str, EpochDataset] | None = None,
    step: int = 0,
) -> dict[str, float]:
    """Score the model, in evaluation mode, on its test images (None: load them), print the errors, write the
    figures.
    """
    tests = load_tests(settings) if tests is None else tests
    bf16 = settings["precision"] == "bf16"
    values = {name: errors(model, dataset, bf16)["error"] for name, dataset in tests.items()}
    print(", ".join(f"test {name} {value:.4f}" for name, value in values.items()))
    some = list(range(min(300, len(tests["error"]))))
    pictures = hinton_figures.matrix_figures(model, *tests["error"].__getitems__(some))
    figures.write(folder / "figures", pictures, writer, step)
    return values


if __name__ == "__main__":
    run_main(main)
