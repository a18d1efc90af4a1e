"""CapsNet against explicit votes, its published parameter counts, and what public versions of it got wrong."""

import pytest
import torch
from torch import nn

from capsnet import CapsuleLayer, RoutingStep, route, squash
from capsnet.sabour import BaselineCNN, CapsNet, Decoder, PrimaryCapsules, capsnet_loss, reconstruction_loss

ROUTINGS = ["dynamic", "fixed_point", "kmeans"]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(**settings) -> CapsNet:
    return CapsNet(**{"network": "small", "image_shape": (1, 12, 13), "num_classes": 4, "out_dim": 6, **settings})


def test_parameter_counts():
    assert count(CapsNet()) == 8_215_568  # 8.2 M with reconstruction,
    assert count(CapsNet(decoder=False)) == 6_804_224  # 6.8 M without (Sabour et al. 2017, table 1)
    assert count(BaselineCNN()) == 35_445_522  # 35.4 M
    assert count(CapsNet(network="small", decoder=False)) == 161_664
    assert count(BaselineCNN(network="small")) == 157_386


def test_eight_numbers_of_a_primary_capsule_are_eight_channels_of_one_position():
    primary = PrimaryCapsules("paper", (1, 20, 22), 1.0)
    maps = primary.primary(primary.features(torch.rand(2, 1, 20, 22)))
    primary.features, primary.primary = nn.Identity(), nn.Identity()
    primary.image_shape = tuple(maps.shape[1:])
    found = primary(maps)
    assert found.shape == (2, 32 * 2 * 3, 8)
    for row in range(2):
        for column in range(3):
            for kind in (0, 7, 31):
                vector = maps[:, 8 * kind : 8 * kind + 8, row, column]
                torch.testing.assert_close(found[:, (row * 3 + column) * 32 + kind], squash(vector, 1.0))


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("detach", [False, True])
def test_forward_and_gradient_equal_explicit_votes(routing, detach):
    model = small(routing=routing, detach=detach).double()
    x = torch.rand(3, 1, 12, 13, dtype=torch.float64)
    u = model.primary(x)
    u_hat = torch.einsum("bin,inod->biod", u, model.classes.weight)
    if detach:  # the couplings of the last iteration as constants
        trace: list[RoutingStep] = []
        route(u_hat.detach(), routing, 3, 1.0, trace)
        expected = squash((trace[-1].coupling.unsqueeze(3) * u_hat).sum(dim=1), 1.0)
    else:
        expected = route(u_hat, routing, 3, 1.0)
    weights = torch.rand(3, 4, dtype=torch.float64)
    parameters = [p for name, p in model.named_parameters() if "decoder" not in name]
    wanted = torch.autograd.grad((weights * expected.norm(dim=2)).sum(), parameters)
    lengths = model(x)
    torch.testing.assert_close(lengths, expected.norm(dim=2))
    for a, b in zip(torch.autograd.grad((weights * lengths).sum(), parameters), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)  # float64 rounding


def test_detaching_changes_the_gradient_and_not_the_output():
    flowing, cut = small(), small(detach=True)
    cut.load_state_dict(flowing.state_dict())
    x = torch.rand(2, 1, 12, 13)
    torch.testing.assert_close(flowing(x), cut(x))
    grads = [torch.autograd.grad(m(x).sum(), m.classes.weight)[0] for m in (flowing, cut)]
    assert (grads[0] - grads[1]).abs().max() > 1e-3 * grads[0].abs().max()


@pytest.mark.parametrize("network", ["paper", "small"])
@pytest.mark.parametrize(("shape", "num_classes"), [((1, 28, 28), 10), ((3, 36, 20), 5), ((2, 17, 17), 1)])
def test_any_image_size_and_class_count(network, shape, num_classes):
    model = CapsNet(num_classes, image_shape=shape, network=network).eval()
    lengths, drawn = model(torch.rand(2, *shape), torch.zeros(2, 1, dtype=torch.long))
    assert lengths.shape == (2, num_classes)
    assert drawn.shape == (2, 1, *shape)
    assert ((lengths >= 0) & (lengths < 1)).all()
    assert ((drawn >= 0) & (drawn <= 1)).all()


@pytest.mark.parametrize("model", [small(), CapsNet(image_shape=(1, 18, 17), decoder=False)])
def test_no_images_give_no_lengths(model):
    assert model.eval()(torch.rand(0, *model.primary.image_shape)).shape == (0, model.classes.out_caps)


def test_batch_mates_do_not_matter_and_neither_does_the_memory_format():
    model = small().eval()
    x = torch.rand(5, 1, 12, 13)
    order = torch.tensor([3, 1, 4, 0, 2])
    lengths = model(x)
    torch.testing.assert_close(model(x[order]), lengths[order])
    torch.testing.assert_close(model(x[:1]), lengths[:1])
    other = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, lengths, rtol=1e-4, atol=1e-5)  # another order of summation in float32


def test_an_image_is_drawn_from_one_capsule_alone():
    model = small()
    capsules = torch.randn(2, 4, 6)
    which = torch.tensor([[1, 3], [0, 1]])
    drawn = model.draw(capsules, which)
    assert drawn.shape == (2, 2, 1, 12, 13)
    changed = capsules.clone()
    changed[0, 0] += 1  # neither of the two drawn for the first image
    torch.testing.assert_close(model.draw(changed, which), drawn, rtol=0, atol=0)
    changed[0, 3] += 1
    again = model.draw(changed, which)
    assert torch.equal(again[0, 0], drawn[0, 0])
    assert not torch.equal(again[0, 1], drawn[0, 1])
    flat = torch.zeros(1, 4, 6)
    flat[0, 3] = capsules[0, 3]
    torch.testing.assert_close(model.decoder(flat.flatten(1)), drawn[0, 1][None])


