"""What every train script shares: settings, random state, checkpoints, the loop, TensorBoard, processes, Keras weights.

Data flow of a train script: settings -> seed -> data -> model -> loss terms -> `Trainer.fit` -> OUT/TOPIC/NAME/.
"""

from trainer.checkpoint import entries_of, load_checkpoint, load_weights, save_checkpoint, write_atomically
from trainer.distributed import EpochBatches, World, shuffled, world
from trainer.errors import UserError, run_main
from trainer.loop import EpochDataset, Interrupted, Progress, Trainer
from trainer.random_state import random_state, restore_random_state, seed_everything
from trainer.report import environment, write_json
from trainer.run import Run
from trainer.settings import RunSettings, parse

__all__ = [
    "EpochBatches",
    "EpochDataset",
    "Interrupted",
    "Progress",
    "Run",
    "RunSettings",
    "Trainer",
    "UserError",
    "World",
    "entries_of",
    "environment",
    "load_checkpoint",
    "load_weights",
    "parse",
    "random_state",
    "restore_random_state",
    "run_main",
    "save_checkpoint",
    "seed_everything",
    "shuffled",
    "world",
    "write_atomically",
    "write_json",
]
