import math

import numpy as np
import pytest
import torch

from capsnet import CapsuleLayer, route, squash

ROUTINGS = ["dynamic", "fixed_point", "kmeans", "kmeans_hard"]


def squash_loop(x, constant):
    norm2 = float(sum(a * a for a in x)) + 1e-7
    return [math.sqrt(norm2) / (constant + norm2) * a for a in x]


def route_loop(u_hat, routing, num_iters, constant=0.5):
    """The articles' procedures for one image, in plain Python: u_hat[i][j] is a list."""
    num_in, num_out = len(u_hat), len(u_hat[0])
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    logits = [[0.0] * num_out for _ in range(num_in)]
    coupling = [[1 / num_out] * num_out for _ in range(num_in)]
    for iteration in range(num_iters):
        s = [
            [sum(coupling[i][j] * u_hat[i][j][d] for i in range(num_in)) for d in range(len(u_hat[0][0]))]
            for j in range(num_out)
        ]
        if iteration == num_iters - 1:
            break
        for j in range(num_out):
            if routing in ("kmeans", "kmeans_hard"):
                length = max(math.sqrt(dot(s[j], s[j])), 1e-12)  # an output that no input chose
                v = [a / length for a in s[j]]
            else:
                v = squash_loop(s[j], constant)
            for i in range(num_in):
                agreement = dot(u_hat[i][j], v)
                logits[i][j] = logits[i][j] + agreement if routing == "dynamic" else agreement
        for i in range(num_in):
            if routing == "kmeans_hard":
                best = logits[i].index(max(logits[i]))
                coupling[i] = [float(j == best) for j in range(num_out)]
            else:
                total = sum(math.exp(b) for b in logits[i])
                coupling[i] = [math.exp(b) / total for b in logits[i]]
    return [squash_loop(row, constant) for row in s]


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_iters", [1, 2, 3, 6])
def test_route_equals_plain_loops(routing, num_iters):
    u_hat = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    for constant in (0.5, 1.0):
        expected = [route_loop(votes.tolist(), routing, num_iters, constant) for votes in u_hat]
        found = route(u_hat, routing, num_iters, constant)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)  # float64 rounding


def test_squash_equation_and_golden(golden):
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)  # |x| = 5: 25/26 and 25/25.5 of the unit vector
    np.testing.assert_allclose(squash(x, 1.0).numpy(), 25 / 26 * np.array([0.6, 0.8]), rtol=1e-7)  # its epsilon is 1e-7
    np.testing.assert_allclose(squash(x).numpy(), 25 / 25.5 * np.array([0.6, 0.8]), rtol=1e-7)
    archive = np.load(golden / "capsule_layer.npz")
    np.testing.assert_allclose(squash(torch.from_numpy(archive["squash_x"])).numpy(), archive["squash_y"], rtol=1e-14)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1.0, 1e6, 1e15])
