"""Twenty steps of training under Keras 3 and here end in the same weights: benchmarks/keras_parity.py, run apart."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed (extra: keras)")
@pytest.mark.parametrize("network", ["sentences", "digits"])
def test_twenty_steps(network: str):
    """float64, where rounding decides nothing: within 1e-4 (seen: 2e-7 and 4e-9) while weights move by 1e-2."""
    command = [sys.executable, str(ROOT / "benchmarks" / "keras_parity.py"), "--networks", network]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--precisions", "float64", "--seeds", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, row = (line.split("\t") for line in done.stdout.splitlines()[-2:])
    values = dict(zip(header[3:], map(float, row[3:]), strict=True))
    assert values["weights_moved"] > 1e-2
    assert values["weights_apart"] < 1e-4
    assert values["losses_apart"] < 1e-4
