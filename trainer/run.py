"""The folder of one run: what is in it, and who may write there."""

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.distributed import World
from trainer.errors import UserError
from trainer.report import environment, write_json
from trainer.settings import RunSettings, plain, require_same


class Run:
    """``OUT/TOPIC/NAME/`` with settings.json, last.pt, best.pt, metrics.json, TensorBoard events and figures.

    Args:
        settings: of the run; ``settings.name`` overrides ``name``.
        topic: package of the paper.
        name: folder name made from the settings.
        world: only its main process writes.

    Raises:
        UserError: the folder holds a run and neither ``--resume`` nor ``--overwrite`` was given, ``--resume`` finds
            none or one with other settings, or it is no folder that can be written to.
    """

    def __init__(self, settings: RunSettings, topic: str, name: str, world: World) -> None:
        self.settings, self.world = settings, world
        self.folder = settings.out / topic / (settings.name or name)
        self.last, self.best = self.folder / "last.pt", self.folder / "best.pt"
        self.resumed: dict[str, Any] | None = None
        self.start = time.monotonic()
        self.elapsed_before = 0.0
        if settings.resume:
            self.resumed = load_checkpoint(self.last)
            require_same(settings, self.resumed["settings"], self.last)
            self.elapsed_before = self.resumed["elapsed"]
        elif self.last.exists() and not settings.overwrite:
            raise UserError(
                f"{self.folder} already holds a run: add --resume to continue it, --overwrite to replace it"
            )
        self.writer: SummaryWriter | None = None
        if world.is_main:
            try:
                self._prepare()
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be written ({error}); choose another --out") from error

    def _prepare(self) -> None:
        if self.resumed is None:
            files = (f for pattern in ("events.out.tfevents.*", "figures/*.png") for f in self.folder.glob(pattern))
            results = (self.folder / name for name in ("metrics.json", "evaluation.json"))
            for old in [self.last, self.best, *results, *files]:
                old.unlink(missing_ok=True)
            write_json(self.folder / "settings.json", self.settings.plain())
        purge = self.resumed["global_step"] + 1 if self.resumed else None
        self.writer = SummaryWriter(str(self.folder), purge_step=purge)

    @property
    def elapsed(self) -> float:
        """Seconds of this run, earlier parts of it included."""
        return self.elapsed_before + time.monotonic() - self.start

    @property
    def resume_command(self) -> str:
        """The command that continues this run."""
        module = getattr(sys.modules["__main__"], "__spec__", None)
        program = f"python -m {module.name}" if module else f"python {sys.argv[0]}"
        arguments = [a for a in sys.argv[1:] if a not in ("--resume", "--overwrite")]
        return " ".join([program, *map(shlex.quote, arguments), "--resume"])

    def save(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a checkpoint with the settings, in the main process only."""
        if self.world.is_main:
            save_checkpoint(path, {**content, "settings": self.settings.plain(), "elapsed": self.elapsed})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars to TensorBoard."""
        if self.writer is not None:
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)

    def finish(self, metrics: Mapping[str, Any], data_sha256: str) -> dict[str, Any]:
        """Write metrics.json and TensorBoard's hparams; return what was written."""
        content = {
            "metrics": plain(metrics),
            "settings": self.settings.plain(),
            "data_sha256": data_sha256,
            "processes": self.world.size,
            "seconds": round(self.elapsed, 1),
            **environment(self.world.device),
        }
        if self.writer is not None:
            write_json(self.folder / "metrics.json", content)
            flat = {k: v for k, v in self.settings.plain().items() if isinstance(v, bool | int | float | str)}
            numbers = {f"final/{k}": float(v) for k, v in metrics.items() if isinstance(v, int | float)}
            self.writer.add_hparams(flat, numbers, run_name=".")
            self.writer.close()
        return content
