"""The capsule layer alone, against explicit votes: forward and backward time and peak memory, by number of inputs.

    python benchmarks/routing_layer.py

Rivals: `route` on votes built by einsum (the fastest of the public PyTorch forms, labml's) and, for the full transform,
the broadcast matrix product of XifengGuo's and gram-ai's CapsNets. Medians over repeats taken in turn, one thread,
float32, B = 64, 10 outputs of 16 dimensions, 3 iterations. Peak memory is what one forward and backward adds to a
process of its own that already holds inputs, weights and their gradients.

Floor of the shared transform: 2 (r - 1) products of inputs and couplings or centres, forward and twice that backward,
12 (r - 1) B I O N FLOP for r iterations. The votes, where they are made, are 4 B I O D bytes, written once and read 2
r - 1 times forward.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from capsnet import CapsuleLayer, route
from trainer import run_main

OUT_CAPS, OUT_DIM, NUM_ITERS = 10, 16, 3
CASES = [("shared", 128, inputs) for inputs in (64, 256, 1152, 4096)] + [
    ("full", 8, inputs) for inputs in (64, 256, 1152, 4096)
]


@dataclass(frozen=True)
class Settings:
    """Time and memory of the routing layer against explicit votes."""

    batch: int = 64
    """images"""
    repeats: int = 7
    """measurements of each, taken in turn"""
    routing: str = "kmeans"
    """see capsnet.train"""
    measure_memory: str = ""
    """(internal) one case in this process: transform,in_dim,inputs,how"""


def make(transform: str, in_dim: int, inputs: int, batch: int, routing: str) -> tuple[CapsuleLayer, Tensor]:
    torch.manual_seed(0)
    layer = CapsuleLayer(
        in_dim,
        OUT_CAPS,
        OUT_DIM,
        in_caps=None if transform == "shared" else inputs,
        transform=transform,  # type: ignore[arg-type]
        routing=routing,  # type: ignore[arg-type]
        num_iters=NUM_ITERS,
    )
    return layer, torch.randn(batch, inputs, in_dim, requires_grad=True)


def forms(layer: CapsuleLayer, u: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same function of the same inputs and weights, three ways."""
    shared = layer.transform == "shared"

    def einsum() -> Tensor:
        votes = torch.einsum("bin,nod->biod" if shared else "bin,inod->biod", u, layer.weight)
        return route(votes, layer.routing, NUM_ITERS)

    def broadcast() -> Tensor:
        matrices = layer.weight.permute(0, 2, 3, 1)  # (I, O, D, N)
        votes = (matrices @ u[:, :, None, :, None]).squeeze(4)  # (B, I, O, D)
        return route(votes, layer.routing, NUM_ITERS)

    rivals = {"einsum": einsum} if shared else {"einsum": einsum, "broadcast": broadcast}
    return {"ours": lambda: layer(u), **rivals}


def seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def measure(settings: Settings, case: tuple[str, int, int]) -> dict[str, dict[str, float]]:
    """Median milliseconds of each form, forward alone and with backward, taken in turn."""
    layer, u = make(*case, settings.batch, settings.routing)
    calls = forms(layer, u)
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "both": []} for name in calls}
    expected = calls["einsum"]()
    for repeat in range(settings.repeats + 1):
        for name, call in calls.items():
            forward, both = seconds(call), seconds(lambda c=call: c().sum().backward())
            assert torch.allclose(call(), expected, atol=1e-4)
            if repeat:  # the first is a warm-up
                times[name]["forward"].append(1e3 * forward)
                times[name]["both"].append(1e3 * both)
    return {name: {kind: statistics.median(v) for kind, v in kinds.items()} for name, kinds in times.items()}


def peak(settings: Settings, case: tuple[str, int, int], how: str) -> float:
    """MiB that one forward and backward adds to the peak of a process of its own that holds inputs, weights,
    gradients.
    """
    spec = ",".join(map(str, [*case, how]))
    command = [sys.executable, __file__, "--batch", str(settings.batch), "--routing", settings.routing]
    result = subprocess.run([*command, "--measure-memory", spec], capture_output=True, text=True, check=True)
    return float(result.stdout)


def measure_memory(settings: Settings) -> None:
    transform, in_dim, inputs, how = settings.measure_memory.split(",")
    layer, u = make(transform, int(in_dim), int(inputs), settings.batch, settings.routing)
    warm, tiny = make(transform, int(in_dim), 2, 1, settings.routing)
    forms(warm, tiny)[how]().sum().backward()  # libraries take their own memory at their first call
    for parameter in (u, *layer.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = high_water()
    forms(layer, u)[how]().sum().backward()
    print(high_water() - before)


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    settings = tyro.cli(Settings, args=argv)
    torch.set_num_threads(1)
    if settings.measure_memory:
        measure_memory(settings)
        return
    print(f"B = {settings.batch}, O = {OUT_CAPS}, D = {OUT_DIM}, {settings.routing} x {NUM_ITERS}; 1 thread, CPU ms")
    print("| transform | in_dim | I | votes MiB | form | forward ms | both ms | both, x ours | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        transform, in_dim, inputs = case
        found = measure(settings, case)
        votes = 4 * settings.batch * inputs * OUT_CAPS * OUT_DIM / 2**20
        for name, times in found.items():
            ratio = times["both"] / found["ours"]["both"]
            cells = [transform, in_dim, inputs, f"{votes:.0f}", name, f"{times['forward']:.1f}", f"{times['both']:.1f}"]
            cells += [f"{ratio:.2f}", f"{peak(settings, case, name):.0f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    run_main(main)
