"""The Triton kernels against the plain forms, forward and backward; run by test_triton_routing.py in a process of its
own, since Triton decides when it is first imported whether kernels are compiled or interpreted.
"""

import pytest
import torch

from capsnet import CapsNet, MatrixCapsNet, route
from capsnet import triton_routing as kernels
from capsnet.window_routing import conv_windows, route_windows, whole_map

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(*tensors):
    return [x.to(DEVICE) for x in tensors]


def compare(found, expected, leaves):
    """Values and gradients under random cotangents; sums of float32 in another order."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    cotangents = [torch.randn_like(x) for x in found]
    grads = [torch.autograd.grad(x, leaves, cotangents) for x in (found, expected)]
    for a, b in zip(*grads, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("batch", "inputs", "numbers", "outputs", "dims", "num_iters"),
    [(2, 6, 8, 10, 16, 3), (3, 5, 3, 3, 5, 2), (1, 1, 4, 1, 2, 3), (kernels.IMAGES + 1, 9, 8, 4, 8, 1)],
)
def test_dynamic_routing(batch, inputs, numbers, outputs, dims, num_iters):
    u, weight = on_device(torch.randn(batch, inputs, numbers), torch.randn(inputs, numbers, outputs, dims))
    leaves = [u.requires_grad_(), weight.requires_grad_()]
    votes = torch.einsum("bin,inod->biod", u, weight)
    expected = route(votes, "dynamic", num_iters, 1.0)
    compare([kernels.fused_route(u, weight, num_iters)], [expected], leaves)


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "num_iters"),
    [(2, 3, 2, 1, 3), (4, 3, 3, 1, 2), (3, 3, 2, 2, 2), (2, 2, 1, 1, 1)],
)
def test_em_routing_in_windows(height, width, kernel, stride, num_iters):
    windows = conv_windows(height, width, kernel, stride, DEVICE)
    weight = torch.randn(kernel * kernel, 2, 3, 4, 4)
    check_em(windows, height * width, weight, num_iters, None)


def test_em_routing_of_classes_with_coordinates():
    check_em(whole_map(2, 3, DEVICE), 6, torch.randn(1, 2, 3, 4, 4), 3, *on_device(torch.rand(6, 16)))


def check_em(windows, positions, weight, num_iters, offsets):
    poses, activations = torch.randn(2, positions, 2, 16), torch.rand(2, positions, 2)
    tensors = on_device(poses, activations, weight, torch.randn(3), torch.randn(3))
    leaves = [x.requires_grad_() for x in tensors]
    schedule = [0.01, 0.02, 0.03][:num_iters]
    found = kernels.fused_route_windows(*leaves, windows, schedule, offsets)
    expected = route_windows(*leaves, windows, schedule, offsets)
    compare(found, expected, leaves)


def check_against_double(tensors, windows):
    """Poses, activations, matrices and betas in float32 give what the plain form makes of them in float64."""
    found = kernels.fused_route_windows(*tensors, windows, [0.01, 0.02])
    exact = route_windows(*[x.double() for x in tensors], windows, [0.01, 0.02])
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


def test_large_votes_that_agree_keep_their_small_variance():
    weight = torch.eye(4) + 1e-3 * torch.randn(9, 2, 3, 4, 4)
    tensors = on_device(
        30 + 0.05 * torch.randn(2, 9, 2, 16), torch.rand(2, 9, 2), weight, torch.zeros(3), torch.zeros(3)
    )
    check_against_double(tensors, conv_windows(3, 3, 3, 1, DEVICE))


def test_windows_that_see_different_votes_keep_their_small_variance():
    """Three windows, whose poses lie at 30, 0 and -30."""
    weight = torch.eye(4) + 1e-3 * torch.randn(9, 2, 3, 4, 4)
    where = 30 * torch.tensor([1.0, 0.0, -1.0]).repeat_interleave(3).repeat(3)
    poses = where.view(1, 27, 1, 1) + 0.05 * torch.randn(2, 27, 2, 16)
    tensors = on_device(poses, torch.rand(2, 27, 2), weight, torch.zeros(3), torch.zeros(3))
    check_against_double(tensors, conv_windows(3, 9, 3, 3, DEVICE))


def test_absent_children_far_away_do_not_matter():
    """Half of the kinds vote at -30 with activation 0, the others agree at 30."""
    weight = torch.eye(4) + 1e-3 * torch.randn(9, 2, 3, 4, 4)
    poses, activations = 30 + 0.05 * torch.randn(2, 9, 2, 16), torch.rand(2, 9, 2)
    poses[:, :, 1] -= 60
    activations[:, :, 1] = 0
    tensors = on_device(poses, activations, weight, torch.zeros(3), torch.zeros(3))
    check_against_double(tensors, conv_windows(3, 3, 3, 1, DEVICE))


def test_inputs_that_the_matrices_are_not_made_for_are_named():
    with pytest.raises(ValueError, match=r"fused_route: expected inputs \(B, 6, 4\), got \(2, 8, 4\)"):
        kernels.fused_route(*on_device(torch.zeros(2, 8, 4), torch.zeros(6, 4, 2, 4)))


def test_degenerate_inputs():
    u, weight = on_device(torch.zeros(1, 3, 4), torch.zeros(3, 4, 2, 4))
    u.requires_grad_()
    out = kernels.fused_route(u, weight)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(u.grad).all()
    poses, activations, weight = on_device(torch.ones(1, 4, 1, 16), torch.zeros(1, 4, 1), torch.ones(1, 1, 2, 4, 4))
    poses.requires_grad_()
    betas = on_device(torch.zeros(2), torch.zeros(2))
    mean, active = kernels.fused_route_windows(poses, activations, weight, *betas, whole_map(2, 2, DEVICE), [0.1, 0.2])
    (mean.sum() + active.sum()).backward()
    assert torch.isfinite(mean).all()
    assert torch.isfinite(poses.grad).all()


@pytest.mark.parametrize(
    ("make", "kernel", "layers"),
    [
        (
            lambda fused: CapsNet(3, image_shape=(1, 21, 21), network="small", decoder=False, fused=fused),
            "fused_route",
            1,
        ),
        (lambda fused: MatrixCapsNet(4, 1, 2, 2, fused=fused), "fused_route_windows", 3),
    ],
)
def test_networks_route_by_them(make, kernel, layers, monkeypatch):
    calls, function = [], getattr(kernels, kernel)
    monkeypatch.setattr(kernels, kernel, lambda *args: calls.append(args) or function(*args))
    [images] = on_device(torch.rand(2, 1, 21, 21))
    plain, fused = make(False), make(True)
    fused.load_state_dict(plain.state_dict())
    plain, fused = plain.to(images.device).eval(), fused.to(images.device).eval()
    expected = plain(images)
    assert not calls
    torch.testing.assert_close(fused(images), expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == layers
