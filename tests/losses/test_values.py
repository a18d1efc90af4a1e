"""The losses outside the softmax family: golden vectors, hand-computed numbers, plain loops, degenerate input."""

import math
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import losses


def test_article_losses_golden(golden):
    vectors = {name: torch.tensor(array) for name, array in np.load(golden / "article_losses.npz").items()}
    got = losses.uniform_cross_entropy(vectors["logits"], vectors["labels"], reduction="none")
    torch.testing.assert_close(got, vectors["uniform_ce"], rtol=1e-12, atol=1e-12)
    got = losses.cosine_triplet(vectors["query"], vectors["positive"], vectors["negative"], reduction="none")
    torch.testing.assert_close(got, vectors["cosine_triplet"], rtol=1e-12, atol=1e-12)
    got = losses.center(vectors["features"], vectors["labels"], vectors["centers"], reduction="none")
    torch.testing.assert_close(got, vectors["center"], rtol=1e-12, atol=1e-12)


def test_soft_f1_golden(golden):
    vectors = np.load(golden / "soft_f1.npz")
    proba = torch.tensor(vectors["proba"], requires_grad=True)
    loss = losses.soft_macro_f1(proba, torch.tensor(vectors["labels"]))
    assert loss.item() == pytest.approx(
        vectors["loss"].item(), abs=1e-6
    )  # the original's epsilon of 1e-7 a denominator
    (gradient,) = torch.autograd.grad(loss, proba)
    torch.testing.assert_close(gradient, torch.tensor(vectors["grad"]), rtol=0, atol=1e-6)


def uniform_cross_entropy_keras(logits, labels, epsilon):
    """The article's two cross-entropies on probabilities that Keras clips."""
    clipped = logits.softmax(1).clamp(1e-7, 1 - 1e-7)
    return -(1 - epsilon) * clipped.gather(1, labels[:, None]).squeeze(1).log() - epsilon * clipped.log().mean(1)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_uniform_cross_entropy(epsilon: float):
    logits, labels = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 5
    got = losses.uniform_cross_entropy(logits, labels, epsilon, reduction="none")
    torch.testing.assert_close(got, uniform_cross_entropy_keras(logits, labels, epsilon), rtol=1e-9, atol=1e-9)
    for row, label, loss in zip(logits.tolist(), labels.tolist(), got.tolist(), strict=True):
        log_z = math.log(sum(math.exp(z) for z in row))
        assert loss == pytest.approx((1 - epsilon) * (log_z - row[label]) + epsilon * (log_z - sum(row) / 5))
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=epsilon)
    torch.testing.assert_close(losses.uniform_cross_entropy(logits, labels, epsilon), expected)


def test_uniform_cross_entropy_is_not_clipped():
    """A certain wrong answer: Keras stops at -log(1e-7) = 16.118 without a gradient, here the cost goes on."""
    logits, labels = torch.tensor([[1000.0, 0.0]], dtype=torch.float64), torch.tensor([1])
    assert uniform_cross_entropy_keras(logits, labels, 0.0).item() == pytest.approx(16.118, abs=1e-3)
    assert losses.uniform_cross_entropy(logits, labels, 0.0).item() == pytest.approx(1000)
    assert losses.uniform_cross_entropy(1e30 * logits.float(), labels).isfinite()
    with pytest.raises(ValueError, match=r"epsilon is 1\.5; expected 0 to 1"):
        losses.uniform_cross_entropy(logits, labels, 1.5)
    with pytest.raises(ValueError, match=r"epsilon is 1\.5; expected 0 to 1"):
        losses.UniformCrossEntropyLoss(1.5)


def test_uniform_cross_entropy_of_a_class_ruled_out():
    """A logit of -inf, epsilon 0: plain cross-entropy over the classes that are left."""
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = losses.uniform_cross_entropy(logits, torch.tensor([0]), epsilon=0.0)
    assert loss.item() == pytest.approx(math.log(1 + math.e))
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_cosine_triplet_by_hand():
    """cos(q, a+) = 0.6, cos(q, a-) = 0.8, m = 0.1: max(0, 0.1 + 0.8 - 0.6) = 0.3, whatever the lengths."""
    query, right, wrong = torch.tensor([2.0, 0.0]), torch.tensor([0.3, 0.4]), torch.tensor([40.0, 30.0])
    assert losses.cosine_triplet(query, right, wrong).item() == pytest.approx(0.3, abs=1e-6)
    assert losses.cosine_triplet(query, wrong, right).item() == 0
    assert losses.CosineTripletLoss(margin=0.5)(query, wrong, right).item() == pytest.approx(0.3, abs=1e-6)


