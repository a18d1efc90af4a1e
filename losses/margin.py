r"""The margin softmax family: cross-entropy over scaled cosines whose target has been made harder by a margin.

Legend: `B` batch, `C` classes; theta_j the angle between a row's embedding and the unit vector of class j, y its class.

.. math:: L = -\log \frac{e^{s \psi(\theta_y)}}{e^{s \psi(\theta_y)} + \sum_{j \ne y} e^{s \cos\theta_j}}
            = \operatorname{softplus}\Bigl(\log\sum_{j \ne y} e^{s \cos\theta_j} - s\,\psi(\theta_y)\Bigr)

The members differ in psi alone. They are computed by the right-hand side, which keeps every digit where the target is
nearly certain. The article's way (Su 2018, archives 5743: the log-sum-exp of all, plus log(1 - exp(s cos_y - logZ)) to
take the target out again) loses them all there: an error of 320 %, or infinity, in float32; see losses/README.md.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.class_terms import terms_of
from losses.common import check_reduction, reduce, split_labels, working_precision

Psi = Callable[[Tensor], Tensor]


def cost(others: Tensor, target: Tensor) -> Tensor:
    r"""softplus(others - target), the cross-entropy of a target logit against the log-sum-exp of the others.

    torch's softplus is the identity above its threshold: 50 instead of 20 keeps float64 exact and overflows nowhere.
    """
    return F.softplus(others - target, threshold=50.0)


def psi_cos(cosine: Tensor) -> Tensor:
    r"""psi = cos theta: no margin."""
    return cosine


def psi_am(cosine: Tensor, margin: float) -> Tensor:
    r"""psi = cos theta - m (Wang et al. 2018, eq. 5)."""
    return cosine - margin


def psi_simpler(cosine: Tensor) -> Tensor:
    r"""psi = min(cos 4 theta, cos theta) (Su 2018, archives 5743), with cos 4 theta = 8 cos^4 - 8 cos^2 + 1."""
    square = cosine.square()
    return torch.minimum(cosine, 8 * square * (square - 1) + 1)


def psi_a(cosine: Tensor, multiplier: int) -> Tensor:
    r"""psi = (-1)^k cos(m theta) - 2k on theta in [k pi / m, (k + 1) pi / m] (Liu et al. 2017, eq. 7).

    cos(m theta) is the Chebyshev polynomial T_m of the cosine: no arccos, so the gradient is exact and finite at +-1.
    """
    before, chebyshev = torch.ones_like(cosine), cosine
    for _ in range(multiplier - 1):
        before, chebyshev = chebyshev, 2 * cosine * chebyshev - before
    k = torch.zeros_like(cosine)
    for step in range(1, multiplier):
        k = k + (cosine < math.cos(step * math.pi / multiplier)).to(cosine.dtype)
    sign = 1 - 2 * (k % 2)
    return sign * chebyshev - 2 * k


def psi_arc(cosine: Tensor, margin: float) -> Tensor:
    r"""psi = cos(theta + m) where theta + m <= pi, else cos theta - m sin m (Deng et al. 2019, eq. 3, and their code).

    cos(theta + m) = cos theta cos m - sin theta sin m with sin theta = sqrt((1 - cos)(1 + cos)). The slope of the sine
    is infinite at cos = +-1: it is floored at sqrt(eps) of the dtype, below which its gradient is zero.
    """
    floor = torch.finfo(cosine.dtype).eps
    sine = ((1 - cosine) * (1 + cosine)).clamp(min=floor).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= math.cos(math.pi - margin), turned, cosine - margin * math.sin(margin))


# name -> psi, the default scale, and the name and default of what else it takes
FAMILY: dict[str, tuple[Callable[..., Tensor], float, dict[str, float | int]]] = {
    "normalized_softmax": (psi_cos, 30.0, {}),
    "am_softmax": (psi_am, 30.0, {"margin": 0.35}),
    "simpler_a_softmax": (psi_simpler, 30.0, {}),
    "a_softmax": (psi_a, 30.0, {"multiplier": 4}),
    "arc_face": (psi_arc, 64.0, {"margin": 0.5}),
}


def margin_function(
    name: str, scale: float | None = None, margin: float | None = None, multiplier: int | None = None
) -> tuple[float, Psi]:
    """The scale and psi of a member of the family; None stands for its default.

    Raises:
        ValueError: an unknown name, a setting that this member does not have, or one out of range.
    """
    if name not in FAMILY:
        raise ValueError(f"loss is {name!r}; expected one of {', '.join(FAMILY)}")
    psi, default_scale, settings = FAMILY[name]
    scale = default_scale if scale is None else scale
    given: dict[str, float | int | None] = {"margin": margin, "multiplier": multiplier}
    for key, value in given.items():
        if value is not None and key not in settings:
            raise ValueError(f"{name} has no {key}; it takes {', '.join(['scale', *settings])}")
    chosen = settings | {key: value for key, value in given.items() if value is not None}
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected a number above 0")
    if not 0 <= chosen.get("margin", 0) <= math.pi:
        raise ValueError(f"margin is {chosen['margin']}; expected 0 to pi")
    if chosen.get("multiplier", 1) not in range(1, 17):
        raise ValueError(f"multiplier is {chosen['multiplier']}; expected a whole number, 1 to 16")
    return float(scale), partial(psi, **chosen)


def _margin_softmax(
    cosine: Tensor, labels: Tensor, scale: float, psi: Psi, reduction: str, ignore_index: int
) -> Tensor:
    if cosine.dim() != 2:
        raise ValueError(f"cosine has shape {tuple(cosine.shape)}; expected (batch, classes)")
    cosine = working_precision(cosine)
    index, counted = split_labels(labels, cosine.shape[1], ignore_index, cosine.shape[:1])
    others, target = terms_of(cosine, index, scale)  # (B,) each
    return reduce(cost(others, scale * psi(target)), reduction, counted)


def normalized_softmax(
    cosine: Tensor, labels: Tensor, scale: float = 30.0, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""Cross-entropy over scaled cosines, psi = cos theta (NormFace: Wang et al. 2017, eq. 6; no margin).

    Args:
        cosine: (B, C) cosines between embeddings and classes, within [-1, 1].
        labels: (B,) class numbers, or `ignore_index`.
        scale: s, the factor on the cosines (30 in the article, 64 in the face papers).
        reduction: `none`, `mean` (over the rows that count; 0 where none does) or `sum`.
        ignore_index: the label of rows to leave out.

    Returns:
        (B,) for `none`, else a scalar, in the dtype of `cosine` but at least float32. One class alone costs 0.

    Raises:
        ValueError: shapes that do not fit, a label out of range (named with its row), an unknown reduction.
    """
    psi = margin_function("normalized_softmax", scale)[1]
    return _margin_softmax(cosine, labels, scale, psi, reduction, ignore_index)


