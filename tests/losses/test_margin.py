"""The margin softmax family against golden vectors, plain loops, the article's own form, and in float32."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import losses
from losses.margin import FAMILY, margin_function, psi_a, psi_am, psi_arc, psi_cos, psi_simpler

GOLDEN = {
    "sparse_logits_categorical_crossentropy": losses.normalized_softmax,
    "sparse_amsoftmax_loss": losses.am_softmax,
    "sparse_simpler_asoftmax_loss": losses.simpler_a_softmax,
}
ANGLES = torch.linspace(0.01, math.pi - 0.01, 501, dtype=torch.float64)  # theta, off the kinks


def margin_softmax_keras(cosine: Tensor, labels: Tensor, scale: float, psi) -> Tensor:
    """The article's form, the oracle of what it computes where it can: all classes and the margin's logit in one
    log-sum-exp, from which the target's own logit is taken out again by log(1 - exp(.))."""
    own = cosine.gather(1, labels[:, None])
    hard = psi(own)
    log_z = torch.logsumexp(scale * torch.cat([cosine, hard], dim=1), dim=1, keepdim=True)
    log_z = log_z + torch.log(1 - torch.exp(scale * own - log_z))
    return (log_z - scale * hard).squeeze(1)


def am_softmax_keras(cosine: Tensor, labels: Tensor, scale: float = 30.0, margin: float = 0.35) -> Tensor:
    return margin_softmax_keras(cosine, labels, scale, lambda own: own - margin)


