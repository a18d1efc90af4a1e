"""One process, or several started by torchrun: ranks, device, and batches that do not depend on how many there are."""

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from trainer.errors import UserError


@dataclass(frozen=True)
class World:
    """Where this process stands among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process; all of them must ask."""
        if self.size == 1:
            return flag
        raised = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
        return bool(raised)

    def wrap(self, model: nn.Module) -> nn.Module:
        """DistributedDataParallel where there are several processes, the model itself otherwise."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started (nccl on GPUs, gloo on CPUs), or be alone.

    Raises:
        UserError: ``device="cuda"`` without a GPU, or more processes on this machine than GPUs.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise UserError("--device cuda: torch sees no GPU here; leave the flag out to run on the CPU")
    use_cuda = cuda and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise UserError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs of this machine")
    place = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, place)
        return
    if use_cuda:
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if use_cuda else "gloo")
    # DistributedDataParallel sits in reference cycles and keeps the group; were it left to the end of the interpreter,
    # gloo's threads would now and then abort a process that had done its work
    atexit.register(gc.collect)
    try:
        yield World(distributed.get_rank(), size, place)
    finally:
        distributed.destroy_process_group()


def shuffled(size: int, seed: int) -> Callable[[int], Tensor]:
    """epoch -> a permutation of ``size`` examples that depends on seed and epoch alone."""

    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(size, generator=generator)

    return order


class EpochBatches(Sampler[list[int]]):
    """Batches of indices: a function of (order, epoch, step), so that a run can go on in the middle of an epoch.

    The global batch of a step is the same however many processes share it; each takes its slice.

    Args:
        order: epoch -> indices in the order of that epoch (a permutation, or a weighted draw).
        batch_size: of all processes together.
        world: who takes which slice.

    Raises:
        UserError: a batch that the processes cannot share equally, or fewer examples than one batch.
    """

    def __init__(self, order: Callable[[int], Tensor], batch_size: int, world: World) -> None:
        if batch_size % world.size:
            raise UserError(f"--batch-size {batch_size} cannot be shared equally by {world.size} processes")
        self.order, self.batch_size, self.world = order, batch_size, world
        self.start(0, 0)

    def start(self, epoch: int, step: int) -> None:
        """Begin at a step of an epoch."""
        self.indices, self.first = self.order(epoch), step
        if len(self) == 0:
            raise UserError(f"--batch-size {self.batch_size} is more than the {len(self.indices)} training examples")

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        return len(self.indices) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world.size
        for step in range(self.first, len(self)):
            begin = step * self.batch_size + self.world.rank * share
            yield self.indices[begin : begin + share].tolist()
