"""One rank of tests/losses/test_head.py::test_two_ranks: python two_ranks.py RANK WORLD FILE. Exits 0 if all agrees."""

import gc
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from losses import MarginSoftmaxHead

DIM, CLASSES, INPUTS = 5, 13, 7
SIZES = ((3, 3), (4, 2), (0, 5))  # rows a rank: equal, unequal, none on the first


def encoder(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, DIM))


def head(dtype: torch.dtype, **options) -> MarginSoftmaxHead:
    torch.manual_seed(2)
    return MarginSoftmaxHead(DIM, CLASSES, **options).to(dtype)


def same(ours: torch.Tensor, whole: torch.Tensor, what: str) -> None:
    """Equal to 1e-5 of the whole's norm in float32, to 1e-12 in float64.

    The scale, 30 or 64, multiplies a cosine's rounding (6e-8) before the softmax: 2e-6 to 4e-6, more or less by
    the machine's order of summation. That sharding is exact is what float64 shows.
    """
    ours, whole = ours.detach(), whole.detach()
    bound = {torch.float32: 1e-5, torch.float64: 1e-12}[whole.dtype] * whole.norm().item()
    error = (ours - whole).norm().item()
    assert ours.shape == whole.shape, what
    assert error <= bound, f"{what}: off by {error}, allowed {bound}"


def check_shards(rank: int, dtype: torch.dtype, sizes: tuple[int, ...], **options) -> None:
    torch.manual_seed(3)
    inputs = torch.randn(sum(sizes), INPUTS, dtype=dtype)
    labels = torch.randint(CLASSES, (sum(sizes),))
    labels[1] = -100
    single, whole = encoder().to(dtype), head(dtype, **options)
    expected = whole(single(inputs), labels)
    expected.sum().backward()

    first = sum(sizes[:rank])
    mine = slice(first, first + sizes[rank])
    parallel = DistributedDataParallel(encoder().to(dtype))
    shard = head(dtype, process_group=dist.group.WORLD, **options)
    k = shard.sub_centers
    rows = slice(shard.first_class * k, shard.end_class * k)
    same(shard.weight, whole.weight[rows], "class vectors at the start")
    loss = shard(parallel(inputs[mine]), labels[mine])
    loss.sum().backward()
    what = f"{dtype} {sizes} {options}"
    same(loss, expected, f"loss {what}")
    same(shard.weight.grad, whole.weight.grad[rows], f"class gradient {what}")
    for ours, theirs in zip(parallel.parameters(), single.parameters(), strict=True):
        same(ours.grad, theirs.grad, f"encoder gradient {what}")


def check_whole_head_in_ddp(rank: int) -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = encoder(), head(torch.float32, chunk_size=4)

        def forward(self, inputs, labels):
            return self.head(self.encoder(inputs), labels)

    torch.manual_seed(4)
    inputs, labels = torch.randn(8, INPUTS), torch.randint(CLASSES, (8,))
    single, parallel = Model(), DistributedDataParallel(Model())
    single(inputs, labels).backward()
    mine = slice(4 * rank, 4 * rank + 4)
    parallel(inputs[mine], labels[mine]).backward()
    for ours, theirs in zip(parallel.parameters(), single.parameters(), strict=True):
        same(ours.grad, theirs.grad, "head inside DistributedDataParallel")


def check_sampled_shards(rank: int) -> None:
    """Each rank samples among its own classes: the loss is finite, the batch's classes are in, ranks agree."""
    shard = head(torch.float32, process_group=dist.group.WORLD, sample_rate=0.5)
    torch.manual_seed(10 + rank)
    loss = shard(torch.randn(2, DIM), torch.tensor([rank, CLASSES - 1 - rank]))
    loss.backward()
    losses = [torch.zeros(()) for _ in range(2)]
    dist.all_gather(losses, loss.detach())
    same(losses[0], losses[1], "sampled loss on both ranks")
    used = [c for c in (0, 1, CLASSES - 2, CLASSES - 1) if shard.first_class <= c < shard.end_class]
    assert all(shard.weight.grad[c - shard.first_class].abs().sum() > 0 for c in used)


def main() -> None:
    rank, world, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    checked = 0
    for sizes in SIZES:
        for dtype in (torch.float32, torch.float64):
            for options in ({}, {"chunk_size": 3}, {"sub_centers": 2, "loss": "arc_face"}, {"reduction": "none"}):
                check_shards(rank, dtype, sizes, **options)
                checked += 1
    check_whole_head_in_ddp(rank)
    check_sampled_shards(rank)
    print(f"checked: {checked} settings")
    gc.collect()  # DistributedDataParallel sits in reference cycles; a group that it keeps alive aborts at exit
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
