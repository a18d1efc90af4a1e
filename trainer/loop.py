"""The training loop: epochs, steps, terms of the loss, checkpoints; nothing in it knows what is trained."""

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from trainer.checkpoint import load_weights
from trainer.distributed import EpochBatches
from trainer.errors import UserError
from trainer.random_state import random_state, restore_random_state
from trainer.run import Run

SCALARS_EVERY = 20  # steps between two points of the training curves


class EpochDataset(Protocol):
    """A data set that serves whole batches and draws what is random about them once an epoch."""

    def __getitems__(self, indices: list[int]) -> Any: ...
    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...


@dataclass
class Progress:
    """How far a run has come, and its best epoch so far."""

    epoch: int = 0
    step: int = 0  # of the epoch
    global_step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the terms over the steps of the epoch
    best: dict[str, Any] = field(default_factory=dict)  # {"epoch": .., "score": [..], "values": {..}}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the checkpoint was written; the message holds the command that continues."""


class Trainer:
    """Trains one model in one run.

    Args:
        run: its folder, its settings and the processes.
        model: on its device.
        optimizer, scheduler: the scheduler steps after every batch.
        dataset, batches: what is served, and in which order.
        loss_terms: (model, batch on the device) -> terms of the loss, of which ``loss`` is the one to minimise; called
            under autocast where the settings say so. Every term is shown, summed up and logged by its own name.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        dataset: EpochDataset,
        batches: EpochBatches,
        loss_terms: Callable[[nn.Module, Any], dict[str, Tensor]],
    ) -> None:
        self.run, self.settings, self.world = run, run.settings, run.world
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.dataset, self.batches, self.loss_terms = dataset, batches, loss_terms
        self.progress = Progress() if run.resumed is None else self._restore(run.resumed)
        self.forward = self.world.wrap(model)
        if self.settings.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        # Terms of steps that were not read yet: reading waits for a GPU, so there it is done for many steps at once.
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.read_every = 1 if self.world.device.type == "cpu" else 50

    def fit(
        self,
        validate: Callable[[nn.Module], dict[str, float]],
        score: Callable[[dict[str, float]], tuple[float, ...]],
    ) -> Progress:
        """Train for ``settings.epochs`` epochs; afterwards ``best.pt`` holds the best of them.

        Args:
            validate: model in evaluation mode -> values by name; shown, logged, and the choice of the best epoch.
            score: values -> a tuple to maximise, compared left to right; the first of equal epochs stays.

        Raises:
            UserError: a loss, or weights to be saved, that are not finite (the step is named, the last checkpoint
                kept), a disk that is full.
            Interrupted: on Ctrl-C or SIGTERM, after writing last.pt.
        """
        with _stop_requested() as stop:
            for epoch in range(self.progress.epoch, self.settings.epochs):
                self.model.train()
                self._train_epoch(stop)
                self.model.eval()
                self._end_epoch(epoch + 1, validate(self.model), score)
        return self.progress

    def _train_epoch(self, stop: list[int]) -> None:
        """The rest of the current epoch."""
        progress = self.progress
        self.dataset.set_epoch(progress.epoch)
        self.batches.start(progress.epoch, progress.step)
        bar = tqdm(
            self._loader(),
            desc=f"epoch {progress.epoch + 1}/{self.settings.epochs}",
            initial=progress.step,
            total=len(self.batches),
            disable=not self.world.is_main,
            leave=False,
        )
        for batch in bar:
            self._train_step(batch, bar)
            every = self.settings.checkpoint_steps
            if every and progress.global_step % every == 0:
                self._save()
            if not self.pending and self.world.any(bool(stop)):
                self._save()
                bar.close()
                where = f"epoch {progress.epoch + 1}, step {progress.step} of {len(self.batches)}"
                raise Interrupted(f"stopped at {where}; continue with: {self.run.resume_command}")
        self._read_pending(bar)

    def _train_step(self, batch: Any, bar: Any) -> None:
        device = self.world.device
        batch = [part.to(device, non_blocking=True) for part in batch]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            terms = self.loss_terms(self.forward, batch)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        self.pending.append((self.progress.global_step + 1, {key: value.detach() for key, value in terms.items()}))
        if len(self.pending) >= self.read_every:
            self._read_pending(bar)  # before the weights change, so that on a CPU a bad loss never reaches them
        self.optimizer.step()
        self.scheduler.step()
        self.progress.step += 1
        self.progress.global_step += 1

    def _read_pending(self, bar: Any = None) -> None:
        """Read the pending terms, stop at one that is not finite, add the others up and show the last."""
        if not self.pending:
            return
        keys = list(self.pending[0][1])
        rows = torch.stack([torch.stack([terms[key].float() for key in keys]) for _, terms in self.pending]).tolist()
        for (step, _), row in zip(self.pending, rows, strict=True):
            values = dict(zip(keys, row, strict=True))
            if not all(math.isfinite(value) for value in row):
                raise self._diverged(f"the loss is not finite at step {step} ({values})")
            for key, value in values.items():
                self.progress.sums[key] = self.progress.sums.get(key, 0.0) + value
            if step % SCALARS_EVERY == 0:
                self.run.scalars({f"train/{key}": value for key, value in values.items()}, step)
                self.run.scalars({"train/lr": self.optimizer.param_groups[0]["lr"]}, step)
        self.pending.clear()
        if bar is not None:
            bar.set_postfix({key: f"{value:.4f}" for key, value in values.items()}, refresh=False)

    def _end_epoch(self, epoch: int, values: dict[str, float], score: Callable[[dict[str, float]], tuple]) -> None:
        progress = self.progress
        means = {key: value / len(self.batches) for key, value in progress.sums.items()}
        self.run.scalars({f"epoch/{key}": value for key, value in means.items()}, progress.global_step)
        self.run.scalars({f"validation/{key}": value for key, value in values.items()}, progress.global_step)
        progress.epoch, progress.step, progress.sums = epoch, 0, {}
        candidate = list(score(values))
        if not progress.best or candidate > progress.best["score"]:
            progress.best = {"epoch": epoch, "score": candidate, "values": values}
            self.run.save(self.run.best, {**self._model_content(), **asdict(progress)})
        self._save()
        if self.world.is_main:
            shown = [f"{key} {value:.4f}" for key, value in means.items()]
            shown += [f"validation {key} {value:.4f}" for key, value in values.items()]
            tqdm.write(f"epoch {epoch}: {', '.join(shown)}", file=sys.stdout)

    def _loader(self) -> DataLoader:
        return DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=self.batches,
            collate_fn=_as_it_is,
            num_workers=self.settings.workers,
            # of its own: the loader would otherwise draw a seed for its workers from the global generator
            generator=torch.Generator().manual_seed(self.progress.epoch),
            pin_memory=self.world.device.type == "cuda" and self.settings.workers > 0,
        )

    def _diverged(self, what: str) -> UserError:
        kept = f"{self.run.last} holds the last good state" if self.run.last.exists() else "nothing was saved yet"
        return UserError(f"{what}; {kept}; try a smaller --lr")

    def _model_content(self) -> dict[str, Any]:
        """The weights, for a checkpoint; the last step's are not behind any loss that was looked at."""
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise self._diverged(f"the weights are not finite after step {self.progress.global_step}")
        return {"model_name": type(self.model).__name__, "model": self.model.state_dict()}

    def _save(self) -> None:
        self._read_pending()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random_state(),
        }
        self.run.save(self.run.last, {**self._model_content(), **state, **asdict(self.progress)})

    def _restore(self, saved: dict[str, Any]) -> Progress:
        if saved["model_name"] != type(self.model).__name__:
            raise UserError(
                f"{self.run.last}: a checkpoint of {saved['model_name']}, not of {type(self.model).__name__}"
            )
        load_weights(self.model, saved["model"], self.run.last)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        restore_random_state(saved["random"])
        return Progress(**{key: saved[key] for key in asdict(Progress())})


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that fills on Ctrl-C or SIGTERM, so that no step is cut in half; a second signal stops at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