def test_squash_length_is_below_one_and_its_gradient_finite(scale):
    x = (scale * torch.randn(20, 8)).requires_grad_()
    y = squash(x)
    lengths = y.norm(dim=1)
    assert (lengths >= 0).all()
    assert (lengths <= 1 + 1e-6).all()  # float32 rounding of a norm over eight numbers
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_squash_along_another_axis():
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(squash(x, dim=1), squash(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_couplings_sum_to_one_over_outputs_only(routing):
    trace = []
    route(3 * torch.randn(2, 7, 4, 3), routing, 3, trace=trace)
    assert len(trace) == 3
    for step in trace:
        torch.testing.assert_close(step.coupling.sum(dim=2), torch.ones(2, 7))
    torch.testing.assert_close(trace[0].coupling, torch.full((2, 7, 4), 0.25))
    assert (trace[-1].coupling.sum(dim=1) - 7 / 4).abs().max() > 0.1  # a softmax over inputs would make these equal
    torch.testing.assert_close(trace[0].entropy, torch.full((2, 7), math.log(4)))
    if routing == "kmeans_hard":
        assert trace[-1].entropy.abs().max() == 0


def test_kmeans_trace_objective_is_the_articles_and_falls():
    u_hat = torch.randn(2, 9, 3, 4, dtype=torch.float64)
    trace = []
    route(u_hat, "kmeans", 8, trace=trace)
    s = (trace[2].coupling.unsqueeze(3) * u_hat).sum(dim=1)
    v = s / s.norm(dim=2, keepdim=True)
    expected = -torch.log(torch.exp((u_hat * v.unsqueeze(1)).sum(dim=3)).sum(dim=2)).sum(dim=1)
    torch.testing.assert_close(trace[2].objective, expected)
    objectives = torch.stack([step.objective for step in trace])
    assert (objectives.diff(dim=0) <= 1e-12).all()  # each step of K-means lowers it or leaves it


@pytest.mark.parametrize("routing", ROUTINGS)
def test_permutations(routing):
    u_hat = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    v = route(u_hat, routing)
    torch.testing.assert_close(route(u_hat[:, torch.randperm(6)], routing), v)  # inputs are a set
    outputs = torch.randperm(4)
    torch.testing.assert_close(route(u_hat[:, :, outputs], routing), v[:, outputs])  # outputs move along
    torch.testing.assert_close(route(u_hat[1:2], routing), v[1:2])  # batch mates do not matter


def test_dynamic_routing_hardens_and_fixed_point_settles():
    u_hat = torch.randn(1, 20, 3, 4, dtype=torch.float64)
    trace = []
    route(u_hat, "dynamic", 400, trace=trace)
    assert trace[-1].coupling.amax(dim=2).min() > 0.99  # Su 2018a: the exponent holds the sum of all v
    trace = []
    route(u_hat, "fixed_point", 200, trace=trace)
    assert trace[-1].coupling.amax(dim=2).min() < 0.9
    torch.testing.assert_close(trace[-1].coupling, trace[-2].coupling, atol=1e-6, rtol=0)


def test_hard_kmeans_is_the_limit_of_long_votes():
    u_hat = 1e4 * torch.randn(2, 10, 3, 4, dtype=torch.float64)  # the transform absorbs the temperature (Su 2018b)
    torch.testing.assert_close(route(u_hat, "kmeans"), route(u_hat, "kmeans_hard"))


@pytest.mark.parametrize("routing", ["dynamic", "fixed_point", "kmeans"])
def test_route_gradcheck(routing):
    u_hat = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda votes: route(votes, routing), u_hat)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("votes", [torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5), torch.full((1, 1, 1, 1), 1e-20)])
def test_degenerate_votes_are_finite(routing, votes):
    votes = votes.clone().requires_grad_()
    v = route(votes, routing)
    v.sum().backward()
    assert torch.isfinite(v).all()
    assert torch.isfinite(votes.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_votes(dtype):
    u_hat = torch.randn(2, 30, 5, 8)
    found = route(u_hat.to(dtype), "kmeans").float()
    torch.testing.assert_close(found, route(u_hat, "kmeans"), atol=0.02, rtol=0)  # 8 bits of bfloat16
    assert torch.isfinite(route(0 * u_hat.to(dtype), "kmeans")).all()
    assert torch.isfinite(route(1000 * u_hat.to(dtype), "dynamic")).all()


def test_ten_stacked_layers_stay_finite():
    x = torch.randn(4, 16, 8, requires_grad=True)
    y = x
    for _ in range(10):
        y = CapsuleLayer(8, 16, 8, in_caps=16, transform="full")(y)
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_errors_name_what_is_possible():
    votes = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="dynamic, fixed_point, kmeans, kmeans_hard; got 'em'"):
        route(votes, "em")
    with pytest.raises(ValueError, match="at least 1"):
        route(votes, "kmeans", 0)
    with pytest.raises(ValueError, match=r"\(B, I, O, D\), got \(2, 3\)"):
        route(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="positive, got 0"):
        squash(votes, 0)
