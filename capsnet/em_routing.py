r"""EM routing (Hinton, Sabour & Frosst 2018, *Matrix capsules with EM routing*; Su 2018c, archives/5155).

Output capsules are the Gaussians of a mixture, fitted by EM to the votes of the input capsules, with a difference from
an ordinary mixture: every Gaussian sees votes of its own, :math:`V_{ij} = P_i W_{ij}`, and has an activation
:math:`a_j` in place of its mixing weight. One iteration:

.. math::
    r_{ij} &= a_i R_{ij} / \sum_i a_i R_{ij}, \qquad
    M_j = \sum_i r_{ij} V_{ij}, \qquad (\sigma_j^l)^2 = \sum_i r_{ij} (V_{ij}^l - M_j^l)^2 \\
    cost_j &= \Big(\beta_u + \sum_l \log \sigma_j^l\Big) \sum_i a_i R_{ij}, \qquad
    a_j = \mathrm{sigmoid}(\lambda (\beta_a - cost_j)) \\
    R_{ij} &= a_j N(V_{ij}; M_j, \sigma_j^2) / \sum_j a_j N(V_{ij}; M_j, \sigma_j^2)

This file is the plain form on explicit votes: the reference that `capsnet.matrix` and the Triton kernels are tested
against. Everything that multiplies probabilities is done with logarithms.

Shapes: ``B`` batch, ``I`` input capsules, ``O`` output capsules, ``d`` numbers of a pose (16).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from capsnet.routing import at_least_float32

Version = Literal[1, 2, 3, 4]

VARIANCE_FLOOR = 5e-4  # added to every variance, as in the official code: votes that agree wholly leave no infinity
MASS_FLOOR = 1e-10  # of the weight that a capsule was given, so that one that was given none has a mean (zero)


@dataclass(frozen=True)
class EMStep:
    """What one iteration did, for pictures and tests; detached, float32 or better.

    Attributes:
        assignment: (B, I, O), R: the share of each input that goes to each output; sums to 1 over O.
        mass: (B, O), the sum of what the output was given: of a_i R_ij, or of R_ij in versions 1 and 2.
        mean, variance: (B, O, d) of the Gaussians; the floor is part of the variance.
        activation: (B, O).
        entropy: (B, O), differential entropy of each Gaussian in nats, see `gaussian_entropy`.
    """

    assignment: Tensor
    mass: Tensor
    mean: Tensor
    variance: Tensor
    activation: Tensor
    entropy: Tensor


def inverse_temperatures(num_iters: int, final: float = 0.01) -> list[float]:
    """The official code's schedule: ``final * (1 - 0.95 ** (t + 1))`` at iteration t; the paper gives none.

    >>> [round(x, 6) for x in inverse_temperatures(3)]
    [0.0005, 0.000975, 0.001426]
    """
    return [final * (1 - 0.95 ** (t + 1)) for t in range(num_iters)]


def gaussian_entropy(variance: Tensor) -> Tensor:
    r"""Entropy of diagonal Gaussians, :math:`S = d/2 + \sum_l \log \sigma^l + d/2 \log 2\pi`: (.., d) -> (..).

    The article's reading of the cost: the average of :math:`-\log N(V_{ij}; M_j, \sigma_j^2)` over the votes, weighted
    by r_ij, is exactly S_j, for the weighted squared distance is d by the definition of the variance. So the cost is an
    entropy, but for constants that beta_u takes up, and an active capsule is one whose votes agree.
    """
    dims = variance.shape[-1]
    return 0.5 * variance.log().sum(dim=-1) + dims * (0.5 + 0.5 * math.log(2 * math.pi))


def em_routing(
    votes: Tensor,
    activations: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    num_iters: int = 3,
    *,
    version: Version = 4,
    inverse_temperature: Sequence[float] | None = None,
    variance_floor: float = VARIANCE_FLOOR,
    initial: Tensor | None = None,
    trace: list[EMStep] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Route explicit votes by EM.

    The article comes to the paper's procedure in four versions:

    ===  ============================================================================================================
    1    an ordinary mixture of Gaussians: mixing weights pi_j, the mean of R_ij over i, which are also the activations
    2    a_j in place of pi_j, from the entropy: cost_j = beta_u + sum of log sigma_j
    3    the input activations weight the votes: r_ij ~ a_i R_ij
    4    and the cost: times the sum of a_i R_ij (the paper's)
    ===  ============================================================================================================

    *Deviation:* the paper adds beta_u to the cost of each of the d numbers, so its beta_u is 1/d of the one here (the
    article's).

    Args:
        votes: V_ij, the poses that input i proposes for output j.
        activations: a_i of the inputs, 0 to 1.
        beta_u: cost of an output for describing its votes at all, before their spread.
        beta_a: benefit of being active.
        num_iters: M-steps; between two of them lies an E-step. 1 is the weighted mean.
        version: see the table. Versions 1 and 2 use no activations, version 1 no betas.
        inverse_temperature: lambda of each iteration; None: `inverse_temperatures`.
        variance_floor: added to the variances, in squared units of the votes.
        initial: (B, I, O) the first R; None: uniform.
        trace: a list to which one `EMStep` an iteration is appended.

    Shape: votes (B, I, O, 4, 4), activations (B, I), betas (O,) -> poses (B, O, 4, 4), activations (B, O). Half
    precision is computed in float32, also under autocast, and returned as it came.

    Raises:
        ValueError: shapes that do not fit, no inputs, an unknown version, or not one lambda an iteration.
    """
    _check(votes, activations, beta_u, beta_a, initial, num_iters, version)
    schedule = inverse_temperatures(num_iters) if inverse_temperature is None else list(inverse_temperature)
    if len(schedule) != num_iters:
        raise ValueError(f"em_routing: {len(schedule)} inverse temperatures for {num_iters} iterations")
    given, shape = votes.dtype, votes.shape[3:]
    votes = at_least_float32(votes)
    dtype = votes.dtype
    activations, beta_u, beta_a = (x.to(dtype) for x in (activations, beta_u, beta_a))
    votes = votes.flatten(3)  # (B, I, O, d)
    inputs = torch.ones_like(activations) if version < 3 else activations
    assignment = initial.to(dtype) if initial is not None else torch.full_like(votes[..., 0], 1 / votes.shape[2])
    for iteration, temperature in enumerate(schedule):
        weights = inputs.unsqueeze(2) * assignment  # (B, I, O)
        mass = weights.sum(dim=1)  # (B, O)
        mean, variance = _moments(votes, weights, mass, variance_floor)
        spread = 0.5 * variance.log().sum(dim=2)  # (B, O), the sum of log sigma
        log_prior = (mass / votes.shape[1] + MASS_FLOOR).log()  # of version 1: the mixing weights
        if version > 1:
            cost = (beta_u + spread) * (mass if version == 4 else 1.0)
            log_prior = F.logsigmoid(temperature * (beta_a - cost))
        if trace is not None:
            step = (assignment, mass, mean, variance, log_prior.exp(), gaussian_entropy(variance))
            trace.append(EMStep(*(x.detach() for x in step)))
        if iteration == num_iters - 1:
            break
        distance = ((votes - mean.unsqueeze(1)).square() / variance.unsqueeze(1)).sum(dim=3)  # (B, I, O)
        scores = (log_prior - spread).unsqueeze(1) - 0.5 * distance  # log a_j N(V_ij), but for a constant
        assignment = scores.softmax(dim=2)  # (B, I, O), sums to 1 over O
    return mean.unflatten(2, shape).to(given), log_prior.exp().to(given)


