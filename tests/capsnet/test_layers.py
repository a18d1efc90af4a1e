import numpy as np
import pytest
import torch

from capsnet import CapsuleLayer, route
from capsnet.transforms import FullVotes

ROUTINGS = ["dynamic", "fixed_point", "kmeans", "kmeans_hard"]
TRANSFORMS = ["shared", "full", "factorized"]


def make(transform, routing="kmeans", num_iters=3, sizes=(9, 5, 4, 6), dtype=torch.float64):
    in_caps, in_dim, out_caps, out_dim = sizes
    return CapsuleLayer(
        in_dim,
        out_caps,
        out_dim,
        in_caps=None if transform == "shared" else in_caps,
        transform=transform,
        routing=routing,
        num_iters=num_iters,
    ).to(dtype)


def explicit_votes(layer, u):
    """The votes as the equations of the three transforms have them, (B, I, O, D)."""
    if layer.transform == "full":
        return torch.einsum("bin,inod->biod", u, layer.weight)
    if layer.transform == "factorized":
        u = torch.einsum("bin,inm->bim", u, layer.input_weight)
    return torch.einsum("bin,nod->biod", u, layer.weight)


def gradients(y, cotangent, *tensors):
    return torch.autograd.grad((y * cotangent).sum(), tensors)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_iters", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_layer_equals_explicit_votes(transform, routing, num_iters, dtype, tolerance):
    layer = make(transform, routing, num_iters, dtype=dtype)
    u = torch.randn(3, 9, 5, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(3, 4, 6, dtype=dtype)
    found, expected = layer(u), route(explicit_votes(layer, u), routing, num_iters)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    tensors = (u, *layer.parameters())
    for g, e in zip(gradients(found, cotangent, *tensors), gradients(expected, cotangent, *tensors), strict=True):
        torch.testing.assert_close(g, e, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("case", range(10))
def test_golden_keras_layer(golden, case):
    archive = np.load(golden / "capsule_layer.npz")
    _, in_caps, in_dim, out_caps, out_dim, num_iters, shared = archive[f"caps{case}_cfg"].tolist()
    transform = "shared" if shared else "full"
    layer = make(transform, "kmeans", num_iters, (in_caps, in_dim, out_caps, out_dim))
    weight = torch.from_numpy(archive[f"caps{case}_W"])
    layer.load_state_dict({"weight": weight.reshape(layer.weight.shape)})
    u = torch.from_numpy(archive[f"caps{case}_u"]).requires_grad_()
    y = layer(u)
    grad_u, grad_weight = gradients(y, torch.from_numpy(archive[f"caps{case}_cot"]), u, layer.weight)
    np.testing.assert_allclose(y.detach(), archive[f"caps{case}_y"], atol=1e-10)
    np.testing.assert_allclose(grad_u, archive[f"caps{case}_gu"], atol=1e-10)
    np.testing.assert_allclose(grad_weight.reshape(weight.shape), archive[f"caps{case}_gW"], atol=1e-10)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradcheck(transform):
    layer = make(transform, sizes=(3, 2, 2, 2))
    u = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(u, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), u)

    assert torch.autograd.gradcheck(call, (u, *layer.parameters()))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_of_the_size_of_the_votes_is_kept(transform):
    in_caps, in_dim, out_caps, out_dim, batch = 64, 8, 10, 16, 32
    layer = make(transform, sizes=(in_caps, in_dim, out_caps, out_dim), dtype=torch.float32)
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    u = torch.randn(batch, in_caps, in_dim, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(u)
    coupling = batch * in_caps * out_caps
    assert max(saved.values()) < coupling * out_dim / 2
    # three iterations keep a few (B, I, O) arrays each; the votes alone would be 16 of them
    assert sum(saved.values()) < 10 * coupling + 4 * u.numel() + 4 * layer.weight.numel()


def test_autocast_leaves_the_routing_in_float32():
    layer = make("shared", dtype=torch.float32)
    u = torch.randn(3, 9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(u)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(u))


def test_backward_of_full_votes_inside_an_autocast_stays_in_float32():
    """The forward pass was; torch's own products, of the other transforms, follow whoever calls backward."""
    tensors = torch.randn(3, 9, 5), torch.randn(9, 5, 4, 6), torch.rand(3, 9, 4), torch.randn(3, 4, 6)
    grads = []
    for enabled in (False, True):
        leaves = u, weight, coupling, v = [x.clone().requires_grad_() for x in tensors]
        votes = FullVotes(u, weight)
        loss = votes.combine(coupling).square().sum() + votes.agree(v).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            grads.append(torch.autograd.grad(loss, leaves))
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1.0, 300.0])
def test_half_precision_weights(transform, routing, dtype, size):
    """Squares of 300 overflow a float16, and so does the inverse of a vanishing norm."""
    layer = make(transform, routing, dtype=torch.float32).to(dtype)
    u = (size * torch.randn(3, 9, 5)).to(dtype).requires_grad_()
    out = layer(u)
    assert out.dtype == dtype
    expected = layer.float()(u.detach().float())
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.01)
    layer = layer.to(dtype)
    layer(u).float().square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (u, *layer.parameters()))


def test_shared_transform_takes_any_number_of_inputs():
    layer = make("shared")
    assert [tuple(layer(torch.randn(2, n, 5, dtype=torch.float64)).shape) for n in (1, 9, 40)] == [(2, 4, 6)] * 3


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradient_reaches_every_parameter(transform):
    layer = make(transform)
    layer(torch.randn(2, 9, 5, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


def test_parameter_counts_of_the_three_transforms():
    n, k, i, d = 9, 4, 5, 6  # inputs, outputs and their dimensions
    count = {t: sum(p.numel() for p in make(t).parameters()) for t in TRANSFORMS}
    assert count == {"shared": k * i * d, "full": n * k * i * d, "factorized": n * i * i + k * i * d}


def test_errors():
    with pytest.raises(ValueError, match="needs in_caps"):
        CapsuleLayer(4, 2, 3, transform="full")
    with pytest.raises(ValueError, match="leave in_caps out"):
        CapsuleLayer(4, 2, 3, in_caps=5)
    with pytest.raises(ValueError, match="shared, full, factorized; got 'local'"):
        CapsuleLayer(4, 2, 3, transform="local")
    with pytest.raises(ValueError, match=r"inputs \(B, I, 5\) with I > 0, got \(2, 0, 5\)"):
        make("shared")(torch.zeros(2, 0, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="built for 9 inputs, got 8"):
        make("full")(torch.zeros(2, 8, 5, dtype=torch.float64))
