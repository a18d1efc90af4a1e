"""Matrix capsules in windows against explicit votes and plain loops; the paper's parameter counts."""

import copy
import gc
import math
import weakref

import pytest
import torch

from capsnet import em_routing
from capsnet import window_routing as wr
from capsnet.data import load
from capsnet.em_routing import MASS_FLOOR, VARIANCE_FLOOR
from capsnet.matrix import MatrixCapsNet, MatrixCapsuleConv2d, MatrixClassCapsules, covered
from losses import spread


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def conv_loops(layer: MatrixCapsuleConv2d, poses, activations):
    """The paper's convolutional EM routing for one image, written as it reads, in double precision with autograd.

    ``votes[parent][child]`` are dictionaries: a parent is (row, column, kind), a child likewise.
    """
    height, width, kinds = activations.shape
    size, stride, caps = layer.kernel_size, layer.stride, layer.out_caps
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    parents = [(y, x, c) for y in range(rows) for x in range(columns) for c in range(caps)]
    seen, votes = {}, {}
    for y, x, c in parents:
        for dy in range(size):
            for dx in range(size):
                for k in range(kinds):
                    child = (y * stride + dy, x * stride + dx, k)
                    matrix = layer.weight[dy * size + dx, k, c]
                    votes[(y, x, c), child] = (poses[child] @ matrix).flatten()
                    seen.setdefault(child, []).append((y, x, c))
    r = {(p, child): torch.tensor(1 / len(ps), dtype=poses.dtype) for child, ps in seen.items() for p in ps}
    windows = wr.conv_windows(height, width, size, stride)
    schedule = layer.schedule(windows)
    beta_u, beta_a = 16 * layer.beta_u, layer.beta_a / schedule[-1]
    for iteration, temperature in enumerate(schedule):
        mean, variance, log_a = {}, {}, {}
        for p in parents:
            children = [child for (q, child) in votes if q == p]
            weight = {child: activations[child] * r[p, child] for child in children}
            mass = sum(weight.values())
            mean[p] = sum(weight[c] * votes[p, c] for c in children) / (mass + MASS_FLOOR)
            spread = sum(weight[c] * (votes[p, c] - mean[p]) ** 2 for c in children) / (mass + MASS_FLOOR)
            variance[p] = spread + VARIANCE_FLOOR
            cost = (beta_u[p[2]] + 0.5 * variance[p].log().sum()) * mass
            log_a[p] = torch.nn.functional.logsigmoid(temperature * (beta_a[p[2]] - cost))
        if iteration == len(schedule) - 1:
            break
        for child, ps in seen.items():
            scores = []
            for p in ps:
                gap = (votes[p, child] - mean[p]) ** 2 / variance[p]
                scores.append(log_a[p] - 0.5 * (gap + (2 * math.pi * variance[p]).log()).sum())
            shares = torch.stack(scores).softmax(dim=0)
            assert shares.sum().item() == pytest.approx(1)
            r.update({(p, child): share for p, share in zip(ps, shares, strict=True)})
    shape = (rows, columns, caps)
    return (
        torch.stack([mean[p] for p in parents]).view(*shape, 4, 4),
        torch.stack([log_a[p].exp() for p in parents]).view(shape),
    )


