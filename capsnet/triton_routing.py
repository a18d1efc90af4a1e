# mypy: allow-incomplete-defs
r"""Routing as one Triton kernel an iteration, forward and backward: votes, agreements and couplings are never stored.

Both routings are a loop of *passes*: given what the outputs look like now, let every input choose among them and sum up
what they are given. A pass reads the inputs and the matrices and makes the votes in registers; its backward pass makes
them again. What lies between two passes (squash; means, variances, costs) is small and stays in PyTorch, where autograd
sees it.

* Dynamic routing: the logits of iteration t are :math:`\langle \hat u_{ij}, \sum_{s<t} v_j^{(s)} \rangle`, for they
  add up, so a pass needs the sum of the earlier outputs and no logits of its own. A program holds the matrices of a few
  inputs and goes through some images. What each few inputs give is written apart and summed afterwards, so that no
  order of summation changes: a value for ``BLOCK_INPUTS`` votes.
* EM: one program a child. It makes its votes for all parents of all positions that see it, so the softmax over parents
  needs no second kernel; what the parents get of it is added atomically, in whatever order the programs end.

The plain forms, `capsnet.routing.route` and `capsnet.window_routing.route_windows`, are the oracle of the tests, which
run the kernels on a CPU through Triton's interpreter (TRITON_INTERPRET=1), and what networks built with ``fused=True``
fall back on where the kernels cannot run.

Shapes: ``B`` batch, ``I`` inputs, ``N`` numbers of an input, ``O`` outputs, ``D`` numbers of an output; of EM: ``P``
positions of children, ``K`` kinds of them, ``L`` positions of parents, ``C`` kinds of them, ``Q`` positions of parents
that see a child.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from capsnet.em_routing import MASS_FLOOR, VARIANCE_FLOOR
from capsnet.routing import squash
from capsnet.window_routing import POSE, Windows, centre_weights

BLOCK_INPUTS = 4  # inputs a program of dynamic routing holds the matrices of
IMAGES = 16  # that a program of its forward pass goes through: so many times fewer reads of the matrices
DYNAMIC_WARPS = 8


@triton.jit
def _dynamic_matrices(weight, rows, real, N: tl.constexpr, O: tl.constexpr, D: tl.constexpr):
    """Matrices (BI, N, O * D) of the inputs ``rows``, and where they stand."""
    numbers, width = tl.arange(0, N), tl.arange(0, O * D)
    place = (rows[:, None, None] * N + numbers[None, :, None]) * (O * D) + width[None, None, :]
    return tl.load(weight + place, mask=real[:, None, None], other=0.0), place


@triton.jit
def _dynamic_votes(u, matrix, b, rows, real, num_inputs, N: tl.constexpr, O: tl.constexpr, D: tl.constexpr):
    """Inputs (BI, N) of image b, where they stand, and their votes (BI, O, D)."""
    place = (b * num_inputs + rows[:, None]) * N + tl.arange(0, N)[None, :]
    inputs = tl.load(u + place, mask=real[:, None], other=0.0)
    votes = tl.sum(inputs[:, :, None] * matrix, axis=1)
    return inputs, place, tl.reshape(votes, [inputs.shape[0], O, D])


@triton.jit
def _choose(votes, centre, num_outputs, O: tl.constexpr):
    """Softmax over the outputs of the agreement of each vote with its centre: (BI, O, D), (O, D) -> (BI, O)."""
    logits = tl.sum(votes * centre[None, :, :], axis=2)
    logits = tl.where(tl.arange(0, O)[None, :] < num_outputs, logits, -float("inf"))
    weights = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]


@triton.jit
def _dynamic_forward(
    u, weight, centres, sums, batch, num_inputs, num_outputs,
    N: tl.constexpr, O: tl.constexpr, D: tl.constexpr, BI: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """sums[block, b] = what the block's inputs give each output; one program a block of inputs and some images."""
    block, first = tl.program_id(0), tl.program_id(1) * IMAGES
    rows = block * BI + tl.arange(0, BI)
    real = rows < num_inputs
    tile = tl.arange(0, O)[:, None] * D + tl.arange(0, D)[None, :]
    matrix, _entries = _dynamic_matrices(weight, rows, real, N, O, D)
    for b in range(first, tl.minimum(first + IMAGES, batch)):
        _inputs, _place, votes = _dynamic_votes(u, matrix, b, rows, real, num_inputs, N, O, D)
        coupling = _choose(votes, tl.load(centres + b * O * D + tile), num_outputs, O)
        given = tl.sum(coupling[:, :, None] * votes, axis=0)
        tl.store(sums + (block * batch + b) * O * D + tile, given)


