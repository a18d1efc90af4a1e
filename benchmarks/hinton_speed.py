"""Speed and memory of the two Hinton networks: forward and backward, each measurement in a process of its own.

    python benchmarks/hinton_speed.py                       # the CPU rows of capsnet/HINTON.md
    python benchmarks/hinton_speed.py --only matrix         # one of them
    python benchmarks/hinton_speed.py --device cuda         # with the fused kernels beside the plain forms

Floor of CapsNet: its two convolutions alone, forward and backward, which are 98 % of its operations. Floor of a
routing: what it cannot but read and write, at the speed at which the same process copies a large tensor; the share of
that speed stands in the last column. Peak memory is what the process held at most, beyond what it held with torch
imported.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from capsnet.matrix import MatrixCapsNet, MatrixCapsuleConv2d
from capsnet.sabour import CapsNet, capsnet_loss
from trainer import UserError, run_main

NETWORKS = ("floor", "floor bf16", "capsnet", "capsnet bf16", "small", "small bf16", "matrix", "matrix wide")
CASES = (*NETWORKS, "dynamic plain", "em plain")
CUDA_CASES = ("dynamic fused", "em fused")
IMAGES = 128  # a call, of the routings


@dataclass(frozen=True)
class Settings:
    """Images a second and peak memory of CapsNet, its small variant and matrix capsules."""

    only: str = ""
    """the cases whose name begins so"""
    repeats: int = 3
    """measurements after one to warm up; the best and the median are shown"""
    threads: int = 1
    """of torch"""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: also the fused kernels"""
    case: Annotated[str, tyro.conf.arg(help="(internal) one case in this process")] = ""


def make(case: str, device: str) -> tuple[Callable[[], Tensor], int]:
    """A function that runs forward of a network and returns a loss, and the images a call."""
    bf16 = case.endswith("bf16")
    kind = case.removesuffix(" bf16")
    if kind in ("floor", "capsnet", "small"):
        images, labels = torch.rand(64, 1, 28, 28, device=device), torch.randint(10, (64, 1), device=device)
        if kind == "floor":
            model: nn.Module = nn.Sequential(nn.Conv2d(1, 256, 9), nn.ReLU(), nn.Conv2d(256, 256, 9, 2)).to(device)
        else:
            model = CapsNet(network="small" if kind == "small" else "paper").to(device)

        def capsnet() -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                if kind == "floor":
                    return model(images).float().sum()
                lengths, drawn = model(images, labels)
                return capsnet_loss(lengths, labels, drawn, images.unsqueeze(1))["loss"]

        return capsnet, 64
    widths = (64, 8, 16, 16) if kind == "matrix" else (32, 32, 32, 32)
    model, images = MatrixCapsNet(*widths).to(device), torch.rand(32, 1, 32, 32, device=device)
    return lambda: model(images).sum(), 32


def make_routing(case: str, device: str) -> tuple[Callable[[], Tensor], int, int]:
    """The routing of CapsNet, or of the first capsule layer of (64, 8, 16, 16) on 32x32 pixels, three iterations and
    two: its forward pass, images a call, and the bytes that forward and backward cannot do without.
    """
    fused = case.endswith("fused")

    def leaf(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device).requires_grad_()

    if case.startswith("dynamic"):
        layer: nn.Module = CapsNet(decoder=False, fused=fused).classes
        inputs, outputs = [leaf(IMAGES, 1152, 8)], IMAGES * 10 * 16
    else:
        layer = MatrixCapsuleConv2d(8, 16, 3, 2, num_iters=2, fused=fused)
        inputs, outputs = [leaf(IMAGES, 13, 13, 8, 4, 4), leaf(IMAGES, 13, 13, 8)], IMAGES * 36 * 16 * 17
    layer.to(device)
    read = sum(x.numel() for x in (*inputs, *layer.parameters()))

    def call() -> Tensor:
        found = layer(*inputs)
        return found.sum() if isinstance(found, Tensor) else found[0].sum() + found[1].sum()

    # what is read by both passes, and its gradients; outputs and their gradients
    return call, IMAGES, 4 * (3 * read + 2 * outputs)


def copy_speed(device: str) -> float:
    """Bytes a second that a copy of a quarter of a gigabyte reads and writes, the best of five."""
    source, target = torch.ones(2, 2**26, device=device)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * source.nbytes / min(seconds)


def measure(settings: Settings) -> None:
    """Print the best and the median seconds of forward and backward, and the peak memory in MiB."""
    torch.set_num_threads(settings.threads)
    cuda = settings.device == "cuda"
    torch.manual_seed(0)
    before = high_water()
    if settings.case in NETWORKS:
        (call, images), needed = make(settings.case, settings.device), 0
    else:
        call, images, needed = make_routing(settings.case, settings.device)
    seconds = []
    for _ in range(settings.repeats + 1):
        begin = time.perf_counter()
        call().backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else high_water() - before
    share = 100 * needed / min(seconds[1:]) / copy_speed(settings.device) if needed else 0
    print(images, min(seconds[1:]), statistics.median(seconds[1:]), peak, share)


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    settings = tyro.cli(Settings)
    if settings.case:
        measure(settings)
        return
    every = CASES + (CUDA_CASES if settings.device == "cuda" else ())
    cases = [name for name in every if name.startswith(settings.only)]
    for name in ("repeats", "threads"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(settings, name)}")
    if not cases:
        raise UserError(f"--only {settings.only}: no case begins so; there are {', '.join(every)}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave the flag out to measure the CPU")
    print(
        f"{settings.threads} thread(s), {settings.device}; forward and backward, best and median of {settings.repeats}"
    )
    print("| case | images | best ms | images/s | median images/s | peak MiB | % of the memory's speed |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        flags = ["--case", case, "--repeats", str(settings.repeats), "--threads", str(settings.threads)]
        command = [sys.executable, __file__, *flags, "--device", settings.device]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"{case}: {(result.stderr.splitlines() or ['ended without a word'])[-1]}")
        images, best, median, peak, share = map(float, result.stdout.split())
        cells = [case, f"{images:.0f}", f"{1e3 * best:.0f}", f"{images / best:.1f}", f"{images / median:.1f}"]
        print("| " + " | ".join([*cells, f"{peak:.0f}", f"{share:.2g}" if share else ""]) + " |", flush=True)


if __name__ == "__main__":
    run_main(main)