def make(layer, batch, height, width, dtype=torch.float64):
    layer.to(dtype)
    with torch.no_grad():
        layer.beta_u.normal_()
        layer.beta_a.normal_()
    poses = torch.randn(batch, height, width, layer.in_caps, 4, 4, dtype=dtype, requires_grad=True)
    return poses, torch.rand(batch, height, width, layer.in_caps, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "num_iters"),
    [(4, 4, 3, 1, 3), (5, 5, 3, 2, 2), (4, 4, 2, 2, 3), (3, 3, 3, 1, 1), (6, 4, 2, 3, 2), (2, 3, 1, 1, 3)],
)
def test_convolution_equals_loops_forward_and_backward(height, width, kernel, stride, num_iters):
    layer = MatrixCapsuleConv2d(2, 2, kernel, stride, num_iters=num_iters)
    poses, activations = make(layer, 2, height, width)
    found = layer(poses, activations)
    images = [conv_loops(layer, *x) for x in zip(poses, activations, strict=True)]
    expected = [torch.stack(x) for x in zip(*images, strict=True)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)  # E[V^2] - M^2 in place of E[(V - M)^2]
    cotangents = [torch.randn_like(x) for x in found]
    leaves = [poses, activations, layer.weight, layer.beta_u, layer.beta_a]
    grads = [torch.autograd.grad(x, leaves, cotangents) for x in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # the same difference, divided by small variances


def test_inverse_temperatures_by_hand():
    """Over the children that a parent has to itself, in kinds and in positions that are seen."""
    windows = wr.conv_windows(11, 12, 3, 2)  # 5x5 parents; rows 0..10 and columns 0..10 are seen
    layer = MatrixCapsuleConv2d(8, 16, 3, 2, num_iters=2, final_temperature=3.0)
    share = (11 * 11) / (5 * 5) * 8 / 16
    assert layer.schedule(windows) == pytest.approx([3 / share * 0.05, 3 / share * 0.0975])
    classes = MatrixClassCapsules(16, 10, num_iters=2)
    share = 4 * 4 * 16 / 10
    assert classes.schedule(wr.whole_map(4, 4)) == pytest.approx([0.05 / share, 0.0975 / share])
    beta_u, beta_a = layer.betas(windows)
    torch.testing.assert_close(beta_u, 16 * layer.beta_u)
    torch.testing.assert_close(beta_a, layer.beta_a / layer.schedule(windows)[-1])


@torch.no_grad()
def test_the_beginning_is_the_one_of_the_results():
    """HINTON.md, "What differs from the papers"."""
    model = MatrixCapsNet(64, 8, 16, 16)
    plain = torch.nn.Conv2d(64, 128, 1)
    for layer in (model.conv_caps1, model.conv_caps2, model.classes):
        assert float((layer.weight - torch.eye(4)).std()) == pytest.approx(0.02, rel=0.05)
        assert abs(float((layer.weight - torch.eye(4)).mean())) < 2e-3
        assert torch.equal(layer.beta_u, torch.full_like(layer.beta_u, -0.06))
        assert float(layer.beta_a[0]) == pytest.approx(-0.5 * 16 * 0.0975)
    assert float(model.primary_poses.weight.std()) == pytest.approx(5 * float(plain.weight.std()), rel=0.05)
    maps = model.features(torch.randn(2, 1, 28, 28))
    assert maps.min() == 0 < maps.max()


def test_one_window_is_em_routing_and_children_without_parents_are_fine():
    layer = MatrixCapsuleConv2d(3, 4, 3, num_iters=3)
    poses, activations = make(layer, 2, 3, 3)
    votes = torch.einsum("bskxi,skciy->bskcxy", poses.flatten(1, 2), layer.weight).flatten(1, 2)
    windows = wr.conv_windows(3, 3, 3, 1)
    settings = {"inverse_temperature": layer.schedule(windows)}
    expected = em_routing(votes, activations.flatten(1), *layer.betas(windows), 3, **settings)
    found = layer(poses, activations)
    torch.testing.assert_close(found[0][:, 0, 0], expected[0])
    torch.testing.assert_close(found[1][:, 0, 0], expected[1])
    strided = MatrixCapsuleConv2d(3, 4, 3, 2)  # the last row and column of 4 are seen by no parent
    poses, activations = make(strided, 1, 4, 4)
    out = strided(poses, activations)
    (out[0].sum() + out[1].sum()).backward()
    assert torch.isfinite(poses.grad).all()
    assert poses.grad[:, 3].abs().max() == poses.grad[:, :, 3].abs().max() == 0
    assert poses.grad[:, :3, :3].abs().amin(dim=(4, 5)).min() > 0


def test_classes_equal_em_routing_with_coordinates():
    layer = MatrixClassCapsules(2, 3)
    poses, activations = make(layer, 2, 3, 2)
    votes = torch.einsum("bhwkxi,kciy->bhwkcxy", poses, layer.weight[0])
    for y in range(3):
        for x in range(2):
            votes[:, y, x, :, :, 0, 3] += (y + 0.5) / 3
            votes[:, y, x, :, :, 1, 3] += (x + 0.5) / 2
    votes = votes.flatten(1, 3)
    windows = wr.whole_map(3, 2)
    settings = {"inverse_temperature": layer.schedule(windows)}
    expected = em_routing(votes, activations.flatten(1), *layer.betas(windows), 3, **settings)
    found = layer(poses, activations)
    torch.testing.assert_close(found, expected)
    traced, steps = layer.trace(poses, activations)
    torch.testing.assert_close(traced, votes.flatten(3))
    torch.testing.assert_close(steps[-1].mean, expected[0].flatten(2))
    torch.testing.assert_close(steps[-1].activation, expected[1])
    leaves = [poses, activations, *layer.parameters()]
    cotangents = [torch.randn_like(x) for x in found]
    grads = [torch.autograd.grad(x, leaves, cotangents) for x in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # the same difference, divided by small variances


def test_children_compete_across_positions():
    """What a parent far from a child gets depends on it, through a child that both see."""
    layer = MatrixCapsuleConv2d(1, 1, 2, num_iters=2)
    poses, activations = make(layer, 1, 1 + 1, 3)  # two parents side by side, the middle column seen by both
    before = layer(poses, activations)[0]
    with torch.no_grad():
        other = poses.clone()
        other[:, :, 0] += 2  # seen by the left parent alone
    after = layer(other, activations)[0]
    assert (
        before[0, 0, 1] - after[0, 0, 1]
    ).abs().max() > 1e-7  # and exactly 0 if only parents of one position competed


def test_small_chunks_batch_mates_and_permutations(monkeypatch):
    layer = MatrixCapsuleConv2d(2, 3, 3)
    poses, activations = make(layer, 5, 5, 5, torch.float32)
    found = layer(poses, activations)
    order = torch.tensor([4, 2, 0, 1, 3])
    again = layer(poses[order], activations[order])
    torch.testing.assert_close(again[0], found[0][order])
    torch.testing.assert_close(again[1], found[1][order])
    grad = torch.autograd.grad(found[0].sum() + found[1].sum(), layer.weight)[0]
    monkeypatch.setattr(wr, "CHUNK_BYTES", 1)  # an image at a time
    single = layer(poses, activations)
    torch.testing.assert_close(single, found)
    grad_single = torch.autograd.grad(single[0].sum() + single[1].sum(), layer.weight)[0]
    torch.testing.assert_close(grad_single, grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))  # another order


def test_votes_are_gone_after_the_backward_pass(monkeypatch):
    """Without waiting for the garbage collector: a cycle once kept the votes of every image."""
    made: list[weakref.ref] = []

    class Watched(wr._Chunk):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self.votes))

    monkeypatch.setattr(wr, "_Chunk", Watched)
    monkeypatch.setattr(wr, "CHUNK_BYTES", 1)
    layer = MatrixCapsuleConv2d(2, 3, 3)
    poses, activations = make(layer, 4, 4, 4, torch.float32)
    gc.collect()
    gc.disable()
    try:
        out = layer(poses, activations)
        (out[0].sum() + out[1].sum()).backward()
        assert len(made) == 8  # four images, forward and backward
        assert [ref() for ref in made] == [None] * 8
    finally:
        gc.enable()