def am_softmax(
    cosine: Tensor,
    labels: Tensor,
    scale: float = 30.0,
    margin: float = 0.35,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""AM-Softmax, also CosFace (Wang et al. 2018, eq. 5-6; archives 5743): psi = cos theta - m.

    Arguments, result and errors as in :func:`normalized_softmax`; `margin` is m, on the cosine.
    """
    psi = margin_function("am_softmax", scale, margin)[1]
    return _margin_softmax(cosine, labels, scale, psi, reduction, ignore_index)


def simpler_a_softmax(
    cosine: Tensor, labels: Tensor, scale: float = 30.0, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""Simpler A-Softmax (Su 2018, archives 5743): psi = min(cos 4 theta, cos theta), without A-Softmax's branches.

    Arguments, result and errors as in :func:`normalized_softmax`. psi is below cos theta for theta < 2 pi / 5 and equal
    to it from there to 2 pi / 3: the margin acts on targets that are already near. psi is not monotone.
    """
    psi = margin_function("simpler_a_softmax", scale)[1]
    return _margin_softmax(cosine, labels, scale, psi, reduction, ignore_index)


def a_softmax(
    cosine: Tensor,
    labels: Tensor,
    scale: float = 30.0,
    multiplier: int = 4,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""A-Softmax, also SphereFace (Liu et al. 2017, eq. 7): psi = (-1)^k cos(m theta) - 2k, m = `multiplier`.

    Arguments, result and errors as in :func:`normalized_softmax`.

    *Deviation:* embeddings have unit length and a fixed scale, as in the article; the paper keeps their length and
    anneals the margin in by a weight lambda.
    """
    psi = margin_function("a_softmax", scale, multiplier=multiplier)[1]
    return _margin_softmax(cosine, labels, scale, psi, reduction, ignore_index)


def arc_face(
    cosine: Tensor,
    labels: Tensor,
    scale: float = 64.0,
    margin: float = 0.5,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""ArcFace (Deng et al. 2019, eq. 3): psi = cos(theta + m); past theta + m = pi, cos theta - m sin m.

    Arguments, result and errors as in :func:`normalized_softmax`; `margin` is m in radians.

    *Deviation:* none in the value. The gradient is the exact one; the usual implementation takes the arccos and the
    cosine outside the graph, a slope of 1 where the true one is 0.7 to 2.4 (m = 0.5, theta from 0.3 to 1.9).
    """
    psi = margin_function("arc_face", scale, margin)[1]
    return _margin_softmax(cosine, labels, scale, psi, reduction, ignore_index)


class _CosineLoss(nn.Module):
    """What the modules of this family share: the settings, checked when they are made."""

    def __init__(self, name: str, reduction: str, ignore_index: int, scale: float, **settings: float):
        super().__init__()
        check_reduction(reduction)
        self.scale, self.psi = margin_function(name, scale, **settings)  # type: ignore[arg-type]
        self.settings = {"scale": scale, **settings}
        self.reduction, self.ignore_index = reduction, ignore_index

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())

    def forward(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return _margin_softmax(cosine, labels, self.scale, self.psi, self.reduction, self.ignore_index)


class NormalizedSoftmaxLoss(_CosineLoss):
    """Module of :func:`normalized_softmax`."""

    def __init__(self, scale: float = 30.0, reduction: str = "mean", ignore_index: int = -100):
        super().__init__("normalized_softmax", reduction, ignore_index, scale=scale)


class AmSoftmaxLoss(_CosineLoss):
    """Module of :func:`am_softmax`."""

    def __init__(self, scale: float = 30.0, margin: float = 0.35, reduction: str = "mean", ignore_index: int = -100):
        super().__init__("am_softmax", reduction, ignore_index, scale=scale, margin=margin)


class SimplerASoftmaxLoss(_CosineLoss):
    """Module of :func:`simpler_a_softmax`."""

    def __init__(self, scale: float = 30.0, reduction: str = "mean", ignore_index: int = -100):
        super().__init__("simpler_a_softmax", reduction, ignore_index, scale=scale)


class ASoftmaxLoss(_CosineLoss):
    """Module of :func:`a_softmax`."""

    def __init__(self, scale: float = 30.0, multiplier: int = 4, reduction: str = "mean", ignore_index: int = -100):
        super().__init__("a_softmax", reduction, ignore_index, scale=scale, multiplier=multiplier)


class ArcFaceLoss(_CosineLoss):
    """Module of :func:`arc_face`."""

    def __init__(self, scale: float = 64.0, margin: float = 0.5, reduction: str = "mean", ignore_index: int = -100):
        super().__init__("arc_face", reduction, ignore_index, scale=scale, margin=margin)
