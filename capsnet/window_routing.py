r"""EM routing of matrix capsules in windows, fast on a CPU, in memory that does not grow with the batch.

The same numbers as `capsnet.em_routing` gives on explicit votes, for capsules that have a place. Parents at every
position look at a window of children; a child lies in several windows and chooses among *all* parents that see it, at
whatever position (Hinton et al. 2018, section 4; most public versions let only the parents of one position compete).

How it is fast. A vote is ``P_i W_ij``, 4x4 each; for one kind of child all votes are one matrix product
``(n, 16) x (16, C * 16)`` with the block-diagonal ``kron(I, W_ij)``. Beside each vote stand its squares, and then the
three things EM asks of the votes are products with them: the sums of :math:`w V` and of :math:`w V^2` over a parent's
children, and the scores, :math:`\langle V, M/\sigma^2 \rangle - \langle V^2, 1/2\sigma^2 \rangle`. Votes are counted
from their mean over the children, weighted by activations, so that large votes which agree keep their small variance in
float32 (where active votes lie far apart, variances carry the rounding of that distance squared).

How it is small. The forward pass works through a few images at a time and keeps nothing but its arguments; the backward
pass makes their votes again. There every product asks for a rank-one gradient of each parent's votes; they are
collected and applied in one product at the end (`_Ledger`).

Shapes: ``B`` batch, ``H, W`` positions of the children, ``K`` kinds of children, ``L`` positions of the parents, ``S``
positions in a window, ``I = S * K`` children of a parent, ``C`` kinds of parents, ``n = images * L``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from capsnet.em_routing import MASS_FLOOR, VARIANCE_FLOOR
from capsnet.transforms import without_autocast

POSE = 16  # numbers of a 4x4 pose
CHUNK_BYTES = 12 * 2**20  # of votes and squares made at a time: about what stays in a processor's caches
GPU_CHUNK_BYTES = 256 * 2**20  # where launching the kernels would cost more than what they compute
ABSENT = -1e30  # score of a parent that does not see the child; finite, so that its gradient is zero and not NaN


@dataclass(frozen=True)
class Windows:
    """Which children each parent sees.

    Attributes:
        index: (L, S) int64, flat position of the child in each place of each parent's window.
        size: (H', W') of the parents' positions.
        num_children: H * W.
    """

    index: Tensor
    size: tuple[int, int]
    num_children: int

    @cached_property
    @torch.inference_mode(False)
    def slots(self) -> Tensor:
        """(L, S), number of the place in its window."""
        return torch.arange(self.index.shape[1], device=self.index.device).expand_as(self.index)

    @cached_property
    @torch.inference_mode(False)
    def parents(self) -> Tensor:
        """(L, S), how many positions of parents see the child in that place."""
        return torch.bincount(self.index.flatten(), minlength=self.num_children)[self.index]

    @cached_property
    def children_per_parent(self) -> float:
        """Positions of children that are seen at all, per position of a parent."""
        return len(self.index.unique()) / len(self.index)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept has to serve training too, whoever asks first
def conv_windows(height: int, width: int, kernel: int, stride: int, device: torch.device | str = "cpu") -> Windows:
    """Windows of a convolution without padding."""
    rows, columns = ((side - kernel) // stride + 1 for side in (height, width))
    position = torch.arange(height * width, device=device).view(height, width)
    index = position.unfold(0, kernel, stride).unfold(1, kernel, stride)  # (H', W', kernel, kernel)
    return Windows(index.reshape(rows * columns, kernel * kernel), (rows, columns), height * width)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def whole_map(height: int, width: int, device: torch.device | str = "cpu") -> Windows:
    """One window over all positions."""
    return Windows(torch.arange(height * width, device=device).unsqueeze(0), (1, 1), height * width)


def route_windows(
    poses: Tensor,
    activations: Tensor,
    weight: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    windows: Windows,
    schedule: Sequence[float],
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Route children to parents by EM.

    Args:
        poses: of the children.
        activations: of the children.
        weight: a matrix for each place in the window, kind of child and kind of parent; a first axis of 1 stands for
            the same matrices at every place.
        beta_u, beta_a: see `capsnet.em_routing`.
        windows: who sees whom.
        schedule: the inverse temperature of each iteration.
        offsets: (S, 16), added to every vote from a place of the window (the coordinates of the class capsules).

    Shape: poses (B, HW, K, 16), activations (B, HW, K), weight (S or 1, K, C, 4, 4), betas (C,) -> poses (B, L, C, 16),
    activations (B, L, C).
    """
    outputs = _Route.apply(poses, activations, weight, beta_u, beta_a, windows, tuple(schedule), offsets)
    return outputs[0], outputs[1]