def test_activations_weight_and_half_precision():
    layer = MatrixCapsuleConv2d(3, 4, 3)
    poses, activations = make(layer, 2, 5, 5, torch.float32)
    found = layer(poses, activations)
    noise = layer(poses, torch.rand_like(activations))
    assert (found[0] - noise[0]).abs().max() > 0.05  # a peer: 9e-6
    halves = layer(poses.half(), activations.half())
    torch.testing.assert_close(halves[0], found[0], rtol=0.05, atol=0.02)  # half keeps 11 bits of the inputs
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(poses, activations)[0], found[0])


def test_large_votes_that_agree_keep_their_small_variance_in_float32():
    """E[V^2] - M^2 of votes of 30 and a spread of 0.05 would be all rounding; they are counted from their mean."""
    for layer in (MatrixCapsuleConv2d(4, 4, 3), MatrixClassCapsules(4, 4)):
        with torch.no_grad():
            layer.weight.copy_(torch.eye(4) + 1e-3 * torch.randn_like(layer.weight))
        poses, activations = 30 + 0.05 * torch.randn(2, 3, 3, 4, 4, 4), torch.rand(2, 3, 3, 4)
        exact = copy.deepcopy(layer).double()(poses.double(), activations.double())
        for a, b in zip(layer(poses, activations), exact, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make_layer", [lambda: MatrixCapsuleConv2d(4, 4, 3), lambda: MatrixClassCapsules(4, 4)])
def test_absent_children_far_away_do_not_matter(make_layer):
    """Half of the kinds vote at -30 with activation 0, the others agree at 30: what they agree on is kept."""
    layer = make_layer()
    poses, activations = 0.05 * torch.randn(2, 3, 3, 4, 4, 4), torch.rand(2, 3, 3, 4)
    poses[:, :, :, :2] += 30
    poses[:, :, :, 2:] -= 30
    activations[..., 2:] = 0
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4) + 1e-3 * torch.randn_like(layer.weight))
    exact = copy.deepcopy(layer).double()(poses.double(), activations.double())
    for a, b in zip(layer(poses, activations), exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


def test_backward_inside_an_autocast_leaves_the_routing_in_float32():
    layer = MatrixCapsuleConv2d(3, 4, 3)
    poses, activations = make(layer, 2, 5, 5, torch.float32)
    grads = []
    for enabled in (False, True):
        leaf = poses.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            layer(leaf, activations)[0].square().sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_weights(dtype):
    model, images = MatrixCapsNet(8, 2, 3, 3), torch.randn(2, 1, 28, 28)
    half = copy.deepcopy(model).to(dtype)
    active = half(images.to(dtype))
    assert active.dtype == torch.float32
    torch.testing.assert_close(active, model(images), rtol=0, atol=0.05)  # weights of 8 bits are that far off
    active.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in half.parameters())
    _, steps = half.classes.trace(*half.convolve(images.to(dtype)))  # what the pictures show
    torch.testing.assert_close(steps[-1].activation, active, rtol=1e-3, atol=1e-4)