def _moments(votes: Tensor, weights: Tensor, mass: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Weighted mean and variance, (B, O, d) each."""
    share = weights / (mass + MASS_FLOOR).unsqueeze(1)  # (B, I, O), sums to 1 over I
    with torch.autocast(votes.device.type, enabled=False):
        mean = torch.einsum("bio,biod->bod", share, votes)
        variance = torch.einsum("bio,biod->bod", share, (votes - mean.unsqueeze(1)).square())
    return mean, variance + floor


def _check(
    votes: Tensor,
    activations: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    initial: Tensor | None,
    num_iters: int,
    version: int,
) -> None:
    if votes.dim() < 4 or votes.shape[1] == 0:
        raise ValueError(f"em_routing: expected votes (B, I, O, 4, 4) with I > 0, got {tuple(votes.shape)}")
    if activations.shape != votes.shape[:2]:
        expected = tuple(votes.shape[:2])
        raise ValueError(f"em_routing: expected activations {expected}, got {tuple(activations.shape)}")
    for name, beta in (("beta_u", beta_u), ("beta_a", beta_a)):
        if beta.shape != votes.shape[2:3]:
            raise ValueError(f"em_routing: expected {name} ({votes.shape[2]},), got {tuple(beta.shape)}")
    if initial is not None and initial.shape != votes.shape[:3]:
        expected = tuple(votes.shape[:3])
        raise ValueError(f"em_routing: expected initial {expected}, got {tuple(initial.shape)}")
    if num_iters < 1:
        raise ValueError(f"num_iters must be at least 1 (1 is the weighted mean), got {num_iters}")
    if version not in get_args(Version):
        raise ValueError(f"version must be 1, 2, 3 or 4; got {version!r}")
