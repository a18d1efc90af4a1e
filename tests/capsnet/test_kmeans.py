import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from capsnet import kmeans, route, squash


@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("hard", [False, True])
def test_no_step_raises_the_objective(metric, temperature, hard):
    points, centres = torch.randn(6, 30, 3, dtype=torch.float64), torch.randn(6, 4, 3, dtype=torch.float64)
    clusters = kmeans(points, centres, metric, temperature, num_iters=25, hard=hard)
    assert (clusters.objectives.diff(dim=0) <= 1e-10).all()
    assert (clusters.objectives[0] - clusters.objectives[-1] > 1e-3).all()
    torch.testing.assert_close(clusters.assignment.sum(dim=-1), torch.ones(6, 30, dtype=torch.float64))


def test_hard_euclidean_equals_sklearn():
    points = torch.randn(60, 2, dtype=torch.float64)
    begin = points[:4].clone()
    expected = KMeans(4, init=begin.numpy(), n_init=1, tol=0, max_iter=50).fit(points.numpy())
    found = kmeans(points, begin, num_iters=50, hard=True)
    np.testing.assert_allclose(found.centres.numpy(), expected.cluster_centers_, atol=1e-10)
    np.testing.assert_allclose(found.objectives[-1].item(), expected.inertia_, rtol=1e-10)


@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
def test_one_soft_step_equals_plain_loops(metric):
    points, centres, temperature = torch.randn(5, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64), 0.7

    def distance(u, v):
        if metric == "euclidean":
            return sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
        return -sum(a * b for a, b in zip(u, v, strict=True)) / math.hypot(*v)

    rows, objective = [], 0.0
    for u in points.tolist():
        weights = [math.exp(-temperature * distance(u, v)) for v in centres.tolist()]
        objective -= math.log(sum(weights)) / temperature
        rows.append([w / sum(weights) for w in weights])
    coupling = np.array(rows)
    expected = coupling.T @ points.numpy()
    if metric == "euclidean":
        expected /= coupling.sum(axis=0)[:, None]
    found = kmeans(points, centres, metric, temperature, num_iters=1)
    np.testing.assert_allclose(found.centres.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(found.objectives[0].item(), objective, rtol=1e-12)


def test_high_temperature_approaches_hard():
    points, centres = torch.randn(40, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    soft = kmeans(points, centres, temperature=1e5, num_iters=5)
    torch.testing.assert_close(soft.centres, kmeans(points, centres, num_iters=5, hard=True).centres)


def test_kmeans_routing_is_this_clustering_with_a_point_per_pair():
    # Two outputs whose votes are u and Qu, Q orthogonal: <Qu, v2> = <u, Q^T v2>, so routing must equal clustering the
    # points u with centres v1 and Q^T v2, begun where routing begins: at the (scaled) means of the votes.
    points = torch.randn(1, 12, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    shift = torch.randn(3, dtype=torch.float64)  # unequal means, so that the two clusters differ
    votes = torch.stack([points, (points + shift) @ rotation.T], dim=2)  # (1, I, 2, D)
    found = route(votes, "kmeans", 5)
    centres = votes.mean(dim=1)  # (1, 2, D)
    for _ in range(4):
        direction = centres / centres.norm(dim=2, keepdim=True)
        first = points @ direction[:, 0].unsqueeze(2)
        second = (points + shift) @ (rotation.T @ direction[0, 1]).view(1, 3, 1)
        coupling = torch.cat([first, second], dim=2).softmax(dim=2)
        centres = torch.stack([(coupling[:, :, j, None] * votes[:, :, j]).sum(dim=1) for j in range(2)], dim=1)
    torch.testing.assert_close(found, squash(centres))


def test_an_empty_cluster_stays_and_bad_settings_are_named():
    points = torch.zeros(3, 2)
    clusters = kmeans(points, torch.tensor([[0.0, 0.0], [9.0, 9.0]]), hard=True)
    torch.testing.assert_close(clusters.centres[1], torch.tensor([9.0, 9.0]))
    with pytest.raises(ValueError, match=r"euclidean.*got 'cosine'"):
        kmeans(points, points, "cosine")
    with pytest.raises(ValueError, match="positive, got 0"):
        kmeans(points, points, temperature=0)
    with pytest.raises(ValueError, match="dimension 2, centres of dimension 3"):
        kmeans(points, torch.zeros(2, 3))