def test_training_after_inference_at_the_same_size_and_no_images():
    model = MatrixCapsNet(4, 2, 2, 2)
    with torch.inference_mode():  # fills the caches of windows
        model(torch.randn(1, 1, 41, 43))
    model(torch.randn(1, 1, 41, 43)).sum().backward()
    assert all(p.grad.any() for p in model.parameters())
    assert model(torch.randn(0, 1, 41, 43)).shape == (0, 10)


def test_fused_networks_fall_back_where_the_kernels_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plain, fused = MatrixCapsNet(4, 1, 2, 2), MatrixCapsNet(4, 1, 2, 2, fused=True)
    fused.load_state_dict(plain.state_dict())
    images = torch.randn(2, 1, 21, 21)
    assert torch.equal(fused(images), plain(images))


def test_parameter_counts_of_the_paper():
    small, large = (MatrixCapsNet(*w, num_classes=5, in_channels=2) for w in ((64, 8, 16, 16), (32, 32, 32, 32)))
    assert count(small) == 68_754
    assert count(large) == 317_194
    assert count(small) == pytest.approx(68_000, rel=0.025)  # the paper does not say what it counts
    assert count(large) == pytest.approx(310_000, rel=0.025)


@pytest.mark.parametrize("pixels", [17, 18, 19, 20, 28, 32])
def test_what_the_windows_leave_out_is_left_out_on_both_sides(pixels):
    images = torch.randn(4, 1, pixels, pixels, requires_grad=True)
    MatrixCapsNet(16, 2, 3, 3)(images).square().sum().backward()
    seen = images.grad.abs().sum(dim=(0, 1))
    for sums in (seen.sum(0), seen.sum(1)):
        places = sums.nonzero().flatten().tolist()
        before, after = places[0], pixels - 1 - places[-1]
        assert places == list(range(before, pixels - after))  # no gaps
        assert before + after == (pixels - 1) % 4
        assert 0 <= before - after <= 1


