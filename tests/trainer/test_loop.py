import os
import signal

import pytest
import torch
from torch import nn

from trainer import (
    EpochBatches,
    Interrupted,
    Run,
    RunSettings,
    Trainer,
    UserError,
    World,
    load_checkpoint,
    seed_everything,
    shuffled,
)
from trainer.report import environment, write_json

ALONE = World(0, 1, torch.device("cpu"))


class Points:
    """y = x @ (1, -2, 3), with noise that is drawn once an epoch."""

    def __init__(self, count=40):
        self.x = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
        self.y = self.x @ torch.tensor([1.0, -2.0, 3.0])
        self.set_epoch(0)

    def __len__(self):
        return len(self.x)

    def set_epoch(self, epoch):
        self.noise = 0.01 * torch.randn(len(self), generator=torch.Generator().manual_seed(epoch))

    def __getitems__(self, indices):
        return self.x[indices], self.y[indices] + self.noise[indices]


class Regression(nn.Module):
    """Dropout makes every step depend on the state of the global generator."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 1), nn.Dropout(0.2)

    def forward(self, x):
        return self.linear(self.dropout(x)).squeeze(1)


def train(folder, stop_at=None, spoil_at=None, validate=None, **settings):
    """One run; ``stop_at`` sends Ctrl-C before that step, ``spoil_at`` makes the loss of that step infinite."""
    run = Run(RunSettings(out=folder, batch_size=8, epochs=3, **settings), "topic", "name", ALONE)
    seed_everything(0)
    model, data = Regression(), Points()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=16)
    step = run.resumed["global_step"] if run.resumed else 0

    def loss_terms(model, batch):
        nonlocal step
        step += 1
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        fit, size = (model(batch[0]) - batch[1]).square().mean(), model.linear.weight.square().sum()
        return {"loss": fit + 1e-3 * size if step != spoil_at else fit / 0, "fit": fit, "size": size}

    trainer = Trainer(run, model, optimizer, scheduler, data, EpochBatches(shuffled(40, 0), 8, ALONE), loss_terms)
    progress = trainer.fit(
        validate or (lambda m: {"error": (m(data.x) - data.y).square().mean().item()}), lambda v: (-v["error"],)
    )
    run.finish({"error": progress.best["values"]["error"]}, "hash")
    return run, model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_learns_and_leaves_its_files(tmp_path, capsys):
    run, _ = train(tmp_path)
    assert {"settings.json", "last.pt", "best.pt", "metrics.json"} <= {p.name for p in run.folder.iterdir()}
    assert list(run.folder.glob("events.out.tfevents.*"))
    last = load_checkpoint(run.last, "Regression")
    assert (last["epoch"], last["step"], last["global_step"]) == (3, 0, 15)
    assert "epoch 3: loss" in capsys.readouterr().out
    errors = [load_checkpoint(run.best)["best"]["values"]["error"], last["best"]["values"]["error"]]
    assert errors[0] == errors[1] < 14  # the sum of squares of the weights to be found


@pytest.mark.parametrize("stop_at", [3, 5, 8, 15])
def test_ctrl_c_then_resume_reaches_the_same_weights_bit_for_bit(tmp_path, stop_at):
    _, expected = train(tmp_path / "whole")
    with pytest.raises(Interrupted, match=r"stopped at epoch .*continue with: .*--resume"):
        train(tmp_path / "cut", stop_at=stop_at)
    assert load_checkpoint(tmp_path / "cut" / "topic" / "name" / "last.pt")["global_step"] == stop_at
    run, found = train(tmp_path / "cut", resume=True)
    assert same(found, expected)
    whole = load_checkpoint(tmp_path / "whole" / "topic" / "name" / "last.pt")
    cut = load_checkpoint(run.last)
    assert cut["best"] == whole["best"]
    assert torch.equal(cut["random"]["torch"], whole["random"]["torch"])


def test_death_without_warning_loses_only_what_came_after_the_checkpoint(tmp_path):
    _, expected = train(tmp_path / "whole")

    class Killed(Exception):
        pass

    def die(model):
        raise Killed  # as kill -9 would: nothing is written any more

    with pytest.raises(Killed):
        train(tmp_path / "cut", checkpoint_steps=4, validate=die)
    assert load_checkpoint(tmp_path / "cut" / "topic" / "name" / "last.pt")["global_step"] == 4
    assert same(train(tmp_path / "cut", resume=True)[1], expected)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step 8 .*last.pt holds the last good state.*--lr"):
        train(tmp_path, spoil_at=8)
    saved = load_checkpoint(tmp_path / "topic" / "name" / "last.pt")
    assert saved["global_step"] == 5
    assert all(torch.isfinite(v).all() for v in saved["model"].values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """Those of the last step of all: no later loss shows them."""

    def spoil(model):
        with torch.no_grad():
            model.linear.weight[0, 0] = float("nan")
        return {"error": 1.0}

    with pytest.raises(UserError, match=r"weights are not finite after step 5; nothing was saved yet.*--lr"):
        train(tmp_path, validate=spoil)
    assert not (tmp_path / "topic" / "name" / "best.pt").exists()


def test_out_that_is_no_folder_is_said_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.topic.name: cannot be written .*choose another --out"):
        train(tmp_path / "file")


def test_a_folder_in_use_is_not_overwritten_unasked(tmp_path):
    train(tmp_path)
    with pytest.raises(UserError, match="already holds a run: add --resume to continue it, --overwrite to replace it"):
        train(tmp_path)
    with pytest.raises(UserError, match="--seed was 0, is 1"):
        train(tmp_path, resume=True, seed=1)
    train(tmp_path, overwrite=True)
    with pytest.raises(UserError, match=r"none.*no checkpoint there"):
        train(tmp_path, resume=True, name="none")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    _, expected = train(tmp_path)
    assert same(train(tmp_path, resume=True)[1], expected)


def test_best_is_the_first_best_epoch_by_validation(tmp_path):
    values = iter([3.0, 1.0, 1.0])
    run, _ = train(tmp_path, validate=lambda model: {"error": next(values)})
    assert load_checkpoint(run.best)["best"]["epoch"] == 2


def test_batches_do_not_depend_on_the_number_of_processes():
    order = shuffled(50, seed=3)
    alone = EpochBatches(order, 8, ALONE)
    pair = [EpochBatches(order, 8, World(rank, 2, torch.device("cpu"))) for rank in range(2)]
    for batches in (alone, *pair):
        batches.start(4, 2)
    for whole, first, second in zip(alone, *pair, strict=True):
        assert whole == first + second
    assert len(alone) == 6
    assert len(list(alone)) == 4
    assert order(4).tolist() != order(5).tolist()
    assert sorted(order(4).tolist()) == list(range(50))


def test_batches_that_cannot_be_made():
    with pytest.raises(UserError, match="--batch-size 9 cannot be shared equally by 2 processes"):
        EpochBatches(shuffled(50, 0), 9, World(0, 2, torch.device("cpu")))
    with pytest.raises(UserError, match="--batch-size 64 is more than the 50 training examples"):
        EpochBatches(shuffled(50, 0), 64, ALONE)


def test_report(tmp_path):
    found = environment(torch.device("cpu"))
    assert found["peak_memory_mib"] > 50
    assert torch.__version__.startswith(found["versions"]["torch"])
    write_json(tmp_path / "x.json", {"字": float("nan"), "p": tmp_path})
    assert (tmp_path / "x.json").read_text(encoding="utf-8").splitlines()[1] == '  "字": null,'
