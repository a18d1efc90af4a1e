r"""Spectra a second: training and inference of the article's network at 2600 points, ours, Keras's and the peers' in
turn; reading FITS files; simulating.

    python benchmarks/spectra_speed.py --folder DATA/spectra --threads 2 \
        --keras-python PYTHON --tsai-python PYTHON --aeon-python PYTHON    # of environments that hold these packages

Work of the network: 0.13 GFLOP a spectrum forward, three times that to train (2 x multiply-adds of the convolutions).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from command import with_threads
from torch import nn

from spectra import SpectraNet, read_spectrum, simulate
from trainer import run_main, seed_everything

SIZE, BATCH = 2600, 160


@dataclass(frozen=True)
class Settings:
    """Speeds, in turn on this machine."""

    folder: Path | None = None
    """with lamost/ and sdss/, to read; empty: reading is left out"""
    keras_python: str = ""
    """python of an environment with keras and a backend; empty: Keras is left out"""
    tsai_python: str = ""
    """python of an environment with tsai; empty: InceptionTime is left out"""
    aeon_python: str = ""
    """python of an environment with aeon; empty: MiniRocket is left out"""
    steps: int = 3
    """training steps of 160 a turn"""
    turns: int = 2
    """repeats, in turn"""
    threads: int = 1
    """of ours and of each peer"""


def flop() -> float:
    """Multiply-adds, doubled, of the convolutions for one spectrum."""
    total, size = 0.0, SIZE
    for block in SpectraNet().blocks:
        total += sum(2 * size * m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv1d))
        size //= 2
    return total


def train(bf16: bool, steps: int) -> float:
    """Spectra a second."""
    seed_everything(0)
    model = SpectraNet()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7)
    x, labels = torch.randn(BATCH, 1, SIZE), torch.randint(0, 4, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scores = model(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores.float(), labels).backward()
        optimizer.step()

    step()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - begin)


@torch.no_grad()
def infer(bf16: bool, steps: int) -> float:
    """Spectra a second, in batches of 64."""
    model, x = SpectraNet().eval(), torch.randn(64, 1, SIZE)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(x)
        begin = time.perf_counter()
        for _ in range(4 * steps):
            model(x)
    return 4 * steps * 64 / (time.perf_counter() - begin)


def keras(settings: Settings, what: str) -> float:
    """Spectra a second of the article's network in Keras: one epoch of ``steps``, or inference."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("", 256), ("_valid", 8), ("_test", 4 * settings.steps * 64 if what == "infer" else 8)):
            np.save(Path(folder) / f"x{name}.npy", rng.standard_normal((count, SIZE), dtype=np.float32))
            np.save(Path(folder) / f"y{name}.npy", np.arange(count) % 4)
        script = str(Path(__file__).with_name("keras_spectra.py"))
        epochs = ("0", "0") if what == "infer" else ("2", "0")  # the first epoch traces and compiles
        command = [settings.keras_python, script, folder, *epochs, str(settings.steps), "0", str(BATCH)]
        environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **with_threads(settings.threads)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"error: the Keras side failed:\n{result.stderr[-2000:]}")
    found = json.loads(result.stdout.splitlines()[-1])
    if what == "infer":
        return found["spectra"] / found["inference_seconds"]
    return settings.steps * BATCH / found["seconds"][-1]


def peer(settings: Settings, python: str, name: str, what: str) -> float:
    """Spectra a second of another package's model (`spectra_peers.py`)."""
    script = str(Path(__file__).with_name("spectra_peers.py"))
    command = [python, script, name, what, "--steps", str(settings.steps), "--threads", str(settings.threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"error: {name} failed:\n{result.stderr[-2000:]}")
    return float(result.stdout.split()[-1])


def read(paths: Sequence[Path]) -> float:
    """Files a second."""
    read_spectrum(paths[0])
    begin = time.perf_counter()
    for path in paths:
        read_spectrum(path)
    return len(paths) / (time.perf_counter() - begin)


def simulated() -> float:
    """Spectra a minute."""
    simulate(1, 0)
    begin = time.perf_counter()
    simulate(2048, 0)
    return 60 * 2048 / (time.perf_counter() - begin)


def main(argv: Sequence[str] | None = None) -> None:
    """Print medians of the turns."""
    settings = tyro.cli(Settings, args=argv)
    torch.set_num_threads(settings.threads)
    work: dict[str, Callable[[], float]] = {}
    for what, function in (("train", train), ("infer", infer)):
        for bf16 in (False, True):
            work[f"{what}, ours {'bf16' if bf16 else 'fp32'}"] = lambda f=function, b=bf16: f(b, settings.steps)  # type: ignore[misc]
        if settings.keras_python:
            work[f"{what}, keras"] = lambda w=what: keras(settings, w)  # type: ignore[misc]
        for name, python in (("inceptiontime", settings.tsai_python), ("minirocket", settings.aeon_python)):
            if python:
                work[f"{what}, {name}"] = lambda p=python, n=name, w=what: peer(settings, p, n, w)  # type: ignore[misc]
    if settings.folder is not None:
        for name in ("lamost", "sdss"):
            paths = sorted((settings.folder / name).glob("*.fits*"))
            work[f"FITS files read, {name}"] = lambda p=paths: read(p)  # type: ignore[misc]
    work["simulated a minute"] = simulated
    speeds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(settings.turns):
        for name, function in work.items():
            speeds[name].append(function())
    print(f"{settings.threads} thread(s); {flop() / 1e9:.2f} GFLOP a spectrum forward")
    print("| | a second (median, least to most) |")
    print("|---|---|")
    for name, values in speeds.items():
        print(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) |")


if __name__ == "__main__":
    run_main(main)