def test_ink_of_mnist_that_the_windows_leave_out(data_root):
    """Of the first 25 pixels, and of the middle ones, in every direction: HINTON.md's shares."""
    digits = load("mnist", "train", data_root).images.squeeze(1).float()

    def lost(seen: slice) -> torch.Tensor:
        return 1 - digits[:, seen, seen].sum(dim=(1, 2)) / digits.sum(dim=(1, 2))

    first, middle = lost(slice(0, 25)), lost(covered(28))
    assert first.mean() == pytest.approx(0.0097, abs=1e-4)
    assert (first > 0.02).float().mean() == pytest.approx(0.205, abs=1e-3)
    assert middle.mean() == pytest.approx(0.0003, abs=1e-4)


@pytest.mark.parametrize("num_iters", [1, 3])
def test_network_gradient_reaches_every_parameter(num_iters):
    model = MatrixCapsNet(6, 2, 3, 3, num_classes=4, in_channels=2, num_iters=num_iters)
    active = model(torch.rand(2, 2, 23, 21))
    assert active.shape == (2, 4)
    assert ((active > 0) & (active < 1)).all()
    active.square().sum().backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.any(), name


def test_children_begin_undecided_and_activations_in_the_middle():
    """After one E-step a child's shares of ten classes still have more than a nat of entropy, of at most 2.3."""
    torch.manual_seed(0)
    model = MatrixCapsNet(32, 8, 8, 8)
    poses, active = model.convolve(torch.randn(16, 1, 28, 28))
    assert 0.05 < active.median() < 0.95
    assert 0.05 < model.classes(poses, active)[1].median() < 0.95
    _, steps = model.classes.trace(poses, active)
    share = steps[-1].assignment
    assert -torch.special.xlogy(share, share).sum(2).mean() > 1


def test_one_batch_is_learned_by_heart():
    model = MatrixCapsNet(8, 2, 4, 4, num_classes=4)
    images, labels = torch.randn(8, 1, 21, 21), torch.arange(8) % 4  # of mean 0 and variance 1, as in training
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    before = float(spread(model(images), labels, 0.5).detach())
    for _ in range(40):
        scores = model(images)
        optimizer.zero_grad()
        spread(scores, labels, 0.5).backward()
        optimizer.step()
    assert (scores.argmax(dim=1) == labels).all()
    assert float(spread(scores, labels, 0.5).detach()) < 0.2 * before


@pytest.mark.parametrize("image", [torch.zeros(1, 1, 21, 21), torch.full((1, 1, 21, 21), 1e4)])
def test_degenerate_images(image):
    model = MatrixCapsNet(6, 2, 3, 3)
    active = model(image)
    active.sum().backward()
    assert torch.isfinite(active).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_ten_stacked_layers():
    layers = [MatrixCapsuleConv2d(3, 3, 1) for _ in range(10)]
    poses, activations = torch.randn(2, 2, 2, 3, 4, 4, requires_grad=True), torch.rand(2, 2, 2, 3)
    out = (poses, activations)
    for layer in layers:
        out = layer(*out)
    (out[0].square().sum() + out[1].sum()).backward()
    assert torch.isfinite(out[0]).all()
    assert torch.isfinite(poses.grad).all()


def test_wrong_use_is_named():
    layer = MatrixCapsuleConv2d(2, 3, 3)
    with pytest.raises(ValueError, match=r"expected poses \(B, H, W, 2, 4, 4\), got \(1, 4, 4, 3, 4, 4\)"):
        layer(torch.rand(1, 4, 4, 3, 4, 4), torch.rand(1, 4, 4, 3))
    with pytest.raises(ValueError, match=r"expected activations \(1, 4, 4, 2\), got \(1, 4, 4\)"):
        layer(torch.rand(1, 4, 4, 2, 4, 4), torch.rand(1, 4, 4))
    with pytest.raises(ValueError, match="a 3x3 window needs more than 2x4 positions"):
        layer(torch.rand(1, 2, 4, 2, 4, 4), torch.rand(1, 2, 4, 2))
    for name in ("num_iters", "in_caps", "out_caps", "kernel_size", "stride"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            MatrixCapsuleConv2d(**{"in_caps": 2, "out_caps": 3, name: 0})
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="final_temperature must be positive and finite"):
            MatrixClassCapsules(2, 3, final_temperature=temperature)
    with pytest.raises(ValueError, match=r"expected images \(B, 1, H, W\) of at least"):
        MatrixCapsNet()(torch.rand(1, 1, 12, 12))
