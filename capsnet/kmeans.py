r"""Soft and hard K-means with two metrics: the clustering that routing is derived from (Su 2018b, archives/5112).

Shapes: ``I`` points, ``J`` centres, ``D`` dimension; any leading batch axes.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["euclidean", "inner_product"]


class Clusters(NamedTuple):
    """What `kmeans` returns."""

    centres: Tensor  # (..., J, D)
    assignment: Tensor  # (..., I, J), sums to 1 over J
    objectives: Tensor  # (num_iters + 1, ...): before the first update and after each


def kmeans(
    points: Tensor,
    centres: Tensor,
    metric: Metric = "euclidean",
    temperature: float = 1.0,
    num_iters: int = 10,
    hard: bool = False,
) -> Clusters:
    r"""Minimise the softened K-means objective by its fixed point (Su 2018b).

    .. math:: L = -\frac{1}{K} \sum_i \log \sum_j e^{-K d(u_i, v_j)}, \qquad
              c_{ij} = \mathrm{softmax}_j(-K d(u_i, v_j)), \qquad 0 = \sum_i c_{ij} \frac{\partial d(u_i,
              v_j)}{\partial v_j}

    which no step increases. ``euclidean``: :math:`d = \lVert u - v \rVert^2`, so a centre is the weighted mean of its
    points; ``inner_product``: :math:`d = -\langle u, v / \lVert v \rVert \rangle`, so it is the weighted *sum*: more
    members, more length, which is what a capsule wants. ``hard`` is the limit :math:`K \to \infty`: :math:`L = \sum_i
    \min_j d(u_i, v_j)`.

    Args:
        points: (..., I, D).
        centres: (..., J, D), where to begin.
        temperature: K of the article, an inverse length (or squared length); larger is harder. Ignored when ``hard``.
        num_iters: updates of the centres.
        hard: assign each point wholly to its nearest centre (the first on a tie).

    Returns: `Clusters`; a centre that no point chooses stays where it is.

    Raises:
        ValueError: an unknown metric, a temperature that is not positive, shapes that do not fit.
    """
    if metric not in ("euclidean", "inner_product"):
        raise ValueError(f"metric must be 'euclidean' or 'inner_product', got {metric!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if points.shape[-1] != centres.shape[-1]:
        raise ValueError(f"points of dimension {points.shape[-1]}, centres of dimension {centres.shape[-1]}")
    assignment, objective = _assign(points, centres, metric, temperature, hard)
    objectives = [objective]
    for _ in range(num_iters):
        members = assignment.transpose(-1, -2)  # (..., J, I)
        sums, weights = members @ points, members.sum(dim=-1, keepdim=True)
        if metric == "euclidean":
            centres = torch.where(weights > 0, sums / weights.clamp_min(torch.finfo(points.dtype).tiny), centres)
        else:
            centres = torch.where(weights > 0, sums, centres)
        assignment, objective = _assign(points, centres, metric, temperature, hard)
        objectives.append(objective)
    return Clusters(centres, assignment, torch.stack(objectives))


def _assign(points: Tensor, centres: Tensor, metric: Metric, temperature: float, hard: bool) -> tuple[Tensor, Tensor]:
    """Couplings (..., I, J) and the objective (...) at these centres."""
    if metric == "euclidean":
        distance = (points.unsqueeze(-2) - centres.unsqueeze(-3)).square().sum(dim=-1)  # (..., I, J)
    else:
        distance = -points @ F.normalize(centres, dim=-1).transpose(-1, -2)
    if hard:
        nearest = distance.argmin(dim=-1)
        objective = distance.amin(dim=-1).sum(dim=-1)
        return F.one_hot(nearest, centres.shape[-2]).to(points.dtype), objective
    logits = -temperature * distance
    return logits.softmax(dim=-1), -logits.logsumexp(dim=-1).sum(dim=-1) / temperature
