"""EM routing against plain loops, against scikit-learn's mixture, and what public versions of it got wrong."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from capsnet.em_routing import VARIANCE_FLOOR, EMStep, em_routing, gaussian_entropy, inverse_temperatures

VERSIONS = [1, 2, 3, 4]


def case(batch=2, inputs=7, outputs=3, dtype=torch.float64, **kwargs):
    votes = torch.randn(batch, inputs, outputs, 4, 4, dtype=dtype, **kwargs)
    activations = torch.rand(batch, inputs, dtype=dtype)
    return votes, activations, torch.randn(outputs, dtype=dtype), torch.randn(outputs, dtype=dtype)


def em_loop(votes, a, beta_u, beta_a, lambdas, version, floor):
    """The article's procedure for one image, in plain Python: votes[i][j] is a list of 16, a[i] a number."""
    num_in, num_out, d = len(votes), len(votes[0]), len(votes[0][0])
    a = [1.0] * num_in if version < 3 else a
    assignment = [[1 / num_out] * num_out for _ in range(num_in)]
    for iteration, temperature in enumerate(lambdas):
        mean, variance, active = [], [], []
        for j in range(num_out):
            mass = sum(a[i] * assignment[i][j] for i in range(num_in))
            r = [a[i] * assignment[i][j] / mass for i in range(num_in)]
            mean.append([sum(r[i] * votes[i][j][l] for i in range(num_in)) for l in range(d)])
            variance.append(
                [sum(r[i] * (votes[i][j][l] - mean[j][l]) ** 2 for i in range(num_in)) + floor for l in range(d)]
            )
            cost = beta_u[j] + sum(math.log(math.sqrt(v)) for v in variance[j])
            if version == 4:
                cost *= mass
            active.append(mass / num_in if version == 1 else 1 / (1 + math.exp(-temperature * (beta_a[j] - cost))))
        if iteration == len(lambdas) - 1:
            return mean, active
        for i in range(num_in):
            p = []
            for j in range(num_out):
                density = 1.0
                for l in range(d):
                    gap = (votes[i][j][l] - mean[j][l]) ** 2
                    density *= math.exp(-gap / (2 * variance[j][l])) / math.sqrt(2 * math.pi * variance[j][l])
                p.append(active[j] * density)
            assignment[i] = [x / sum(p) for x in p]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_iters", [1, 2, 3, 5])
def test_equals_plain_loops(version, num_iters):
    votes, activations, beta_u, beta_a = case()
    lambdas = inverse_temperatures(num_iters, 0.5)
    poses, active = em_routing(
        votes, activations, beta_u, beta_a, num_iters, version=version, inverse_temperature=lambdas
    )
    for b in range(2):
        lists = [x.tolist() for x in (votes[b].flatten(2), activations[b], beta_u, beta_a)]
        mean, expected = em_loop(*lists, lambdas, version, VARIANCE_FLOOR)
        np.testing.assert_allclose(poses[b].flatten(1).numpy(), mean, rtol=1e-6, atol=1e-8)  # the mass floor
        np.testing.assert_allclose(active[b].numpy(), expected, rtol=1e-6)