def test_loss_by_hand():
    lengths = torch.tensor([[0.8, 0.3, 0.05]])
    labels = torch.tensor([[0]])
    drawn, images = torch.full((1, 1, 1, 2, 2), 0.5), torch.zeros(1, 1, 1, 2, 2)
    terms = capsnet_loss(lengths, labels, drawn, images)
    assert terms["margin"].item() == pytest.approx(0.1**2 + 0.5 * 0.2**2)
    assert terms["reconstruction"].item() == pytest.approx(1.0)  # four pixels, a sum and not a mean
    assert terms["loss"].item() == pytest.approx(0.1**2 + 0.5 * 0.2**2 + 0.0005)
    assert capsnet_loss(lengths, labels)["loss"].item() == pytest.approx(0.03)
    both = capsnet_loss(lengths, torch.tensor([[0, 1]]))["loss"].item()
    assert both == pytest.approx(0.1**2 + 0.6**2)
    two = reconstruction_loss(drawn.expand(3, 2, 1, 2, 2), images.expand(3, 2, 1, 2, 2))
    assert two.item() == pytest.approx(2.0)  # summed over both pictures, mean over three images
    white, black = torch.ones(1, 1, 1, 300, 300).half(), torch.zeros(1, 1, 1, 300, 300).half()
    assert reconstruction_loss(white, black).item() == 300 * 300  # more than half precision holds


@pytest.mark.parametrize("network", ["paper", "small"])
def test_gradient_reaches_every_parameter(network):
    model = CapsNet(3, image_shape=(1, 18, 18), network=network)
    x, labels = torch.rand(4, 1, 18, 18), torch.tensor([[0], [1], [2], [0]])
    lengths, drawn = model(x, labels)
    capsnet_loss(lengths, labels, drawn, x.unsqueeze(1))["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


def test_one_batch_is_learned_by_heart():
    model = small()
    x, labels = torch.rand(8, 1, 12, 13), torch.arange(8)[:, None] % 4
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = None
    for _ in range(60):
        lengths, drawn = model(x, labels)
        terms = capsnet_loss(lengths, labels, drawn, x.unsqueeze(1))
        first = first if first is not None else terms
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert (lengths.argmax(dim=1) == labels[:, 0]).all()
    assert terms["margin"] < 0.1 * first["margin"]
    assert terms["reconstruction"] < 0.9 * first["reconstruction"]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_black_images_a_batch_of_one_and_half_precision(routing):
    model = small(routing=routing)
    black = torch.zeros(1, 1, 12, 13, requires_grad=True)
    lengths = model.eval()(black)
    lengths.sum().backward()
    assert torch.isfinite(lengths).all()
    assert torch.isfinite(black.grad).all()
    x = torch.rand(4, 1, 12, 13)
    with torch.autocast("cpu", torch.bfloat16):
        lengths, drawn = model(x, torch.zeros(4, 1, dtype=torch.long))
    assert lengths.dtype == drawn.dtype == torch.float32
    torch.testing.assert_close(lengths, model(x), rtol=0.05, atol=0.02)  # bf16 keeps 8 bits


@pytest.mark.parametrize("routing", ROUTINGS)
def test_ten_stacked_capsule_layers(routing):
    """A user's report against a peer: NaN from the second layer on."""
    layers = nn.Sequential(*[CapsuleLayer(8, 6, 8, in_caps=6, transform="full", routing=routing) for _ in range(10)])
    for scale in (1e-3, 1.0, 1e3):
        x = (scale * torch.randn(4, 6, 8)).requires_grad_()
        y = layers(x)
        y.norm(dim=2).sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in layers.parameters())


def test_fused_routing_falls_back_where_the_kernel_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plain, fused = small().eval(), small(fused=True).eval()
    fused.load_state_dict(plain.state_dict())
    images = torch.rand(2, 1, 12, 13)
    assert torch.equal(fused(images), plain(images))


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match=r"built for images \(B, 1, 12, 13\), got \(2, 1, 13, 12\)"):
        small()(torch.rand(2, 1, 13, 12))
    with pytest.raises(ValueError, match=r"BaselineCNN: built for images \(B, 1, 28, 28\), got \(2, 1, 13, 12\)"):
        BaselineCNN(network="small")(torch.rand(2, 1, 13, 12))
    with pytest.raises(ValueError, match=r"CapsNet: expected class numbers \(2, n\).* got \(2,\)"):
        small()(torch.rand(2, 1, 12, 13), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"capsnet_loss: expected class numbers \(2, n\).* got \(2,\)"):
        capsnet_loss(torch.rand(2, 4), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="network must be one of paper, small; got 'big'"):
        BaselineCNN(network="big")
    with pytest.raises(ValueError, match="network must be one of paper, small; got 'big'"):
        CapsNet(network="big")
    with pytest.raises(ValueError, match="needs images of 17 pixels, got 16x20"):
        CapsNet(image_shape=(1, 16, 20))
    with pytest.raises(ValueError, match="it cannot draw"):
        small(decoder=False)(torch.rand(1, 1, 12, 13), torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="fused routing is dynamic routing with its gradient"):
        small(routing="kmeans", fused=True)
    with pytest.raises(ValueError, match="routing must be one of"):
        small(routing="em")
    assert isinstance(small().decoder, Decoder)
