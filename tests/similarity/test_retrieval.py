"""Retrieval scores against plain loops, by hand, and on ties, duplicates and degenerate pools."""

import numpy as np
import pytest
import scipy.sparse
import torch

from similarity.retrieval import neighbour_table, retrieval_accuracy, retrieve


def plain_scores(vectors, groups):
    """The definitions as loops: first rank, average precision at R, area under the ROC curve."""
    n = len(groups)
    similarity = (vectors.astype(np.float32) @ vectors.astype(np.float32).T).tolist()
    ranks, precisions, fellows, strangers = [], [], [], []
    for i in range(n):
        own = sorted((similarity[i][j] for j in range(n) if j != i and groups[j] == groups[i]), reverse=True)
        other = [similarity[i][j] for j in range(n) if groups[j] != groups[i]]
        fellows += own
        strangers += other
        if own:
            places = [k + 1 + sum(o >= s for o in other) for k, s in enumerate(own)]
            ranks.append(places[0])
            precisions.append(sum((k + 1) / p for k, p in enumerate(places) if p <= len(own)) / len(own))
    higher = sum((f > s) + 0.5 * (f == s) for f in fellows for s in strangers)
    return ranks, precisions, higher / (len(fellows) * len(strangers))


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_plain_loops(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 25, 60)
    vectors = rng.normal(size=(60, 6)) + 2 * rng.normal(size=(25, 6))[groups]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float32)
    ranks, precisions, auc = plain_scores(vectors, groups)
    found = retrieve(vectors, groups)
    assert found.first_rank.tolist() == ranks
    np.testing.assert_allclose(found.average_precision, precisions, atol=1e-6)  # float32 sums
    assert abs(found.roc_auc - auc) < 1e-3  # the width of a bin
    accuracy = retrieval_accuracy(vectors, groups, (1, 3))
    assert accuracy == {k: np.mean([r <= k for r in ranks]) for k in (1, 3)}
    assert found.scores()["mrr"] == pytest.approx(np.mean([1 / r for r in ranks]))


def test_by_hand():
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    # 0 asks: 1 (.8, stranger), 2 (.6, fellow): rank 2. 2 asks: 1 (.96), 3 (.8), 0 (.6): rank 3.
    found = retrieve(vectors, ["x", "y", "x", "z"])
    assert found.first_rank.tolist() == [2, 3]
    assert found.average_precision.tolist() == [0.0, 0.0]
    assert found.scores((1, 2, 3)) | {"roc_auc": 0} == pytest.approx(
        {"top1": 0.0, "top2": 0.5, "top3": 1.0, "mrr": (1 / 2 + 1 / 3) / 2, "map_r": 0.0, "roc_auc": 0}
    )


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, groups = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 10, 50)
    whole = retrieve(vectors, groups)
    monkeypatch.setattr("similarity.retrieval.ROWS", 7)
    monkeypatch.setattr("similarity.retrieval.PAIRS", 3)
    parts = retrieve(vectors, torch.from_numpy(groups))
    assert parts.first_rank.tolist() == whole.first_rank.tolist()
    np.testing.assert_allclose(parts.average_precision, whole.average_precision)
    assert parts.roc_auc == pytest.approx(whole.roc_auc)


def test_sparse_rows_rank_as_dense_ones_do():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 30)) * (rng.random((40, 30)) < 0.2)
    vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    groups = rng.integers(0, 10, 40)
    sparse = retrieve(scipy.sparse.csr_matrix(vectors), groups)
    dense = retrieve(vectors, groups)
    assert sparse.first_rank.tolist() == dense.first_rank.tolist()
    np.testing.assert_allclose(sparse.average_precision, dense.average_precision)


def test_an_equal_sentence_in_another_group_is_a_stranger_and_a_tie_counts_against():
    same = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    assert retrieval_accuracy(same, [0, 0, 1, 2]) == {1: 0.0, 5: 1.0, 10: 1.0}
    assert retrieval_accuracy(np.zeros((4, 2), np.float32), [0, 0, 1, 1]) == {1: 0.0, 5: 1.0, 10: 1.0}


def test_perfect_vectors():
    vectors = np.repeat(np.eye(5, dtype=np.float32), 3, axis=0)
    found = retrieve(vectors, np.repeat(np.arange(5), 3)).scores()
    assert found == pytest.approx({"top1": 1, "top5": 1, "top10": 1, "mrr": 1, "map_r": 1, "roc_auc": 1})


def test_wrong_pools_are_named():
    with pytest.raises(ValueError, match="no group has two sentences"):
        retrieval_accuracy(np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match=r"embeddings \(3, 3\) for 2 groups"):
        retrieval_accuracy(np.eye(3), [0, 1])
    with pytest.raises(ValueError, match="row 1 of the embeddings is not finite"):
        retrieval_accuracy(np.array([[1.0, 0], [np.nan, 0], [0, 1]]), [0, 0, 1])


def test_neighbour_table():
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    text = neighbour_table(["甲", "乙|丙", "丁"], vectors, [0, 0, 1], [0], k=2)
    assert text.splitlines()[2] == "| 甲 | 0.800 **乙/丙** | 0.000 丁 |"
