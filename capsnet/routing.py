r"""Routing as clustering (Su 2018a, archives/4819; Su 2018b, archives/5112; Sabour, Frosst & Hinton 2017).

A capsule layer clusters its votes: vote :math:`\hat u_{ij}` is what input capsule *i* says about output capsule *j*,
and the outputs are the cluster centres. One loop serves every routing and every way of holding the votes: it only ever
asks for

* ``combine(coupling)``: :math:`s_j = \sum_i c_{ij} \hat u_{ij}`, the weighted sum of the votes, and
* ``agree(v)``: :math:`b_{ij} = \langle \hat u_{ij}, v_j \rangle`, the agreement of each vote with a centre,

so a transform that can answer both without building the votes (``capsnet.transforms``) never builds them. `route`
answers them from explicit votes and is the reference.

Shapes: ``B`` batch, ``I`` input capsules, ``O`` output capsules, ``D`` dimension of an output capsule.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Routing = Literal["dynamic", "fixed_point", "kmeans", "kmeans_hard"]

# The Keras original adds its epsilon to the squared norm, which also keeps the gradient finite at a zero vector.
SQUASH_EPSILON = 1e-7


class Votes(Protocol):
    """What the routing loop needs to know of the votes."""

    def combine(self, coupling: Tensor | None) -> Tensor:
        """(B, I, O) -> (B, O, D); ``None`` stands for uniform couplings, 1/O each."""

    def agree(self, v: Tensor) -> Tensor:
        """(B, O, D) -> (B, I, O)."""


@dataclass(frozen=True)
class RoutingStep:
    """What one iteration of routing did, for plots and tests; detached.

    Attributes:
        coupling: (B, I, O), sums to 1 over O.
        entropy: (B, I), entropy of each input's couplings in nats, from 0 (decided) to log O (undecided).
        objective: (B,), the inner-product K-means objective at this step's centres (Su 2018b, K = 1).
    """

    coupling: Tensor
    entropy: Tensor
    objective: Tensor


class ExplicitVotes:
    """Votes held as a (B, I, O, D) tensor."""

    def __init__(self, u_hat: Tensor) -> None:
        self.u_hat = u_hat

    def combine(self, coupling: Tensor | None) -> Tensor:
        if coupling is None:
            return self.u_hat.sum(dim=1) / self.u_hat.shape[2]  # (B, O, D)
        return torch.einsum("bio,biod->bod", coupling, self.u_hat)

    def agree(self, v: Tensor) -> Tensor:
        return torch.einsum("biod,bod->bio", self.u_hat, v)


def squash(x: Tensor, constant: float = 0.5, dim: int = -1) -> Tensor:
    r"""Squash (Sabour et al. 2017, eq. 1; Su 2018a): keep the direction, map the length into [0, 1).

    .. math:: \mathrm{squash}(x) = \frac{\lVert x \rVert^2}{c + \lVert x \rVert^2} \frac{x}{\lVert x \rVert}

    with :math:`c` = ``constant``: 1 is the paper's, 0.5 the article's, which magnifies near zero.

    *Deviation:* as in the Keras original, 1e-7 is added to the squared norm, so the zero vector has a value (zero) and
    a finite gradient.

    Args:
        x: vectors along ``dim``.
        constant: positive, unitless.
        dim: the axis that holds a vector's components.

    Shape: any -> the same.

    Raises:
        ValueError: ``constant`` is not positive.
    """
    if not constant > 0:
        raise ValueError(f"squash: constant must be positive, got {constant}")
    squared_norm = x.square().sum(dim=dim, keepdim=True) + SQUASH_EPSILON
    return x * (squared_norm.sqrt() / (constant + squared_norm))


def route(
    u_hat: Tensor,
    routing: Routing = "kmeans",
    num_iters: int = 3,
    squash_constant: float = 0.5,
    trace: list[RoutingStep] | None = None,
) -> Tensor:
    r"""Route explicit votes: the plain reference that every faster path is tested against.

    =============  ==============================================================================================
    ``dynamic``    Sabour et al. 2017, procedure 1: :math:`v = \mathrm{squash}(s)`, logits *accumulate* the agreement
    ``fixed_point``  Su 2018a: the same, but the logits are *replaced* by the agreement
    ``kmeans``     Su 2018b: centres normalised in between, no squash inside, squash at the end
    ``kmeans_hard``  Su 2018b: as ``kmeans`` with each input wholly given to its best centre (first one on a tie)
    =============  ==============================================================================================

    Args:
        u_hat: the votes.
        num_iters: how many times the votes are summed, counted as ``routings`` in the Keras original: 1 is a uniform
            average without any routing.
        squash_constant: see `squash`.
        trace: a list to which one `RoutingStep` an iteration is appended.

    Shape: (B, I, O, D) -> (B, O, D). Half precision is computed in float32, also under autocast, and returned as it
    came.

    Raises:
        ValueError: an unknown routing, ``num_iters`` below 1, or votes that are not 4-dimensional.
    """
    if u_hat.dim() != 4:
        raise ValueError(f"route: expected votes of shape (B, I, O, D), got {tuple(u_hat.shape)}")
    with torch.autocast(u_hat.device.type, enabled=False):
        votes = ExplicitVotes(at_least_float32(u_hat))
        return route_votes(votes, routing, num_iters, squash_constant, trace).to(u_hat.dtype)


def route_votes(
    votes: Votes,
    routing: Routing,
    num_iters: int,
    squash_constant: float,
    trace: list[RoutingStep] | None = None,
) -> Tensor:
    """The routing loop over anything that can combine its votes and agree with centres: see `route`."""
    check_routing(routing, num_iters)
    kmeans = routing in ("kmeans", "kmeans_hard")
    coupling, logits = None, None
    for iteration in range(num_iters):
        s = votes.combine(coupling)  # (B, O, D)
        if trace is not None:
            trace.append(_step(votes, coupling, s))
        if iteration == num_iters - 1:
            break
        v = F.normalize(s, dim=-1) if kmeans else squash(s, squash_constant)
        agreement = votes.agree(v)  # (B, I, O)
        logits = agreement if logits is None or routing != "dynamic" else logits + agreement
        if routing == "kmeans_hard":
            coupling = F.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits.dtype)
        else:
            coupling = logits.softmax(dim=2)  # (B, I, O), sums to 1 over O
    return squash(s, squash_constant)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is: sums of squares of more than 256 overflow a half."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def kernels_run_on(x: Tensor) -> bool:
    """Whether the kernels of `capsnet.triton_routing` can run on it: on a GPU where Triton is installed, or on a CPU by
    Triton's interpreter (TRITON_INTERPRET=1).
    """
    return find_spec("triton") is not None and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


def check_routing(routing: str, num_iters: int) -> None:
    """Raise ValueError unless ``routing`` is known and ``num_iters`` at least 1."""
    if routing not in get_args(Routing):
        raise ValueError(f"routing must be one of {', '.join(get_args(Routing))}; got {routing!r}")
    if num_iters < 1:
        raise ValueError(f"num_iters must be at least 1 (1 is a uniform average), got {num_iters}")


@torch.no_grad()
def _step(votes: Votes, coupling: Tensor | None, s: Tensor) -> RoutingStep:
    agreement = votes.agree(F.normalize(s, dim=-1))  # (B, I, O)
    if coupling is None:
        coupling = torch.full_like(agreement, 1 / agreement.shape[2])
    entropy = torch.special.entr(coupling).sum(dim=2)
    return RoutingStep(coupling.detach(), entropy, -agreement.logsumexp(dim=2).sum(dim=1))