def simpler_a_softmax_keras(cosine: Tensor, labels: Tensor, scale: float = 30.0) -> Tensor:
    return margin_softmax_keras(cosine, labels, scale, lambda own: torch.minimum(own, 1 - 8 * own**2 + 8 * own**4))


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("original", GOLDEN)
def test_golden(golden, original: str, case: int):
    """The original's numbers and gradients. 1e-10 absolute: its subtraction costs it at most 3e-11 on these rows."""
    vectors = np.load(golden / "margin_softmax.npz")
    cosine = torch.tensor(vectors[f"margin{case}_cos"], requires_grad=True)
    loss = GOLDEN[original](cosine, torch.tensor(vectors[f"margin{case}_labels"]), reduction="none")
    expected = torch.tensor(vectors[f"margin{case}_{original}_loss"])
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(loss.sum(), cosine)
    expected = torch.tensor(vectors[f"margin{case}_{original}_grad"])
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("ours", "keras"), [("am_softmax", am_softmax_keras), ("simpler_a_softmax", simpler_a_softmax_keras)]
)
def test_equals_the_article_where_it_can_be_computed(ours: str, keras):
    cosine, labels = 1.6 * torch.rand(40, 9, dtype=torch.float64) - 0.8, torch.arange(40) % 9
    # 1e-7: float64 leaves the article 1e-16 / (share of the target's complement), at the worst of these rows
    torch.testing.assert_close(
        getattr(losses, ours)(cosine, labels, reduction="none"), keras(cosine, labels), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("name", FAMILY)
def test_plain_loop(name: str):
    """L = -log(e^{s psi} / (e^{s psi} + sum of the others)), one exponential at a time."""
    angle = {
        "normalized_softmax": lambda t: math.cos(t),
        "am_softmax": lambda t: math.cos(t) - 0.35,
        "simpler_a_softmax": lambda t: min(math.cos(4 * t), math.cos(t)),
        "a_softmax": lambda t: (-1) ** int(4 * t / math.pi) * math.cos(4 * t) - 2 * int(4 * t / math.pi),
        "arc_face": lambda t: math.cos(t + 0.5) if t + 0.5 <= math.pi else math.cos(t) - 0.5 * math.sin(0.5),
    }[name]
    cosine, labels = 1.98 * torch.rand(60, 7, dtype=torch.float64) - 0.99, torch.arange(60) % 7
    got = getattr(losses, name)(cosine, labels, scale=8.0, reduction="none")
    for row, label, loss in zip(cosine.tolist(), labels.tolist(), got.tolist(), strict=True):
        target = math.exp(8 * angle(math.acos(row[label])))
        others = sum(math.exp(8 * c) for j, c in enumerate(row) if j != label)
        assert loss == pytest.approx(-math.log(target / (target + others)), rel=1e-9)


def test_psi_of_the_angle():
    """Every psi as its paper writes it, in theta; the Chebyshev form needs no arccos and has its exact gradient."""
    cosine = ANGLES.cos().requires_grad_()
    torch.testing.assert_close(psi_cos(cosine), ANGLES.cos())
    torch.testing.assert_close(psi_am(cosine, 0.35), ANGLES.cos() - 0.35)
    torch.testing.assert_close(psi_simpler(cosine), torch.minimum((4 * ANGLES).cos(), ANGLES.cos()))
    for m in (1, 2, 3, 4, 5):
        k = (m * ANGLES / math.pi).floor()
        torch.testing.assert_close(psi_a(cosine, m), (-1) ** k * (m * ANGLES).cos() - 2 * k)
        (slope,) = torch.autograd.grad(psi_a(cosine, m).sum(), cosine)
        torch.testing.assert_close(slope, (-1) ** k * m * (m * ANGLES).sin() / ANGLES.sin())
    for m in (0.2, 0.5):
        near = ANGLES + m <= math.pi
        values = psi_arc(cosine, m)
        torch.testing.assert_close(values[near], (ANGLES + m).cos()[near])
        torch.testing.assert_close(values[~near], (ANGLES.cos() - m * math.sin(m))[~near])
        (slope,) = torch.autograd.grad(values.sum(), cosine)
        torch.testing.assert_close(slope[near], ((ANGLES + m).sin() / ANGLES.sin())[near])


def test_arc_face_slope_against_the_usual_code():
    """arccos and margin outside the graph leave the target a slope of 1; the exact one is 0.7 to 2.4 times that."""
    theta = torch.linspace(0.3, 1.9, 101, dtype=torch.float64)
    cosine = theta.cos().requires_grad_()
    (slope,) = torch.autograd.grad(psi_arc(cosine, 0.5).sum(), cosine)
    assert (round(slope.min().item(), 1), round(slope.max().item(), 1)) == (0.7, 2.4)


@pytest.mark.parametrize("name", FAMILY)
def test_psi_never_helps(name: str):
    """psi <= cos theta, so a margin loss is never below the plain one; and psi(0) is finite with a finite slope."""
    _, psi = margin_function(name)
    cosine = ANGLES.cos()
    assert (psi(cosine) <= cosine + 1e-12).all()
    for edge in (-1.0, 1.0):
        value = torch.tensor([edge], requires_grad=True)
        (slope,) = torch.autograd.grad(psi(value), value)
        assert psi(value).isfinite()
        assert slope.isfinite()


@pytest.mark.parametrize("multiplier", [2, 3, 4, 7])
def test_a_softmax_falls_everywhere(multiplier: int):
    values = psi_a(torch.linspace(1, -1, 2001, dtype=torch.float64), multiplier)
    assert (values.diff() < 0).all()
    assert values[-1] == pytest.approx(1 - 2 * multiplier)  # theta = pi


def float32_errors(cosine: Tensor, labels: Tensor, function) -> tuple[float, float]:
    """Largest relative error of float32 against float64 on the same float32 cosines: loss, and gradient by row norm."""
    results = []
    for dtype in (torch.float32, torch.float64):
        values = cosine.to(dtype).requires_grad_()
        loss = function(values, labels)
        results.append((loss.detach().double(), torch.autograd.grad(loss.sum(), values)[0].double()))
    (loss, gradient), (true_loss, true_gradient) = results
    return (
        ((loss - true_loss).abs() / true_loss).max().item(),
        ((gradient - true_gradient).norm(dim=1) / true_gradient.norm(dim=1)).max().item(),
    )


def hard_rows(num_classes: int, target: float, rows: int = 16) -> tuple[Tensor, Tensor]:
    cosine = (0.09 * torch.randn(rows, num_classes)).clamp(-1, 1)
    labels = torch.randint(num_classes, (rows,))
    return cosine.scatter(1, labels[:, None], target), labels


@pytest.mark.parametrize("scale", [30.0, 64.0])
@pytest.mark.parametrize("num_classes", [100, 1000])
def test_float32_keeps_its_digits(scale: float, num_classes: int):
    """2e-5 at every margin and target cosine; benchmarks/loss_precision.py runs the whole grid, and 90 000 classes."""
    for target in (0.3, 0.6, 0.8, 0.9, 0.99):
        cosine, labels = hard_rows(num_classes, target)
        for margin in (0.2, 0.35, 0.5):
            errors = float32_errors(
                cosine, labels, lambda c, y, m=margin: losses.am_softmax(c, y, scale, m, reduction="none")
            )
            assert max(errors) <= 2e-5, (target, margin, errors)


def test_the_articles_form_does_not():
    """Why it is not the default: on a target that is all but certain it has lost everything in float32."""
    cosine, labels = hard_rows(1000, 0.9)
    assert am_softmax_keras(cosine, labels, 64.0).isinf().all()
    assert losses.am_softmax(cosine, labels, 64.0, reduction="none").isfinite().all()


@pytest.mark.parametrize("name", FAMILY)
def test_extreme_scale(name: str):
    """A scale of 1e4 overflows every exponential; loss and gradient stay finite, the loss linear in the gap."""
    cosine = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 1.0]], requires_grad=True)
    loss = getattr(losses, name)(cosine, torch.tensor([0, 0]), scale=1e4, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), cosine)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert loss[1] >= 2e4


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"loss is 'cosface'; expected one of normalized_softmax, am_softmax"):
        margin_function("cosface")
    with pytest.raises(ValueError, match="simpler_a_softmax has no margin"):
        margin_function("simpler_a_softmax", margin=0.3)
    with pytest.raises(ValueError, match="scale is -1"):
        losses.AmSoftmaxLoss(scale=-1)
    with pytest.raises(ValueError, match="margin is 4"):
        losses.ArcFaceLoss(margin=4)
    with pytest.raises(ValueError, match=r"multiplier is 2\.5; expected a whole number"):
        losses.ASoftmaxLoss(multiplier=2.5)  # type: ignore[arg-type]
    assert repr(losses.ArcFaceLoss()) == "ArcFaceLoss(scale=64.0, margin=0.5)"
