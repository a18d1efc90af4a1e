"""Training throughput of DigitCapsNet against the original's algorithm under Keras, in turn on this machine.

    python benchmarks/train_throughput.py --data-root DATA --keras-python /path/to/env/with/tensorflow/bin/python

Each turn trains Keras, ours in float32, in bfloat16 and in bfloat16 compiled for the same passes over the same images
(batch 128, Adam 1e-3, the article's network and loss) and tests on the same digits, so that speed is compared at equal
accuracy. Work: 231 MFLOP an image, forward and backward, in the four convolutions (conv 2 alone is 55 % of it). The
floor is measured too: those convolutions alone, forward and backward, without activations, capsules or optimiser.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from capsnet import DigitCapsNet
from capsnet.data import Digits, load
from capsnet.multidigit import predict
from losses import capsule_margin
from trainer import run_main, seed_everything

MFLOP = 230.6  # an image, forward and backward


@dataclass(frozen=True)
class Settings:
    """Images a second in training, Keras and ours in turn."""

    data_root: Path = Path("data")
    """folder of MNIST's IDX files"""
    keras_python: str = sys.executable
    """python of an environment with keras and a backend"""
    backend: str = "tensorflow"
    """Keras backend: tensorflow, torch or jax"""
    images: int = 20_000
    """training images a pass"""
    passes: int = 2
    """passes a turn; the accuracy is that after the last"""
    turns: int = 3
    """repeats, the three taken in turn"""
    threads: int = 2
    """of ours; Keras takes all cores"""


def train_keras(settings: Settings, archive: Path) -> tuple[list[float], float]:
    environment = {**os.environ, "KERAS_BACKEND": settings.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [
        settings.keras_python,
        str(Path(__file__).with_name("keras_digits.py")),
        str(archive),
        str(settings.passes),
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"error: the Keras side failed:\n{result.stderr[-2000:]}")
    found = json.loads(result.stdout.splitlines()[-1])
    return found["seconds"], found["accuracy"][-1]


def train_ours(
    settings: Settings, digits: Digits, test: Digits, bf16: bool, compiled: bool
) -> tuple[list[float], float]:
    seed_everything(0)
    network = DigitCapsNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = torch.compile(network) if compiled else network
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7)

    def step(index: torch.Tensor) -> None:
        images = digits.images[index].unsqueeze(1).float() / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scores = model(images)
        loss = capsule_margin(scores.float(), digits.labels[index], down_weight=0.25)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(2):
        step(torch.arange(128))  # as Keras's warm-up
    seconds = []
    for _ in range(settings.passes):
        begin = time.perf_counter()
        for index in torch.randperm(len(digits)).split(128):
            step(index)
        seconds.append(time.perf_counter() - begin)
    scores = predict(network, test.images, bf16)
    return seconds, (scores.argmax(dim=1) == test.labels).float().mean().item()


def convolutions_alone(dtype: torch.dtype, repeats: int = 10) -> float:
    """Images a second if a step were its four convolutions and nothing else: the floor of the direct algorithm."""
    total = 0.0
    for in_width, out_width, size in ((1, 64, 28), (64, 64, 26), (64, 128, 12), (128, 128, 10)):
        x, weight, grad = (
            torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)
            for shape in (
                (128, in_width, size, size),
                (out_width, in_width, 3, 3),
                (128, out_width, size - 2, size - 2),
            )
        )
        bias = torch.zeros(out_width, dtype=dtype)
        wanted = [in_width > 1, True, True]  # gradients of input, weight, bias: the image needs none
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, bias)
            torch.ops.aten.convolution_backward(
                grad, x, weight, [out_width], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
            )
            times.append(time.perf_counter() - begin)
        total += statistics.median(times)
    return 128 / total


def main(argv: Sequence[str] | None = None) -> None:
    """Print medians, ratios and the work done."""
    settings = tyro.cli(Settings, args=argv)
    torch.set_num_threads(settings.threads)
    digits, test = (
        load("mnist", "train", settings.data_root)[torch.arange(settings.images)],
        load("mnist", "test", settings.data_root),
    )
    names = ["keras", "ours fp32", "ours bf16", "ours bf16 compiled"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    accuracy: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "digits.npz"
        np.savez(archive, x=digits.images, y=digits.labels, x_test=test.images, y_test=test.labels)
        for _ in tqdm(range(settings.turns), desc="turns"):
            for name in seconds:
                found = (
                    train_keras(settings, archive)
                    if name == "keras"
                    else train_ours(settings, digits, test, "bf16" in name, "compiled" in name)
                )
                seconds[name] += found[0]
                accuracy[name].append(found[1])
    keras = statistics.median(seconds["keras"])
    print(f"{settings.images} images a pass, {settings.turns} turns of {settings.passes}, keras on {settings.backend}")
    print("| | images/s (median, least to most) | x keras | GFLOP/s | accuracy after a turn, % |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        rate = [settings.images / s for s in values]
        middle = statistics.median(rate)
        tested = f"{100 * statistics.mean(accuracy[name]):.2f}"
        span = f"{middle:.0f} ({min(rate):.0f} to {max(rate):.0f})"
        print(f"| {name} | {span} | {keras / statistics.median(values):.2f} | {middle * MFLOP / 1e3:.0f} | {tested} |")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rate_alone = convolutions_alone(dtype)
        ratio, work = keras * rate_alone / settings.images, rate_alone * MFLOP / 1e3
        print(f"| floor: convolutions alone, {name} | {rate_alone:.0f} | {ratio:.2f} | {work:.0f} | |")


if __name__ == "__main__":
    run_main(main)