def test_cosine_triplet_several_wrong_answers():
    query, right, wrong = torch.randn(4, 1, 6), torch.randn(4, 1, 6), torch.randn(4, 3, 6)
    rows = losses.cosine_triplet(query, right, wrong, margin=0.5, reduction="none")
    assert rows.shape == (4, 3)
    cos = torch.nn.functional.cosine_similarity
    for b in range(4):
        for k in range(3):
            expected = max(0.0, (0.5 + cos(query[b], wrong[b, k : k + 1]) - cos(query[b], right[b])).item())
            assert rows[b, k].item() == pytest.approx(expected, abs=1e-6)


def test_cosine_triplet_degenerate():
    vectors = [torch.zeros(2, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, dtype=torch.float64)]
    loss = losses.cosine_triplet(vectors[0], vectors[1], -vectors[1])
    (gradient,) = torch.autograd.grad(loss, vectors[0])
    assert loss.item() == pytest.approx(0.1)
    assert (gradient == 0).all()  # a zero vector has no direction to learn
    assert losses.cosine_triplet(*torch.zeros(3, 0, 4)) == 0
    assert losses.cosine_triplet(torch.tensor([torch.nan, 1]), *torch.ones(2, 2)).isnan()
    huge = losses.cosine_triplet(*(1e15 * torch.randn(3, 5, 4)))
    assert huge.isfinite()
    for shapes in (((3,), (3,), (4,)), ((3, 6), (4, 6), (3, 6)), ((4, 6), (4, 6), (4, 4, 6)), ((), (), ())):
        with pytest.raises(ValueError, match=f"have shapes {re.escape(str([*shapes]))}; expected"):
            losses.cosine_triplet(*map(torch.ones, shapes))
    with pytest.raises(ValueError, match=r"margin is -0\.1"):
        losses.cosine_triplet(*torch.ones(3, 3), margin=-0.1)
    with pytest.raises(ValueError, match=r"margin is -0\.1"):
        losses.CosineTripletLoss(margin=-0.1)


def test_cosine_triplet_gradcheck_and_compile():
    triplet = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *t: losses.cosine_triplet(*t, margin=1.0), triplet)
    compiled = torch.compile(losses.cosine_triplet, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*triplet), losses.cosine_triplet(*triplet))


def test_center_plain_loop_and_gradients():
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    centers = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 3, 3, 3])
    rows = losses.center(features, labels, centers, reduction="none")
    for x, y, loss in zip(features.tolist(), labels.tolist(), rows.tolist(), strict=True):
        assert loss == pytest.approx(sum((a - b) ** 2 for a, b in zip(x, centers[y].tolist(), strict=True)))
    assert torch.autograd.gradcheck(lambda x, c: losses.center(x, labels, c), (features, centers))
    (gradient,) = torch.autograd.grad(rows.sum(), centers)
    assert (gradient[2] == 0).all()  # a class without a row keeps its centre
    expected = 2 * (3 * centers[3] - features[3:].sum(0))
    torch.testing.assert_close(gradient[3], expected)


