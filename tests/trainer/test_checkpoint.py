import errno
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from trainer import (
    UserError,
    entries_of,
    load_checkpoint,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
    seed_everything,
    write_atomically,
)


def test_round_trip_needs_no_unpickling(tmp_path):
    content = {
        "model_name": "Net",
        "x": torch.arange(3),
        "nested": {"a": [1, 2.5, None, "字"]},
        "random": random_state(),
    }
    save_checkpoint(tmp_path / "deep" / "last.pt", content)
    found = load_checkpoint(tmp_path / "deep" / "last.pt", "Net")
    assert found["nested"] == content["nested"]
    assert torch.equal(found["x"], content["x"])
    assert os.listdir(tmp_path / "deep") == ["last.pt"]


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model_name": "Net", "x": 1})

    def full(file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"last.pt: could not be written .*No space left.*intact"):
        write_atomically(path, full)
    assert load_checkpoint(path)["x"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_limit_reached_while_torch_writes_keeps_the_earlier_checkpoint(tmp_path):
    """A real failed write(2), deep within torch.save: the process may not write files beyond 1 MB."""
    script = """
import resource, signal, sys
from pathlib import Path
import torch
from trainer import UserError, save_checkpoint
path = Path(sys.argv[1])
save_checkpoint(path, {"x": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    save_checkpoint(path, {"x": torch.zeros(2**20)})
except UserError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "last.pt")], capture_output=True, text=True, check=True
    )
    assert "could not be written" in result.stdout
    assert load_checkpoint(tmp_path / "last.pt")["x"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_is_executed_and_bad_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    with pytest.raises(UserError, match=r"x.pt: no checkpoint there"):
        load_checkpoint(path)
    torch.save({"format": 1, "x": Payload()}, path)
    with pytest.raises(UserError, match=r"x.pt: not a readable checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(UserError, match=r"x.pt: not a readable checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"model_name": "Net"})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"x.pt: not a readable checkpoint"):
        load_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(UserError, match=r"not a checkpoint of this repository, format 1 \(found None\)"):
        load_checkpoint(path)
    save_checkpoint(path, {"model_name": "Net"})
    with pytest.raises(UserError, match=r"a checkpoint of Net, but Other was expected"):
        load_checkpoint(path, "Other")
    message = r"x.pt: not a whole checkpoint of this version: 'settings' is missing"
    with pytest.raises(UserError, match=message), entries_of(path):
        load_checkpoint(path, "Net")["settings"]


def test_weights_that_do_not_fit_are_listed(tmp_path):
    weights = {"weight": torch.zeros(3, 2), "extra": torch.zeros(1)}
    with pytest.raises(UserError, match=r"bias missing; extra unexpected; weight is \(3, 2\) there, \(3, 4\) here"):
        load_weights(torch.nn.Linear(4, 3), weights, tmp_path / "x.pt")


def test_random_state_round_trip(tmp_path):
    seed_everything(5)
    save_checkpoint(tmp_path / "x.pt", {"random": random_state()})

    def draw():
        return random.random(), np.random.rand(), torch.rand(3).tolist(), np.random.randn()  # noqa: NPY002

    first = draw()
    seed_everything(6)
    assert draw() != first
    restore_random_state(load_checkpoint(tmp_path / "x.pt")["random"])
    assert draw() == first
    seed_everything(5)
    assert draw() == first
