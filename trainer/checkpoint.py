"""Checkpoints: plain types and tensors, written atomically, read without unpickling anything."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainer.errors import UserError

FORMAT = 1


def write_atomically(path: Path, write: Any) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it to disk, then rename: the old file or the new
    one.

    Raises:
        UserError: the disk is full or the folder cannot be written; an earlier file at ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write into a RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written ({error}); an earlier file there is intact") from error


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of plain types and tensors atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def load_checkpoint(path: Path, model: str | None = None) -> dict[str, Any]:
    """Read a checkpoint on the CPU.

    Args:
        path: the file.
        model: class name of the model it must hold; None for any.

    Raises:
        UserError: missing, unreadable, not one of ours, of another format or of another model.
    """
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint there; train first, or name another run")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        reason = (str(error).splitlines() or [""])[0][:100]
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}: {reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: not a checkpoint of this repository, format {FORMAT} (found {found!r})")
    if model is not None and content.get("model_name") != model:
        raise UserError(f"{path}: a checkpoint of {content.get('model_name')}, but {model} was expected")
    return content


@contextmanager
def entries_of(path: Path) -> Iterator[None]:
    """Within, an entry that a checkpoint lacks, or whose value nothing here knows (a KeyError), is named with its file.

    Raises:
        UserError: in place of the KeyError.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: not a whole checkpoint of this version: {error} is missing or unknown") from error


def load_weights(model: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Load a state dict; what does not fit is named.

    Raises:
        UserError: missing, unexpected or misshapen entries.
    """
    own = model.state_dict()
    wrong = [f"{k} missing" for k in own if k not in weights]
    wrong += [f"{k} unexpected" for k in weights if k not in own]
    wrong += [
        f"{k} is {tuple(weights[k].shape)} there, {tuple(own[k].shape)} here"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    if wrong:
        raise UserError(f"{path}: the weights do not fit {type(model).__name__}: {'; '.join(wrong[:5])}")
    model.load_state_dict(weights)
