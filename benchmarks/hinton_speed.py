"""Speed and memory of the two Hinton networks: forward and backward, each measurement in a process of its own.

    python benchmarks/hinton_speed.py                       # the CPU rows of capsnet/HINTON.md
    python benchmarks/hinton_speed.py --only matrix         # one of them
    python benchmarks/hinton_speed.py --device cuda         # with the fused kernels beside the plain forms

Floor of CapsNet: its two convolutions alone, forward and backward, which are 98 % of its operations. Peak memory is
what the process held at most, beyond what it held with torch imported.
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

from capsnet.em_routing import inverse_temperatures
from capsnet.matrix import MatrixCapsNet
from capsnet.sabour import CapsNet, capsnet_loss
from capsnet.window_routing import conv_windows, route_windows
from trainer import UserError, run_main

CASES = ("floor", "floor bf16", "capsnet", "capsnet bf16", "small", "small bf16", "matrix", "matrix wide")
CUDA_CASES = ("dynamic plain", "dynamic fused", "em plain", "em fused")


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
    """A function that runs forward and returns a loss, and the images a call."""
    torch.manual_seed(0)
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
    if kind in ("matrix", "matrix wide"):
        widths = (64, 8, 16, 16) if kind == "matrix" else (32, 32, 32, 32)
        model, images = MatrixCapsNet(*widths).to(device), torch.rand(32, 1, 32, 32, device=device)
        return lambda: model(images).sum(), 32
    return make_routing(kind), 128


def make_routing(kind: str) -> Callable[[], Tensor]:
    """The routing of CapsNet, or of the first capsule layer of (64, 8, 16, 16), 128 images, on the GPU."""
    from capsnet.triton_routing import fused_route, fused_route_windows

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", requires_grad=True)

    if kind.startswith("dynamic"):
        model = CapsNet().cuda().classes
        u, fused = leaf(128, 1152, 8), kind.endswith("fused")
        return lambda: (fused_route(u, model.weight) if fused else model(u)).sum()
    route = fused_route_windows if kind.endswith("fused") else route_windows
    windows = conv_windows(14, 14, 3, 2, torch.device("cuda"))
    tensors = leaf(128, 196, 8, 16), torch.rand(128, 196, 8, device="cuda"), leaf(9, 8, 16, 4, 4), leaf(16), leaf(16)
    schedule = inverse_temperatures(2)
    return lambda: sum(x.sum() for x in route(*tensors, windows, schedule))  # type: ignore[return-value]


def measure(settings: Settings) -> None:
    """Print the best and the median seconds of forward and backward, and the peak memory in MiB."""
    torch.set_num_threads(settings.threads)
    cuda = settings.device == "cuda"
    before = high_water()
    call, images = make(settings.case, settings.device)
    seconds = []
    for _ in range(settings.repeats + 1):
        begin = time.perf_counter()
        call().backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else high_water() - before
    print(images, min(seconds[1:]), statistics.median(seconds[1:]), peak)


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
    if not cases:
        raise UserError(f"--only {settings.only}: no case begins so; there are {', '.join(every)}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave the flag out to measure the CPU")
    print(
        f"{settings.threads} thread(s), {settings.device}; forward and backward, best and median of {settings.repeats}"
    )
    print("| case | images | best ms | images/s | median images/s | peak MiB |")
    print("|---|---|---|---|---|---|")
    for case in cases:
        flags = ["--case", case, "--repeats", str(settings.repeats), "--threads", str(settings.threads)]
        command = [sys.executable, __file__, *flags, "--device", settings.device]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"{case}: {(result.stderr.splitlines() or ['ended without a word'])[-1]}")
        images, best, median, peak = map(float, result.stdout.split())
        cells = [case, f"{images:.0f}", f"{1e3 * best:.0f}", f"{images / best:.1f}", f"{images / median:.1f}"]
        print("| " + " | ".join([*cells, f"{peak:.0f}"]) + " |", flush=True)


if __name__ == "__main__":
    run_main(main)
