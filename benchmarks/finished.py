"""Whether a run need not be done again: what the tables of experiments ask before each row."""

import json
from collections.abc import Collection
from pathlib import Path

from trainer import RunSettings
from trainer.settings import FREE_ON_RESUME


def finished(folder: Path, wanted: RunSettings, but: Collection[str] = ()) -> bool:
    """Whether a run is finished there with the same settings, but for these and those that a resumed run may change."""
    path = folder / "metrics.json"
    found = json.loads(path.read_text(encoding="utf-8"))["settings"] if path.exists() else {}
    now = wanted.plain()
    return all(key in found and found[key] == now[key] for key in now.keys() - FREE_ON_RESUME - set(but))