def test_version_1_is_scikit_learns_mixture_step_by_step():
    """Votes equal for all outputs are a data set; EM from the same first M-step goes through the same numbers."""
    data = np.concatenate([np.random.default_rng(0).normal(m, s, (30, 16)) for m, s in ((0, 1), (1, 0.5), (-2, 2))])
    votes = torch.from_numpy(data)[None, :, None].expand(1, 90, 3, 16)
    first = torch.rand(1, 90, 3, dtype=torch.float64) + 0.1
    first /= first.sum(dim=2, keepdim=True)
    betas, trace = torch.zeros(3, dtype=torch.float64), []
    floor, steps = 1e-3, 8
    ones = torch.ones(1, 90, dtype=torch.float64)
    em_routing(votes, ones, betas, betas, steps, version=1, variance_floor=floor, initial=first, trace=trace)
    torch.testing.assert_close(trace[0].assignment, first)
    assert (trace[-1].mean[0, 0] - trace[-1].mean[0, 1]).abs().max() > 0.5  # and not one Gaussian three times
    for done in range(1, steps):
        mixture = GaussianMixture(
            3,
            covariance_type="diag",
            tol=0,
            reg_covar=floor,
            max_iter=done,
            weights_init=(trace[0].mass[0] / 90).numpy(),
            means_init=trace[0].mean[0].numpy(),
            precisions_init=1 / trace[0].variance[0].numpy(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so few steps are asked for
            mixture.fit(data)
        np.testing.assert_allclose(trace[done].mean[0].numpy(), mixture.means_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(trace[done].variance[0].numpy(), mixture.covariances_, rtol=1e-7)
        np.testing.assert_allclose(trace[done].activation[0].numpy(), mixture.weights_, rtol=1e-7)
    before = GaussianMixture(
        3,
        covariance_type="diag",
        weights_init=(trace[-2].mass[0] / 90).numpy(),
        means_init=trace[-2].mean[0].numpy(),
        precisions_init=1 / trace[-2].variance[0].numpy(),
        max_iter=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before.fit(data)
    before.weights_, before.means_ = (trace[-2].mass[0] / 90).numpy(), trace[-2].mean[0].numpy()
    before.precisions_cholesky_ = 1 / np.sqrt(trace[-2].variance[0].numpy())
    np.testing.assert_allclose(trace[-1].assignment[0].numpy(), before.predict_proba(data), rtol=1e-6, atol=1e-12)


def test_the_official_schedule_and_floors():
    assert inverse_temperatures(3) == pytest.approx([0.01 * 0.05, 0.01 * 0.0975, 0.01 * 0.142625])
    assert inverse_temperatures(2, 4.0) == pytest.approx([4 * 0.05, 4 * 0.0975])
    votes, a, beta_u, beta_a = case(dtype=torch.float32)
    trace: list[EMStep] = []
    given = {"inverse_temperature": inverse_temperatures(3)}
    found, expected = em_routing(votes, a, beta_u, beta_a, trace=trace), em_routing(votes, a, beta_u, beta_a, **given)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    em_routing(torch.ones_like(votes), a, beta_u, beta_a, 1, trace=trace)
    torch.testing.assert_close(trace[-1].variance, torch.full_like(trace[-1].variance, 5e-4))


@pytest.mark.parametrize("version", VERSIONS)
def test_assignments_sum_to_one_over_outputs_only(version):
    trace: list[EMStep] = []
    em_routing(*case(dtype=torch.float32), version=version, trace=trace)
    assert len(trace) == 3
    for step in trace:
        torch.testing.assert_close(step.assignment.sum(dim=2), torch.ones(2, 7))
    assert (trace[-1].assignment.sum(dim=1) - 7 / 3).abs().max() > 0.1  # and not over inputs


@pytest.mark.parametrize("version", VERSIONS)
def test_permutations(version):
    votes, a, beta_u, beta_a = case(batch=3)
    settings = {"version": version, "inverse_temperature": [0.3, 0.6, 1.0]}
    poses, active = em_routing(votes, a, beta_u, beta_a, **settings)
    order = torch.randperm(7)  # inputs are a set
    found = em_routing(votes[:, order], a[:, order], beta_u, beta_a, **settings)
    torch.testing.assert_close(found, (poses, active))
    order = torch.randperm(3)  # outputs move along
    found = em_routing(votes[:, :, order], a, beta_u[order], beta_a[order], **settings)
    torch.testing.assert_close(found, (poses[:, order], active[:, order]))
    for b in range(3):  # batch mates do not matter
        found = em_routing(votes[b : b + 1], a[b : b + 1], beta_u, beta_a, **settings)
        torch.testing.assert_close(found, (poses[b : b + 1], active[b : b + 1]))


@pytest.mark.parametrize("version", [3, 4])
def test_input_activations_really_weight(version):
    """In the best-known PyTorch code they cancel: all of them replaced by noise move its output by 9e-6."""
    votes, a, beta_u, beta_a = case()
    settings = {"version": version, "inverse_temperature": [0.02, 0.04, 0.06]}
    poses, active = em_routing(votes, a, beta_u, beta_a, **settings)
    other_poses, other_active = em_routing(votes, torch.rand_like(a), beta_u, beta_a, **settings)
    assert (poses - other_poses).abs().max() > 0.05
    assert (active - other_active).abs().max() > 0.01
    gone = a.clone()
    gone[:, 2] = 0  # an input that is absent is as if it were not there
    rest = [i for i in range(7) if i != 2]
    found = em_routing(votes, gone, beta_u, beta_a, **settings)
    torch.testing.assert_close(found, em_routing(votes[:, rest], a[:, rest], beta_u, beta_a, **settings))


def test_versions_differ_where_the_article_says():
    votes, a, beta_u, beta_a = case()
    schedule = {"inverse_temperature": [0.5, 0.5]}
    found = {v: em_routing(votes, a, beta_u, beta_a, 2, version=v, **schedule) for v in VERSIONS}
    for v in (1, 2):  # no input activations in the first two
        again = em_routing(votes, torch.rand_like(a), beta_u, beta_a, 2, version=v, **schedule)
        torch.testing.assert_close(again, found[v])
    assert torch.allclose(found[1][1].sum(dim=1), torch.ones(2, dtype=torch.float64))  # mixing weights
    assert all((found[v][1] - found[v + 1][1]).abs().max() > 1e-3 for v in (1, 2, 3))
    one = em_routing(votes, torch.ones_like(a), beta_u, beta_a, 1, version=3, **{"inverse_temperature": [0.5]})
    two = em_routing(votes, a, beta_u, beta_a, 1, version=2, **{"inverse_temperature": [0.5]})
    torch.testing.assert_close(one, two)  # version 3 without knowledge of the inputs is version 2


def test_the_cost_is_an_entropy():
    """S_j of the article: exactly the weighted mean of -log p_ij, and the cross-entropy of samples of the Gaussian."""
    votes, a, beta_u, beta_a = case(batch=1, inputs=50)
    trace: list[EMStep] = []
    em_routing(votes, a, beta_u, beta_a, 3, variance_floor=0.0, inverse_temperature=[0.1, 0.2, 0.3], trace=trace)
    step = trace[-1]
    normal = torch.distributions.Normal(step.mean[0], step.variance[0].sqrt())  # (O, d)
    surprise = -normal.log_prob(votes[0].flatten(2)).sum(dim=2)  # (I, O)
    weights = a[0, :, None] * step.assignment[0]
    expected = (weights * surprise).sum(dim=0) / weights.sum(dim=0)
    torch.testing.assert_close(step.entropy[0], expected, rtol=1e-8, atol=1e-8)  # the mass floor
    dims = 16
    formula = dims / 2 + 0.5 * step.variance[0].log().sum(dim=1) + dims / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(step.entropy[0], formula)
    samples = normal.sample((20_000,))  # (S, O, d)
    sampled = -normal.log_prob(samples).sum(dim=2)
    error = sampled.std(dim=0) / math.sqrt(20_000)
    assert ((sampled.mean(dim=0) - step.entropy[0]).abs() < 5 * error).all()
    assert error.max() < 0.03
    torch.testing.assert_close(gaussian_entropy(step.variance), step.entropy)


def test_agreement_activates():
    """Of two outputs with the same mass, the one whose votes agree is the more active."""
    votes = torch.randn(1, 40, 2, 4, 4)
    votes[:, :, 0] = 0.05 * votes[:, :, 0] + 1
    zeros = torch.zeros(2)
    _, active = em_routing(votes, torch.ones(1, 40), zeros, zeros, 1, inverse_temperature=[0.01])
    assert active[0, 0] > 0.9 > 0.6 > active[0, 1]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["equal", "zero", "one input", "absent", "huge", "tiny"])
def test_degenerate_votes_are_finite_with_finite_gradients(version, what):
    votes, a, beta_u, beta_a = case(inputs=1 if what == "one input" else 6, dtype=torch.float32)
    if what == "equal":
        votes = torch.ones_like(votes)
    elif what == "absent":
        a = torch.zeros_like(a)
    elif what in ("zero", "huge", "tiny"):
        votes = votes * {"zero": 0.0, "huge": 1e6, "tiny": 1e-20}[what]
    leaves = [x.requires_grad_() for x in (votes.clone(), a.clone(), beta_u, beta_a)]
    poses, active = em_routing(*leaves, 3, version=version)
    (poses.sum() + active.sum()).backward()
    assert torch.isfinite(poses).all()
    assert ((active >= 0) & (active <= 1)).all()
    assert all(torch.isfinite(x.grad).all() for x in leaves if x.grad is not None)
    if what == "equal" and version < 3:
        torch.testing.assert_close(poses, torch.ones_like(poses))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    votes, a, beta_u, beta_a = case(inputs=200, dtype=torch.float32)
    poses, active = em_routing(votes.to(dtype), a.to(dtype), beta_u, beta_a)
    assert poses.dtype == active.dtype == dtype
    wanted = em_routing(votes.to(dtype).float(), a.to(dtype).float(), beta_u, beta_a)
    torch.testing.assert_close(poses.float(), wanted[0], rtol=1e-2, atol=1e-3)  # the rounding of the output alone
    torch.testing.assert_close(active.float(), wanted[1], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_autocast_leaves_float32_as_it_is(version):
    votes, activations, beta = torch.randn(2, 6, 3, 4, 4), torch.rand(2, 6), torch.zeros(3)
    expected = em_routing(votes, activations, beta, beta, version=version)
    with torch.autocast("cpu", torch.bfloat16):
        found = em_routing(votes, activations, beta, beta, version=version)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
def test_gradcheck(version):
    leaves = [x.requires_grad_() for x in case(batch=1, inputs=3, outputs=2)]
    settings = {"version": version, "inverse_temperature": [0.3, 0.5]}
    assert torch.autograd.gradcheck(lambda *x: em_routing(*x, 2, **settings), leaves)


def test_ten_stacked_layers():
    poses, active = torch.randn(2, 6, 4, 4, requires_grad=True), torch.rand(2, 6)
    weights = [torch.randn(6, 6, 4, 4, requires_grad=True) for _ in range(10)]
    start = poses
    for weight in weights:
        votes = torch.einsum("bixk,ioky->bioxy", poses, weight / 2)
        poses, active = em_routing(votes, active, torch.zeros(6), torch.zeros(6), inverse_temperature=[0.1, 0.2, 0.3])
    (poses.square().mean() + active.sum()).backward()
    assert torch.isfinite(poses).all()
    assert all(torch.isfinite(x.grad).all() for x in [start, *weights])


def test_wrong_use_is_named():
    votes, a, beta_u, beta_a = case()
    with pytest.raises(ValueError, match=r"expected votes \(B, I, O, 4, 4\) with I > 0"):
        em_routing(votes[:, :0], a[:, :0], beta_u, beta_a)
    with pytest.raises(ValueError, match=r"expected activations \(2, 7\), got \(2, 6\)"):
        em_routing(votes, a[:, :6], beta_u, beta_a)
    with pytest.raises(ValueError, match=r"expected beta_a \(3,\), got \(2,\)"):
        em_routing(votes, a, beta_u, beta_a[:2])
    with pytest.raises(ValueError, match=r"expected initial \(2, 7, 3\), got \(2, 7\)"):
        em_routing(votes, a, beta_u, beta_a, initial=a)
    with pytest.raises(ValueError, match="num_iters must be at least 1"):
        em_routing(votes, a, beta_u, beta_a, 0)
    with pytest.raises(ValueError, match="version must be 1, 2, 3 or 4; got 5"):
        em_routing(votes, a, beta_u, beta_a, version=5)
    with pytest.raises(ValueError, match="2 inverse temperatures for 3 iterations"):
        em_routing(votes, a, beta_u, beta_a, inverse_temperature=[0.1, 0.2])
