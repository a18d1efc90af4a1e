"""What every loss must do, whatever it computes: gradients, reductions, ignored rows, bad and degenerate input."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import losses

CLASSES, DIM = 5, 4


def cosines(*shape: int) -> Tensor:
    return 1.8 * torch.rand(*shape, dtype=torch.float64) - 0.9  # away from +-1 and, almost surely, from kinks


def unit_interval(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def distributions(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).softmax(-1)


def gaussians(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """`function(values, labels, **options)` on values (B, width) of `draw`; `module` builds the same as a Module."""

    function: Callable[..., Tensor]
    module: Callable[..., torch.nn.Module]
    draw: Callable[..., Tensor]
    width: int = CLASSES
    ignores: bool = True

    def inputs(self, batch: int = 6) -> tuple[Tensor, Tensor]:
        return self.draw(batch, self.width), torch.arange(batch) % CLASSES


CENTERS = torch.linspace(-1, 1, CLASSES * DIM, dtype=torch.float64).reshape(CLASSES, DIM)


def center_module(**options):
    module = losses.CenterLoss(CLASSES, DIM, **options).double()
    module.centers.data.copy_(CENTERS)
    return module


def head(chunk_size: int | None, **options) -> losses.MarginSoftmaxHead:
    module = losses.MarginSoftmaxHead(DIM, CLASSES, "am_softmax", chunk_size, scale=4.0, **options).double()
    module.weight.data.copy_(torch.nn.functional.normalize(CENTERS + 0.3, dim=1))
    return module


CASES = {
    "uniform_cross_entropy": Case(losses.uniform_cross_entropy, losses.UniformCrossEntropyLoss, gaussians),
    "normalized_softmax": Case(losses.normalized_softmax, losses.NormalizedSoftmaxLoss, cosines),
    "am_softmax": Case(losses.am_softmax, losses.AmSoftmaxLoss, cosines),
    "simpler_a_softmax": Case(losses.simpler_a_softmax, losses.SimplerASoftmaxLoss, cosines),
    "a_softmax": Case(losses.a_softmax, losses.ASoftmaxLoss, cosines),
    "arc_face": Case(losses.arc_face, losses.ArcFaceLoss, cosines),
    "capsule_margin": Case(losses.capsule_margin, losses.CapsuleMarginLoss, unit_interval),
    "spread": Case(lambda a, y, **o: losses.spread(a, y, 0.2, **o), losses.SpreadLoss, unit_interval),
    "center": Case(lambda x, y, **o: losses.center(x, y, CENTERS, **o), center_module, gaussians, DIM),
    "soft_macro_f1": Case(losses.soft_macro_f1, losses.SoftMacroF1Loss, distributions),
    "head_dense": Case(lambda x, y, **o: head(None, **o)(x, y), lambda **o: head(None, **o), gaussians, DIM),
    "head_chunked": Case(lambda x, y, **o: head(2, **o)(x, y), lambda **o: head(2, **o), gaussians, DIM),
}
BATCH_LOSS = {"soft_macro_f1"}  # one number a batch, under every reduction
HEADS = {"head_dense", "head_chunked"}


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


def test_gradcheck(case: Case):
    values, labels = case.inputs()
    labels[2] = -100
    for reduction in ("none", "mean"):
        assert torch.autograd.gradcheck(
            lambda v, reduction=reduction: case.function(v, labels, reduction=reduction), (values.requires_grad_(),)
        )


def test_second_derivatives(case: Case, name: str):
    """All but the chunked head, which says that it has none."""
    values, labels = case.inputs(4)
    values.requires_grad_()
    if name != "head_chunked":
        assert torch.autograd.gradgradcheck(lambda v: case.function(v, labels), (values,))
        return
    (gradient,) = torch.autograd.grad(case.function(values, labels), values, create_graph=True)
    with pytest.raises(RuntimeError, match="chunked_terms_backward"):
        gradient.sum().backward()


def test_module_is_function(case: Case, name: str):
    values, labels = case.inputs()
    for reduction in ("none", "mean", "sum"):
        module = case.module(reduction=reduction)
        torch.testing.assert_close(module(values, labels), case.function(values, labels, reduction=reduction))


def test_reductions_agree(case: Case, name: str):
    values, labels = case.inputs()
    rows = case.function(values, labels, reduction="none")
    assert rows.shape == (() if name in BATCH_LOSS else (6,))
    torch.testing.assert_close(case.function(values, labels), rows.mean())
    torch.testing.assert_close(case.function(values, labels, reduction="sum"), rows.sum())
    with pytest.raises(ValueError, match="reduction is 'avg'; expected one of none, mean, sum"):
        case.function(values, labels, reduction="avg")


def test_ignored_rows_leave_no_trace(case: Case, name: str):
    values, labels = case.inputs()
    marked = labels.clone()
    marked[[1, 4]] = 77
    keep = [0, 2, 3, 5]
    values.requires_grad_()
    loss = case.function(values, marked, ignore_index=77)
    torch.testing.assert_close(loss, case.function(values[keep], labels[keep]))
    (gradient,) = torch.autograd.grad(loss, values)
    assert (gradient[[1, 4]] == 0).all()
    assert gradient[keep].abs().sum() > 0
    if name not in BATCH_LOSS:
        assert (case.function(values, marked, ignore_index=77, reduction="none")[[1, 4]] == 0).all()


@pytest.mark.parametrize("batch", [0, 3])
def test_no_rows_cost_nothing(case: Case, batch: int):
    """An empty batch, and one whose rows are all ignored: loss 0 and gradient 0, not NaN."""
    values = case.draw(batch, case.width).requires_grad_()
    loss = case.function(values, torch.full((batch,), -100))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient.shape == values.shape
    assert (gradient == 0).all()


@pytest.mark.parametrize("label", [CLASSES, -1, 70_000])
def test_label_out_of_range_is_named(case: Case, label: int):
    values, labels = case.inputs()
    labels[3] = label
    with pytest.raises(ValueError, match=rf"label {label} at row 3 is outside 0\.\.4 \(5 classes\)"):
        case.function(values, labels)


def test_labels_of_another_kind_are_refused(case: Case):
    values, labels = case.inputs()
    with pytest.raises(ValueError, match=r"integer dtype, not torch\.float32"):
        case.function(values, labels.float())
    with pytest.raises(ValueError, match="shape"):
        case.function(values, labels[:-1])
    with pytest.raises(ValueError, match="shape"):
        case.function(values[0], labels)


def test_int32_labels(case: Case):
    values, labels = case.inputs()
    torch.testing.assert_close(case.function(values, labels.int()), case.function(values, labels))


def test_nan_stays_nan(case: Case):
    """Wherever in a row the NaN is, the loss is NaN."""
    for column in range(case.width):
        values, labels = case.inputs()
        values[2, column] = torch.nan
        assert case.function(values, labels).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision(case: Case, dtype: torch.dtype):
    """Half precision in, float32 out: the error is that of rounding the input (2^-8 of it in bfloat16), no more."""
    values, labels = case.inputs()
    values = values.to(dtype)
    got = case.function(values.requires_grad_(), labels)
    assert got.dtype in (torch.float32, torch.float64)  # float64: the heads here hold float64 weights
    torch.testing.assert_close(got.double(), case.function(values.double(), labels), rtol=1e-5, atol=1e-6)
    got.backward()
    assert values.grad is not None
    assert values.grad.dtype == dtype
    assert values.grad.isfinite().all()


def test_autocast(case: Case):
    values, labels = case.inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.function(values.float(), labels)
    assert loss.dtype in (torch.float32, torch.float64)
    # 4e-2: the heads multiply in bfloat16 (2^-8 relative, times a scale of 4)
    torch.testing.assert_close(loss.double(), case.function(values, labels), rtol=4e-2, atol=4e-2)


def test_compiles_without_graph_breaks(case: Case, name: str):
    module = case.module() if name in HEADS else None
    function = case.function if module is None else lambda v, y, module=module: module(v, y)
    values, labels = case.inputs()
    values.requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    loss = compiled(values, labels)
    torch.testing.assert_close(loss, function(values, labels))
    torch.testing.assert_close(torch.autograd.grad(loss, values), torch.autograd.grad(function(values, labels), values))
    labels[0] = CLASSES
    with pytest.raises(ValueError, match=f"label {CLASSES} at row 0"):
        compiled(values, labels)


@pytest.mark.parametrize("case", [case for name, case in CASES.items() if name not in HEADS])
def test_vmap(case: Case):
    """Functions map over a leading dimension; a head is a module that one calls on rows."""
    values = torch.stack([case.inputs()[0] for _ in range(3)])
    labels = torch.stack([case.inputs()[1].roll(shift) for shift in range(3)])
    looped = torch.stack([case.function(v, y) for v, y in zip(values, labels, strict=True)])
    torch.testing.assert_close(torch.func.vmap(case.function)(values, labels), looped)
    gradients = torch.func.vmap(torch.func.grad(case.function))(values, labels)
    for gradient, v, y in zip(gradients, values, labels, strict=True):
        torch.testing.assert_close(gradient, torch.func.grad(case.function)(v, y))


@pytest.mark.parametrize("batch", [1, 4])
def test_one_class(name: str, batch: int):
    """A single class: the softmax family costs nothing, nothing is NaN."""
    values = torch.rand(batch, DIM if name in HEADS | {"center"} else 1, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(batch, dtype=torch.long)
    if name in HEADS:
        loss = losses.MarginSoftmaxHead(DIM, 1, chunk_size=None if name == "head_dense" else 3).double()(values, labels)
    elif name == "center":
        loss = losses.center(values, labels, CENTERS[:1])
    else:
        loss = CASES[name].function(values, labels)
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if name.endswith("softmax") or name in HEADS | {"arc_face"}:
        assert loss == 0
        assert (gradient == 0).all()


def test_every_function_has_its_module():
    functions = {name for name in losses.__all__ if name.islower()} - {"spread_margin"}
    camel = {"".join(part.capitalize() for part in name.split("_")) + "Loss" for name in functions}
    assert camel == {name for name in losses.__all__ if name.endswith("Loss")}
    assert all(hasattr(losses, name) for name in losses.__all__)
