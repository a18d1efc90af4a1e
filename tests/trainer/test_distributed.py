"""Two processes under torchrun against one, on the same global batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from capsnet import DigitCapsNet
from trainer import UserError, load_checkpoint, world

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--data", "digits", "--epochs", "1", "--batch-size", "64", "--shift", "2", "--widths", "8", "8", "16", "16"]
# Adam makes a whole step of a gradient that rounding moved across zero, so weights differ by a share of the rate: with
# 1e-4 and 20 steps they move by 2e-3, and rounding by 2e-6
FLAGS += ["--lr", "1e-4"]


def test_two_processes_equal_one(tmp_path):
    outcomes = {}
    for count in (1, 2):
        launcher = [] if count == 1 else ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        command = [
            sys.executable,
            "-m",
            *launcher,
            "capsnet.train",
            *FLAGS,
            "--out",
            str(tmp_path),
            "--name",
            f"by{count}",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        outcomes[count] = load_checkpoint(tmp_path / "capsnet" / f"by{count}" / "last.pt")
    assert outcomes[2]["global_step"] == outcomes[1]["global_step"] == 20
    torch.manual_seed(0)
    start = DigitCapsNet(widths=(8, 8, 16, 16)).state_dict()
    assert max((outcomes[1]["model"][name] - weight).abs().max() for name, weight in start.items()) > 1e-3
    for name, expected in outcomes[1]["model"].items():
        torch.testing.assert_close(outcomes[2]["model"][name], expected, atol=1e-5, rtol=0)  # another order of the sums


def test_no_gpu_is_said_plainly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch sees no GPU here"), world("cuda"):
        pass
