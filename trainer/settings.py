"""Settings: one frozen dataclass a train script, turned into command-line flags by tyro."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from trainer.errors import UserError

S = TypeVar("S", bound="RunSettings")

# What may differ between a run and its continuation: it does not change the weights.
FREE_ON_RESUME = {"resume", "overwrite", "out", "name", "device", "workers", "checkpoint_steps", "compile"}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What every train script shares."""

    name: str = ""
    """folder of the run under OUT/TOPIC; empty: made from the settings"""
    out: Path = Path("runs")
    """folder that holds all runs"""
    seed: int = 0
    """seed of weights, order and augmentation"""
    epochs: int = 10
    """passes over the training data"""
    batch_size: int = 128
    """examples a step, over all processes together; the last, smaller batch of an epoch is left out"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products and convolutions under autocast; weights, routing and losses stay float32"""
    channels_last: bool = True
    """memory layout of images; faster convolutions on most machines"""
    compile: bool = False
    """torch.compile: a minute or two at the start, then faster on a GPU"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one"""
    workers: int = 0
    """processes that prepare batches; 0: the training process itself"""
    checkpoint_steps: int = 0
    """write last.pt every so many steps too; 0: at the end of an epoch and on Ctrl-C only"""
    resume: bool = False
    """continue the run from its last.pt, to the very weights it would have reached uninterrupted"""
    overwrite: bool = False
    """start anew although the folder already holds a run"""

    def __post_init__(self) -> None:
        self.require(self.epochs >= 1, "epochs", "at least 1")
        self.require(self.batch_size >= 1, "batch_size", "at least 1")
        self.require(0 <= self.seed < 2**32, "seed", "from 0 to 4294967295")
        self.require(self.workers >= 0, "workers", "0 or more")
        self.require(self.checkpoint_steps >= 0, "checkpoint_steps", "0 or more")

    def require(self, fine: bool, field: str, expected: str) -> None:
        """Raise a UserError that names the flag, its value and what is possible, unless ``fine``."""
        if not fine:
            flag = "--" + field.replace("_", "-")
            raise UserError(f"{flag} must be {expected}, got {getattr(self, field)}")

    def require_positive(self, *names: str) -> None:
        """`require` that these are above 0 and finite."""
        for name in names:
            self.require(0 < getattr(self, name) < math.inf, name, "positive and finite")

    def plain(self) -> dict[str, Any]:
        """The settings as plain types, for JSON and checkpoints."""
        return plain(dataclasses.asdict(self))


def plain(value: Any) -> Any:
    """Paths to text, tuples to lists, mappings and sequences through and through."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def parse(
    cls: type[S], argv: Sequence[str] | None, prog: str, recipes: Mapping[str, Mapping[str, Any]] | None = None
) -> S:
    """Turn a command line into settings; ``--recipe NAME`` chooses the defaults that the other flags then override.

    Args:
        cls: a subclass of `RunSettings`; with ``recipes`` it has a field ``recipe``.
        argv: the arguments; None for those of the process.
        prog: the command as a user types it, for ``--help``.
        recipes: recipe -> the fields that it sets.

    Raises:
        SystemExit: status 2 after a message that says what is possible: an unknown flag, or an impossible value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    default = cls()
    for i, flag in enumerate(argv if recipes else []):
        name = flag.removeprefix("--recipe=") if flag.startswith("--recipe=") else [*argv, ""][i + 1]
        if flag.split("=")[0] == "--recipe" and recipes and name in recipes:
            default = dataclasses.replace(default, recipe=name, **recipes[name])  # type: ignore[call-arg]
    return tyro.cli(cls, args=argv, default=default, prog=prog, config=(tyro.conf.OmitArgPrefixes,))


def require_same(settings: RunSettings, saved: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError unless a run that goes on has the settings that it began with."""
    now = settings.plain()
    changed = [
        f"--{key.replace('_', '-')} was {saved.get(key)!r}, is {value!r}"
        for key, value in now.items()
        if key not in FREE_ON_RESUME and saved.get(key) != value
    ]
    if changed:
        raise UserError(f"{path}: --resume needs the settings the run began with: {'; '.join(changed)}")
