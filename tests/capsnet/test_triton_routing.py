"""The fused kernels: compiled where there is a GPU, else on the CPU through Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_equal_the_plain_forms():
    pytest.importorskip("triton", reason="no Triton here: the plain forms serve")
    cases = ROOT / "tests" / "capsnet" / "triton_cases.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert "16 passed" in result.stdout


def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    pytest.importorskip("triton", reason="no Triton here: the plain forms serve")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "kernel_resources.py")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[2:]]
    assert len(rows) == 12
    for kernel, shape, _, registers, spilled, shared in rows:
        assert int(registers) <= 255
        # with Triton's own four warps the widest layer spills 1,988
        assert max(map(int, spilled.split(","))) <= 100, (kernel, shape)
        assert int(shared.replace(",", "")) <= 48 * 1024