@triton.jit
def _dynamic_backward(
    u, weight, centres, grad, grad_u, grad_weight, grad_centres, batch, num_inputs, num_outputs,
    N: tl.constexpr, O: tl.constexpr, D: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """One program a block of inputs, image after image, so that the matrices' gradient needs no atomics."""
    block = tl.program_id(0)
    rows = block * BI + tl.arange(0, BI)
    real = rows < num_inputs
    tile = tl.arange(0, O)[:, None] * D + tl.arange(0, D)[None, :]
    matrix, entries = _dynamic_matrices(weight, rows, real, N, O, D)
    total = tl.zeros([BI, N, O * D], dtype=tl.float32)
    for b in range(batch):
        inputs, place, votes = _dynamic_votes(u, matrix, b, rows, real, num_inputs, N, O, D)
        centre, g = tl.load(centres + b * O * D + tile), tl.load(grad + b * O * D + tile)
        coupling = _choose(votes, centre, num_outputs, O)
        g_coupling = tl.sum(votes * g[None, :, :], axis=2)
        g_logits = coupling * (g_coupling - tl.sum(coupling * g_coupling, axis=1)[:, None])
        g_votes = coupling[:, :, None] * g[None, :, :] + g_logits[:, :, None] * centre[None, :, :]
        g_centre = tl.sum(tl.where(real[:, None, None], g_logits[:, :, None] * votes, 0.0), axis=0)
        tl.store(grad_centres + (block * batch + b) * O * D + tile, g_centre)
        g_flat = tl.reshape(g_votes, [BI, 1, O * D])
        tl.store(grad_u + place, tl.sum(matrix * g_flat, axis=2), mask=real[:, None])
        total += inputs[:, :, None] * g_flat
    tl.store(grad_weight + entries, total, mask=real[:, None, None])


class _DynamicPass(torch.autograd.Function):
    """(B, I, N), (I, N, O, D), (B, O, D) -> (B, O, D), the sums of the votes by their couplings; all padded to powers
    of two but I, with ``num_outputs`` of the O real.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, centres: Tensor, num_outputs: int) -> Tensor:
        u, weight, centres = u.contiguous(), weight.contiguous(), centres.contiguous()
        batch, inputs, numbers = u.shape
        outputs, dims = weight.shape[2:]
        blocks = triton.cdiv(inputs, BLOCK_INPUTS)
        sums = u.new_empty(blocks, batch, outputs, dims)
        sizes = (batch, inputs, num_outputs, numbers, outputs, dims, BLOCK_INPUTS)
        grid = (blocks, triton.cdiv(batch, IMAGES))
        _dynamic_forward[grid](u, weight, centres, sums, *sizes, IMAGES, num_warps=DYNAMIC_WARPS)
        ctx.save_for_backward(u, weight, centres)
        ctx.blocks, ctx.sizes = blocks, sizes
        return sums.sum(dim=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        u, weight, centres = ctx.saved_tensors
        grads = torch.empty_like(u), torch.empty_like(weight), u.new_empty(ctx.blocks, *centres.shape)
        tensors = (u, weight, centres, grad.contiguous(), *grads)
        _dynamic_backward[(ctx.blocks,)](*tensors, *ctx.sizes, num_warps=DYNAMIC_WARPS)
        return grads[0], grads[1], grads[2].sum(dim=0), None


def fused_route(u: Tensor, weight: Tensor, num_iters: int = 3, squash_constant: float = 1.0) -> Tensor:
    """Dynamic routing of the votes ``u_i W_ij``: `capsnet.routing.route` without the votes.

    Shape: (B, I, N), (I, N, O, D) -> (B, O, D).

    Raises:
        ValueError: inputs that the matrices are not made for.
    """
    if u.dim() != 3 or u.shape[1:] != weight.shape[:2]:
        inputs, numbers = weight.shape[:2]
        raise ValueError(f"fused_route: expected inputs (B, {inputs}, {numbers}), got {tuple(u.shape)}")
    outputs, dims = weight.shape[2:]
    pad = [0, _missing(dims), 0, _missing(outputs), 0, _missing(weight.shape[1])]
    u, weight = F.pad(u.float(), [0, pad[5]]), F.pad(weight.float(), pad)
    centres = u.new_zeros(len(u), *weight.shape[2:])
    for iteration in range(num_iters):
        capsules = squash(_DynamicPass.apply(u, weight, centres, outputs), squash_constant)
        if iteration < num_iters - 1:
            centres = centres + capsules
    return capsules[:, :outputs, :dims]


def em_warps(rows: int) -> int:
    """Warps of a program of EM whose child has so many parents: sixteen numbers of its votes a thread, up to eight
    warps. With Triton's four the backward kernel spills where there are 512 (`benchmarks/kernel_resources.py`).
    """
    return min(max(rows // 32, 1), 8)


def _missing(size: int) -> int:
    return triton.next_power_of_2(size) - size


@triton.jit
def _em_votes(
    poses, weight, offsets, parent, slot, b, p, kind, K, C, num_positions, num_slots, Q: tl.constexpr, R: tl.constexpr
):  # fmt: skip
    """Votes (R, 16) of one child for all of its parents, where those stand, and which rows are real."""
    rows, d = tl.arange(0, R), tl.arange(0, 16)
    q, c = rows // C, rows % C
    seen = tl.load(parent + p * Q + q, mask=q < Q, other=-1)
    real = seen >= 0
    place = tl.load(slot + p * Q + q, mask=real, other=0)
    matrices = ((place * K + kind) * C + c) * 16  # where each row's matrix begins
    pose = poses + ((b * num_positions + p) * K + kind) * 16
    votes = tl.zeros([R, 16], dtype=tl.float32) + tl.load(offsets + p * 16 + d)[None, :]
    for k in tl.static_range(4):
        column = tl.load(pose + (d // 4) * 4 + k)
        matrix = tl.load(weight + matrices[:, None] + k * 4 + (d % 4)[None, :], mask=real[:, None], other=0.0)
        votes += column[None, :] * matrix
    return votes, matrices, pose, (b * num_slots + seen) * C + c, real


@triton.jit
def _em_forward(
    poses, activations, weight, offsets, parent, slot, mean, precision, constant, mass, first, second,
    K, C, num_positions, num_slots, Q: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """One program an image and position of a child, and its kind: its share to the sums of every parent."""
    b, p, kind = tl.program_id(0) // num_positions, tl.program_id(0) % num_positions, tl.program_id(1)
    d = tl.arange(0, 16)
    votes, _, _, out, real = _em_votes(
        poses, weight, offsets, parent, slot, b, p, kind, K, C, num_positions, num_slots, Q, R
    )
    at = out[:, None] * 16 + d[None, :]
    gap = votes - tl.load(mean + at, mask=real[:, None], other=0.0)
    scores = -0.5 * tl.sum(gap * gap * tl.load(precision + at, mask=real[:, None], other=0.0), axis=1)
    scores = tl.where(real, scores + tl.load(constant + out, mask=real, other=0.0), -1e30)
    share = tl.where(real, tl.exp(scores - tl.max(scores, axis=0)), 0.0)
    share = share / tl.maximum(tl.sum(share, axis=0), 1e-30)  # a child that no parent sees gives nothing
    given = share * tl.load(activations + (b * num_positions + p) * K + kind)
    tl.atomic_add(mass + out, given, mask=real, sem="relaxed")
    tl.atomic_add(first + at, given[:, None] * gap, mask=real[:, None], sem="relaxed")
    tl.atomic_add(second + at, given[:, None] * gap * gap, mask=real[:, None], sem="relaxed")


@triton.jit
def _em_backward(
    poses, activations, weight, offsets, parent, slot, mean, precision, constant, g_mass, g_first, g_second,
    g_poses, g_activations, g_weight, g_mean, g_precision, g_constant,
    K, C, num_positions, num_slots, Q: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The same programs; what many children add to (matrices, parents) is added atomically."""
    b, p, kind = tl.program_id(0) // num_positions, tl.program_id(0) % num_positions, tl.program_id(1)
    d = tl.arange(0, 16)
    votes, matrices, pose, out, real = _em_votes(
        poses, weight, offsets, parent, slot, b, p, kind, K, C, num_positions, num_slots, Q, R
    )
    at, some = out[:, None] * 16 + d[None, :], real[:, None]
    gap = votes - tl.load(mean + at, mask=some, other=0.0)
    sharp = tl.load(precision + at, mask=some, other=0.0)
    scores = -0.5 * tl.sum(gap * gap * sharp, axis=1)
    scores = tl.where(real, scores + tl.load(constant + out, mask=real, other=0.0), -1e30)
    share = tl.where(real, tl.exp(scores - tl.max(scores, axis=0)), 0.0)
    share = share / tl.maximum(tl.sum(share, axis=0), 1e-30)
    child = (b * num_positions + p) * K + kind
    active = tl.load(activations + child)
    g1, g2 = tl.load(g_first + at, mask=some, other=0.0), tl.load(g_second + at, mask=some, other=0.0)
    g_given = tl.load(g_mass + out, mask=real, other=0.0) + tl.sum(gap * g1 + gap * gap * g2, axis=1)
    tl.store(g_activations + child, tl.sum(share * g_given, axis=0))
    g_share = active * g_given
    g_scores = share * (g_share - tl.sum(share * g_share, axis=0))
    g_gap = (active * share)[:, None] * (g1 + 2.0 * gap * g2) - gap * sharp * g_scores[:, None]
    tl.atomic_add(g_constant + out, g_scores, mask=real, sem="relaxed")
    tl.atomic_add(g_precision + at, -0.5 * gap * gap * g_scores[:, None], mask=some, sem="relaxed")
    tl.atomic_add(g_mean + at, -g_gap, mask=some, sem="relaxed")
    quarter = tl.arange(0, 4)
    for k in tl.static_range(4):
        column = tl.load(pose + (d // 4) * 4 + k)
        matrix = tl.load(weight + matrices[:, None] + k * 4 + (d % 4)[None, :], mask=some, other=0.0)
        along = tl.sum(tl.where(some, g_gap * matrix, 0.0), axis=0)  # (16): row x, column y
        tl.store(g_poses + child * 16 + quarter * 4 + k, tl.sum(tl.reshape(along, [4, 4]), axis=1))
        across = tl.sum(tl.reshape(g_gap * column[None, :], [R, 4, 4]), axis=1)  # (R, 4): column y
        tl.atomic_add(g_weight + matrices[:, None] + k * 4 + quarter[None, :], across, mask=some, sem="relaxed")


class _EMPass(torch.autograd.Function):
    """E-step and sums of one iteration: what every parent is given (B, L, C), and the first and second moments
    (B, L, C, 16) of that about the parents' present means.
    """

    @staticmethod
    def forward(
        ctx: Any, poses: Tensor, activations: Tensor, weight: Tensor,
        mean: Tensor, precision: Tensor, constant: Tensor, tables: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        tensors = [x.contiguous() for x in (poses, activations, weight, *tables, mean, precision, constant)]
        batch, positions, kinds = activations.shape
        caps, slots = constant.shape[2], constant.shape[1]
        seen = tables[1].shape[1]
        sizes = (kinds, caps, positions, slots, seen, triton.next_power_of_2(seen * caps))
        sums = torch.zeros_like(constant), torch.zeros_like(mean), torch.zeros_like(mean)
        _em_forward[(batch * positions, kinds)](*tensors, *sums, *sizes, num_warps=em_warps(sizes[-1]))
        ctx.save_for_backward(*tensors)
        ctx.sizes = sizes
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        poses, activations, weight, _, _, _, mean, precision, constant = tensors
        own = [torch.zeros_like(x) for x in (poses, activations, weight, mean, precision, constant)]
        grid = (activations.shape[0] * activations.shape[1], activations.shape[2])
        given = (g.contiguous() for g in grads)
        _em_backward[grid](*tensors, *given, *own, *ctx.sizes, num_warps=em_warps(ctx.sizes[-1]))
        return *own, None


def fused_route_windows(
    poses: Tensor,
    activations: Tensor,
    weight: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    windows: Windows,
    schedule: Sequence[float],
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`capsnet.window_routing.route_windows`, the same arguments and numbers, without the votes."""
    tables = _tables(windows, weight.shape[0] == 1, offsets, poses)
    mean = _centres(poses, activations, weight, windows, offsets)
    precision, constant = torch.zeros_like(mean), torch.zeros_like(mean[..., 0])
    for temperature in schedule:
        mass, first, second = _EMPass.apply(poses, activations, weight, mean, precision, constant, tables)
        whole = (mass + MASS_FLOOR).unsqueeze(3)
        first, second, part = first / whole, second / whole, mass.unsqueeze(3) / whole
        new = mean * part + first
        step = new - mean
        variance = (second - 2 * step * first + step.square() * part).clamp(min=0) + VARIANCE_FLOOR
        spread = 0.5 * variance.log().sum(dim=3)  # (B, L, C)
        logits = temperature * (beta_a - (beta_u + spread) * mass)
        mean, precision, constant = new, 1 / variance, F.logsigmoid(logits) - spread
    return mean, logits.sigmoid()


@torch.no_grad()
def _centres(poses: Tensor, activations: Tensor, weight: Tensor, windows: Windows, offsets: Tensor | None) -> Tensor:
    """Mean of the votes in each window, weighted by activations, (B, L, C, 16): any mean will do to begin with, but
    near the votes the sums of their squares stay small.
    """
    size = (len(poses), *windows.index.shape, weight.shape[1])
    share = centre_weights(activations, windows).view(size)  # (B, L, S, K)
    seen = (poses[:, windows.index] * share.unsqueeze(4)).unflatten(4, (4, 4))  # (B, L, S, K, 4, 4)
    everywhere = weight.expand(size[2], -1, -1, -1, -1)
    mean = torch.einsum("blskxz,skczy->blcxy", seen, everywhere).flatten(3)
    return mean if offsets is None else mean + torch.einsum("blsk,sd->bld", share, offsets).unsqueeze(2)


def _tables(windows: Windows, shared: bool, offsets: Tensor | None, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each position of a child: what is added to its votes (P, 16), the positions of its parents (P, Q), -1 where
    there are fewer, and its place in their windows (P, Q), 0 where all places share their matrices.
    """
    seen = int(windows.parents.max())
    device = windows.index.device
    parent = torch.full((windows.num_children, seen), -1, dtype=torch.int32, device=device)
    place = torch.zeros_like(parent)
    order = windows.index.flatten().argsort(stable=True)
    child = windows.index.flatten()[order]
    first = torch.searchsorted(child, child)  # the number of entries of smaller children
    column = torch.arange(len(child), device=device) - first
    size = windows.index.shape[1]
    parent[child, column] = (order // size).to(torch.int32)
    if not shared:
        place[child, column] = (order % size).to(torch.int32)
    added = poses.new_zeros(windows.num_children, POSE)
    if offsets is not None:
        added[windows.index[0]] = offsets
    return added, parent, place
