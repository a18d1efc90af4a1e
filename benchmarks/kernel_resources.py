"""What the fused kernels take of a GPU: registers, spilled bytes, shared memory; compiled here, so no GPU is needed.

    python benchmarks/kernel_resources.py             # for compute capability 9.0 (H100, H200)
    python benchmarks/kernel_resources.py --arch 80   # A100

Shapes: CapsNet on 28x28 images, and the layers of matrix capsules 64, 8, 16, 16 and 32, 32, 32, 32. Nothing is assumed
of the addresses; a launch that finds them aligned compiles anew and may take a few registers more or less.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from trainer import UserError, run_main

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from capsnet import triton_routing as kernels
except ImportError as error:
    sys.exit(f"error: {error}; the kernels need Triton, which comes with torch on Linux")

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
INTEGERS = {"parent", "slot"}  # tables; every other pointer is to float32
SCALARS = {"batch", "num_inputs", "num_outputs", "K", "C", "num_positions", "num_slots"}
DYNAMIC = {"N": 8, "O": 16, "D": 16, "BI": kernels.BLOCK_INPUTS, "IMAGES": kernels.IMAGES}
EM = {  # positions of parents that see a child, and those times the kinds of parents, to a power of two
    "3x3, stride 2, to 16 kinds": {"Q": 4, "R": 64},
    "3x3, stride 1, to 16 kinds": {"Q": 9, "R": 256},
    "3x3, stride 2, to 32 kinds": {"Q": 4, "R": 128},
    "3x3, stride 1, to 32 kinds": {"Q": 9, "R": 512},
    "to 10 classes": {"Q": 1, "R": 16},
}


@dataclass(frozen=True)
class Settings:
    """Compile the routing kernels for a GPU that need not be here."""

    arch: Literal[80, 86, 89, 90] = 90
    """compute capability, times ten; LLVM ends the process on those it does not know"""
    only: str = ""
    """just the rows with this in their name"""


def resources(kernel: Any, constants: Mapping[str, int], warps: int, arch: int) -> str:
    """Registers a thread, bytes a thread spills (stores, loads), bytes of shared memory a program."""
    signature = {name: _type(name, constants) for name in kernel.arg_names}
    fixed = {(place,): constants[name] for place, name in enumerate(kernel.arg_names) if name in constants}
    source = ASTSource(kernel, signature, fixed)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(compiled.asm["ptx"], encoding="utf-8")
        gpu = re.findall(r"\.target (\w+)", compiled.asm["ptx"])[0]
        command = [str(PTXAS), "-v", "--gpu-name", gpu, str(path), "-o", str(Path(folder, "kernel.cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    stores, loads = (re.findall(rf"(\d+) bytes spill {what}", said)[0] for what in ("stores", "loads"))
    registers = re.findall(r"Used (\d+) registers", said)[0]
    return f"{registers} | {stores}, {loads} | {compiled.metadata.shared:,}"


def _type(name: str, constants: Mapping[str, int]) -> str:
    if name in constants:
        return "constexpr"
    if name in SCALARS:
        return "i32"
    return "*i32" if name in INTEGERS else "*fp32"


def main(argv: Sequence[str] | None = None) -> None:
    settings = tyro.cli(Settings, args=argv)
    if triton.knobs.runtime.interpret:
        raise UserError("TRITON_INTERPRET is set: the kernels would be interpreted, not compiled; unset it")
    layers = [("dynamic", "1,152 inputs of 8 to 10 of 16", DYNAMIC, kernels.DYNAMIC_WARPS)]
    layers += [("em", shape, constants, kernels.em_warps(constants["R"])) for shape, constants in EM.items()]
    rows = [(f"{layer[0]} {direction}", direction, layer) for layer in layers for direction in ("forward", "backward")]
    rows = [row for row in rows if settings.only in row[0]]
    if not rows:
        raise UserError(
            f"--only {settings.only}: no row has this in its name; there are dynamic and em, forward and backward"
        )
    print("| kernel | shape | warps | registers | spilled bytes (stores, loads) | shared bytes |")
    print("|---|---|---|---|---|---|")
    for name, direction, (routing, shape, constants, warps) in rows:
        found = resources(getattr(kernels, f"_{routing}_{direction}"), constants, warps, settings.arch)
        print(f"| {name} | {shape} | {warps} | {found} |", flush=True)


if __name__ == "__main__":
    run_main(main)