def test_center_module_trains_its_centers():
    """On fixed features gradient descent ends at the class means."""
    features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1])
    module = losses.CenterLoss(2, 2, reduction="sum")
    assert module.centers.abs().max() <= 0.05
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        module(features, labels).backward()
        optimizer.step()
    torch.testing.assert_close(module.centers.data, torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    with pytest.raises(ValueError, match=r"features have shape \(3, 2\), centers \(2, 4\)"):
        losses.center(features, labels, torch.zeros(2, 4))


def test_capsule_margin_by_hand():
    """Lengths .7 (present), .4 and .05: (.9-.7)^2 + .5 (.4-.1)^2 + 0 = .04 + .045; with the article's .25, .0625."""
    lengths, labels = torch.tensor([[0.7, 0.4, 0.05]]), torch.tensor([0])
    assert losses.capsule_margin(lengths, labels).item() == pytest.approx(0.085)
    assert losses.capsule_margin(lengths, labels, down_weight=0.25).item() == pytest.approx(0.0625)


def test_capsule_margin_targets_agree():
    lengths = torch.rand(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    one_hot = torch.nn.functional.one_hot(labels, 4)
    expected = losses.capsule_margin(lengths, labels)
    for targets in (one_hot, one_hot.bool(), one_hot.double()):
        torch.testing.assert_close(losses.capsule_margin(lengths, targets), expected)
    two = torch.tensor([[1, 1, 0, 0]])  # two classes at once, as in the two-digit experiment
    row = lengths[:1].tolist()[0]
    by_hand = sum(max(0, 0.9 - v) ** 2 for v in row[:2]) + 0.5 * sum(max(0, v - 0.1) ** 2 for v in row[2:])
    assert losses.capsule_margin(lengths[:1], two).item() == pytest.approx(by_hand)
    with pytest.raises(ValueError, match=r"targets have shape \(5, 3\); expected \(5, 4\)"):
        losses.capsule_margin(lengths, one_hot[:, :3])


def test_spread_plain_loop():
    activations, labels = torch.rand(6, 5, dtype=torch.float64), torch.arange(6) % 5
    rows = losses.spread(activations, labels, 0.4, reduction="none")
    for row, label, loss in zip(activations.tolist(), labels.tolist(), rows.tolist(), strict=True):
        expected = sum(max(0.0, 0.4 - (row[label] - a)) ** 2 for i, a in enumerate(row) if i != label)
        assert loss == pytest.approx(expected)
    assert losses.spread(torch.eye(4), torch.arange(4), 0.9) == 0  # every target wins by more than the margin


def test_spread_schedule():
    assert [losses.spread_margin(s, 10) for s in (0, 5, 10, 99)] == pytest.approx([0.2, 0.55, 0.9, 0.9])
    with pytest.raises(ValueError, match="num_steps is 0"):
        losses.spread_margin(0, 0)
    with pytest.raises(ValueError, match="num_steps is 0"):
        losses.SpreadLoss(num_steps=0)
    module = losses.SpreadLoss(num_steps=100)
    activations, labels = torch.rand(3, 4), torch.tensor([0, 1, 2])
    assert module.advance(50) == pytest.approx(0.55)
    torch.testing.assert_close(module(activations, labels), losses.spread(activations, labels, 0.55))
    restored = losses.SpreadLoss(num_steps=100)
    restored.load_state_dict(module.state_dict())
    assert restored.margin.item() == pytest.approx(0.55)


def test_soft_f1_of_hard_predictions_is_f1():
    """On one-hot predictions the soft counts are the counts: scikit-learn's macro-F1, both rules for absent classes."""
    labels = torch.tensor([0, 0, 1, 1, 1, 3])
    predicted = torch.tensor([0, 1, 1, 1, 2, 3])
    probabilities = torch.nn.functional.one_hot(predicted, 5).double()
    zero = f1_score(labels, predicted, average="macro", labels=range(5), zero_division=0)
    assert losses.soft_macro_f1(probabilities, labels).item() == pytest.approx(-math.log(zero))
    skip = f1_score(labels, predicted, average="macro", labels=[0, 1, 3], zero_division=0)
    assert losses.soft_macro_f1(probabilities, labels, absent="skip").item() == pytest.approx(-math.log(skip))
    assert losses.SoftMacroF1Loss(absent="skip")(probabilities, labels).item() == pytest.approx(-math.log(skip))


def test_soft_f1_plain_loop_and_one_hot():
    probabilities, labels = torch.randn(9, 4, dtype=torch.float64).softmax(1), torch.arange(9) % 4
    scores = []
    for k in range(4):
        both = sum(p[k] for p, y in zip(probabilities.tolist(), labels.tolist(), strict=True) if y == k)
        total = sum(p[k] for p in probabilities.tolist()) + sum(y == k for y in labels.tolist())
        scores.append(2 * both / total)
    expected = -math.log(sum(scores) / 4)
    assert losses.soft_macro_f1(probabilities, labels).item() == pytest.approx(expected)
    one_hot = torch.nn.functional.one_hot(labels, 4)
    assert losses.soft_macro_f1(probabilities, one_hot).item() == pytest.approx(expected)


def test_soft_f1_degenerate():
    wrong = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = losses.soft_macro_f1(wrong, torch.tensor([1, 1]))  # not one true positive: log(0), floored
    assert loss.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert torch.autograd.grad(loss, wrong)[0].isfinite().all()
    assert losses.soft_macro_f1(torch.eye(3), torch.arange(3)).item() == 0
    with pytest.raises(ValueError, match="absent is 'drop'"):
        losses.soft_macro_f1(wrong, torch.tensor([1, 1]), absent="drop")