class _Ledger:
    """Gradients of the votes as pairs of factors: (n, C, I) and (n, C, 32), one pair a product."""

    def __init__(self) -> None:
        self.left: list[Tensor] = []
        self.right: list[Tensor] = []

    def add(self, left: Tensor, right: Tensor) -> None:
        self.left.append(left.detach())  # with their graph they would hold on to each other, and to the votes
        self.right.append(right.detach())

    def total(self) -> Tensor:
        """(n, C, I, 32)."""
        return torch.stack(self.left, dim=3) @ torch.stack(self.right, dim=2)


class _Moments(torch.autograd.Function):
    """Sums over children, weighted: (n, C, I) -> (n, C, 32)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, votes: Tensor, ledger: _Ledger) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.votes, ctx.ledger = votes, ledger
        return (weights.unsqueeze(2) @ votes).squeeze(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.ledger.add(ctx.saved_tensors[0], grad)
        return (ctx.votes @ grad.unsqueeze(3)).squeeze(3), None, None


class _Scores(torch.autograd.Function):
    """Products with each child's votes: (n, C, 32) -> (n, C, I)."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, votes: Tensor, ledger: _Ledger) -> Tensor:
        ctx.save_for_backward(coefficients)
        ctx.votes, ctx.ledger = votes, ledger
        return (votes @ coefficients.unsqueeze(3)).squeeze(3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.ledger.add(grad, ctx.saved_tensors[0])
        return (grad.unsqueeze(2) @ ctx.votes).squeeze(2), None, None


def _fit(
    votes: Tensor,
    centre: Tensor,
    activations: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    windows: Windows,
    schedule: tuple[float, ...],
    ledger: _Ledger,
) -> tuple[Tensor, Tensor]:
    """EM on votes from their centre (n, C, 16) and the squares of those (n, C, I, 32), activations (images, HW, K) ->
    (n, C, 16), (n, C). The results do not depend on the centre, so neither it nor its gradient need to be followed.
    """
    num, caps, children = votes.shape[:3]
    places, kinds = windows.index.shape[1], activations.shape[2]
    seen = activations[:, windows.index].reshape(num, 1, children)  # (n, 1, I)
    share = 1.0 / (windows.parents * caps).to(votes.dtype)  # (L, S): a child begins undecided among all its parents
    share = share.repeat(num // len(share), 1).repeat_interleave(kinds, dim=1).unsqueeze(1)  # (n, 1, I)
    assignment = share.expand(num, caps, children)
    for iteration, temperature in enumerate(schedule):
        weights = seen * assignment  # (n, C, I)
        mass = weights.sum(dim=2)  # (n, C)
        whole = (mass + MASS_FLOOR).unsqueeze(2)
        first, second = (_Moments.apply(weights, votes, ledger) / whole).split(POSE, dim=2)  # (n, C, 16)
        # the shares of a capsule that was given next to nothing do not sum to one, and its mean is near zero
        mean = first - centre * (MASS_FLOOR / whole)  # from the centre
        total = mass.unsqueeze(2) / whole  # of the shares
        variance = (second - mean * (2 * first - total * mean)).clamp(min=0) + VARIANCE_FLOOR
        spread = 0.5 * variance.log().sum(dim=2)  # (n, C), the sum of log sigma
        logits = temperature * (beta_a - (beta_u + spread) * mass)
        if iteration == len(schedule) - 1:
            break
        precision = 1 / variance
        coefficients = torch.cat([mean * precision, -0.5 * precision], dim=2)  # (n, C, 32)
        constant = F.logsigmoid(logits) - spread - 0.5 * (mean.square() * precision).sum(dim=2)
        scores = _Scores.apply(coefficients, votes, ledger) + constant.unsqueeze(2)
        scores = scores.view(-1, len(windows.index), caps, places, kinds)
        assignment = (scores - _over_all_parents(scores, windows)).exp().view(num, caps, children)
    return mean + centre, logits.sigmoid()


def _over_all_parents(scores: Tensor, windows: Windows) -> Tensor:
    """Log of the sum over all parents of a child, seen from each window: (images, L, C, S, K) -> (images, L, 1, S, K).

    The windows' sums over kinds of parents are laid out by child and place in the window, and summed once more.
    """
    here = scores.logsumexp(dim=2)  # (images, L, S, K)
    if len(windows.index) == 1:
        return here.unsqueeze(2)
    shape = (len(here), here.shape[2], windows.num_children, here.shape[3])
    by_child = here.new_full(shape, ABSENT)  # (images, S, HW, K)
    everyone = slice(None)
    by_child[everyone, windows.slots, windows.index] = here
    return by_child.logsumexp(dim=1)[:, windows.index].unsqueeze(2)


def _block_diagonal(weight: Tensor, places: int) -> Tensor:
    """(S or 1, K, C, 4, 4) -> (I, 16, C * 16): for each child the matrix that makes all its votes of its pose."""
    kinds, caps = weight.shape[1:3]
    identity = torch.eye(4, dtype=weight.dtype, device=weight.device)
    blocks = torch.einsum("skcij,xy->skxicyj", weight, identity)  # (S, K, 4, 4, C, 4, 4)
    return blocks.expand(places, -1, -1, -1, -1, -1, -1).reshape(places * kinds, POSE, caps * POSE)


def _diagonal_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of `_block_diagonal`: gradient (I, 16, C * 16) -> gradient of the weight."""
    first, kinds, caps = shape[:3]
    blocks = blocks.view(-1, kinds, 4, 4, caps, 4, 4)
    weight = torch.einsum("skxicxj->skcij", blocks)
    return weight.sum(dim=0, keepdim=True) if first == 1 else weight


def centre_weights(activations: Tensor, windows: Windows) -> Tensor:
    """What each child counts in its windows' centres: (images, HW, K) -> (n, I), sums to 1 over I. Children that are
    absent do not count, however far away they vote.
    """
    seen = activations[:, windows.index].flatten(0, 1).flatten(1) + MASS_FLOOR
    return seen / seen.sum(dim=1, keepdim=True)


class _Chunk:
    """Votes of some images, from their centre, and their squares; and the way from their gradient back to poses and
    matrices.
    """

    def __init__(
        self, poses: Tensor, activations: Tensor, blocks: Tensor, windows: Windows, offsets: Tensor | None
    ) -> None:
        places = windows.index.shape[1]
        kinds = poses.shape[2]
        self.shape, self.blocks, self.windows = poses.shape, blocks, windows
        seen = poses[:, windows.index]  # (images, L, S, K, 16)
        self.inputs = seen.flatten(0, 1).flatten(1, 2).transpose(0, 1).contiguous()  # (I, n, 16)
        made = torch.bmm(self.inputs, blocks).unflatten(2, (-1, POSE))  # (I, n, C, 16)
        if offsets is not None:
            made += offsets.repeat_interleave(kinds, dim=0).view(places * kinds, 1, 1, POSE)
        children, num, caps = made.shape[:3]
        self.votes = made.new_empty(num, caps, children, 2 * POSE)
        values, squares = self.votes.split(POSE, dim=3)
        self.centre = torch.einsum("ni,incd->ncd", centre_weights(activations, windows), made)
        torch.sub(made.permute(1, 2, 0, 3), self.centre.unsqueeze(2), out=values)
        torch.mul(values, values, out=squares)

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C, I, 32) -> gradients of the poses (images, HW, K, 16) and of the blocks (I, 16, C * 16)."""
        values, squares = grad.split(POSE, dim=3)
        total = values.addcmul_(squares, self.votes[..., :POSE], value=2)  # (n, C, I, 16)
        total = total.permute(2, 0, 1, 3).flatten(2)  # (I, n, C * 16)
        blocks = torch.bmm(self.inputs.transpose(1, 2), total)
        seen = torch.bmm(total, self.blocks.transpose(1, 2)).transpose(0, 1)  # (n, I, 16)
        images, positions, kinds, _ = self.shape
        seen = seen.reshape(images, self.windows.index.numel(), kinds, POSE)
        poses = seen.new_zeros(images, positions, kinds, POSE)
        return poses.index_add_(1, self.windows.index.flatten(), seen), blocks


class _Route(torch.autograd.Function):
    """`route_windows`, a few images at a time, keeping nothing but its arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        poses: Tensor,
        activations: Tensor,
        weight: Tensor,
        beta_u: Tensor,
        beta_a: Tensor,
        windows: Windows,
        schedule: tuple[float, ...],
        offsets: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(poses, activations, weight, beta_u, beta_a)
        ctx.windows, ctx.schedule, ctx.offsets = windows, schedule, offsets
        blocks = _block_diagonal(weight, windows.index.shape[1])
        outputs = []
        for pose, activation in _chunks(windows, weight, poses, activations):
            chunk = _Chunk(pose, activation, blocks, windows, offsets)
            mean, active = _fit(chunk.votes, chunk.centre, activation, beta_u, beta_a, windows, schedule, _Ledger())
            del chunk  # before the next one is made
            outputs.append([x.unflatten(0, (-1, len(windows.index))) for x in (mean, active)])
        means, actives = zip(*outputs, strict=True)
        return torch.cat(means), torch.cat(actives)

    @staticmethod
    @without_autocast
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_active: Tensor) -> tuple[Any, ...]:
        poses, activations, weight, beta_u, beta_a = ctx.saved_tensors
        windows, schedule = ctx.windows, ctx.schedule
        blocks = _block_diagonal(weight, windows.index.shape[1])
        grad_blocks, grad_betas = torch.zeros_like(blocks), [torch.zeros_like(beta_u), torch.zeros_like(beta_a)]
        grad_poses, grad_activations = [], []
        for pose, activation, g_mean, g_active in _chunks(windows, weight, poses, activations, grad_mean, grad_active):
            chunk, ledger = _Chunk(pose, activation, blocks, windows, ctx.offsets), _Ledger()
            with torch.enable_grad():
                small = [x.detach().requires_grad_() for x in (activation, beta_u, beta_a)]
                active, *betas = small
                outputs = _fit(chunk.votes, chunk.centre, active, betas[0], betas[1], windows, schedule, ledger)
                wanted = (g_mean.flatten(0, 1), g_active.flatten(0, 1))
                grads = torch.autograd.grad(outputs, small, wanted)
            g_pose, g_blocks = chunk.backward(ledger.total())
            grad_blocks += g_blocks
            grad_poses.append(g_pose)
            grad_activations.append(grads[0])
            for total, grad in zip(grad_betas, grads[1:], strict=True):
                total += grad
        grad_weight = _diagonal_blocks(grad_blocks, weight.shape)
        return torch.cat(grad_poses), torch.cat(grad_activations), grad_weight, *grad_betas, None, None, None


def _chunks(windows: Windows, weight: Tensor, *tensors: Tensor) -> Any:
    """The tensors, a few images at a time."""
    kinds, caps = weight.shape[1:3]
    image = windows.index.numel() * kinds * caps * 2 * POSE * weight.element_size()  # bytes
    size = max(1, (GPU_CHUNK_BYTES if weight.is_cuda else CHUNK_BYTES) // image)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
