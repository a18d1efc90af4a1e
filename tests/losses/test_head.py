"""The head: dense, chunked, projected, with sub-centres, sampled, under autocast, over two ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import losses
from losses import sharded
from losses.class_terms import chunked_terms, dense_terms
from losses.margin import FAMILY, cost

D, C = 6, 23


def batch(rows: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, D, dtype=torch.float64, requires_grad=True), torch.arange(rows) * 5 % C


def gradients(head, embeddings, labels):
    loss = head(embeddings, labels)
    return loss, *torch.autograd.grad(loss, [embeddings, head.weight])


def twin(head: losses.MarginSoftmaxHead, **options) -> losses.MarginSoftmaxHead:
    """A head with the same class vectors and other options."""
    other = losses.MarginSoftmaxHead(head.dim, head.num_classes, head.loss, **options).to(head.weight.dtype)
    other.load_state_dict(head.state_dict())
    return other


@pytest.mark.parametrize("name", FAMILY)
def test_head_is_the_loss_on_cosines(name: str):
    head = losses.MarginSoftmaxHead(D, C, name).double()
    head.weight.data *= 3  # lengths must not matter
    embeddings, labels = batch()
    cosine = nn.functional.normalize(embeddings) @ nn.functional.normalize(head.weight).T
    torch.testing.assert_close(head(embeddings, labels), getattr(losses, name)(cosine, labels))
    torch.testing.assert_close(head(5 * embeddings, labels), getattr(losses, name)(cosine, labels))


@pytest.mark.parametrize("chunk_size", [1, 7, 23, 1000])
@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("unit_columns", ["graph", "projected"])
@pytest.mark.parametrize("name", ["am_softmax", "arc_face"])
def test_chunked_equals_dense(name: str, unit_columns: str, sub_centers: int, chunk_size: int):
    options = {"unit_columns": unit_columns, "sub_centers": sub_centers}
    dense = losses.MarginSoftmaxHead(D, C, name, **options).double()
    chunked = twin(dense, chunk_size=chunk_size, **options)
    embeddings, labels = batch()
    labels[3] = -100
    for ours, expected in zip(
        gradients(chunked, embeddings, labels), gradients(dense, embeddings, labels), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_chunked_terms_gradcheck():
    """Both terms, each with a cotangent of its own; rows whose class is elsewhere (-1) too."""
    embeddings = nn.functional.normalize(torch.randn(4, D, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 5, -1, 8])
    for sub_centers in (1, 2):
        weight = torch.randn(9 * sub_centers, D, dtype=torch.float64, requires_grad=True)
        for form, size in ((dense_terms, ()), (chunked_terms, (4,))):

            def terms(e, w, form=form, size=size, k=sub_centers):
                return form(e, w, labels, 3.0, k, True, torch.float64, *size)

            assert torch.autograd.gradcheck(terms, (embeddings, weight))


def test_chunked_in_float32_and_far_apart():
    """Chunks whose largest logits differ by 100: the running maximum keeps the sum in range."""
    embeddings = torch.eye(2)
    weight = torch.tensor([[-1.0, 0], [-1, 0], [1, 0], [0.9, 0.1], [-1, 0]])
    index = torch.tensor([2, 0])
    for scale in (64.0, 1e4):
        settings = (embeddings, weight, index, scale, 1, False, torch.float32)
        for ours, expected in zip(chunked_terms(*settings, 2), dense_terms(*settings), strict=True):
            torch.testing.assert_close(ours, expected)


def largest_allocation(head, embeddings, labels) -> int:
    """Bytes of the largest single allocation in a step, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        head(embeddings, labels).backward()
    return max(event.self_cpu_memory_usage for event in record.events())


def test_chunked_never_holds_all_cosines():
    rows, num_classes, chunk = 64, 4096, 256
    embeddings, labels = torch.randn(rows, D, requires_grad=True), torch.randint(num_classes, (rows,))
    dense = losses.MarginSoftmaxHead(D, num_classes)
    assert largest_allocation(dense, embeddings, labels) >= rows * num_classes * 4
    assert largest_allocation(twin(dense, chunk_size=chunk), embeddings, labels) < rows * num_classes * 4 // 4


def test_projection_by_hand():
    head = losses.MarginSoftmaxHead(2, 1, unit_columns="projected")
    head.weight.data = torch.tensor([[3.0, 4.0]])
    head.project_()
    torch.testing.assert_close(head.weight.data, torch.tensor([[0.6, 0.8]]))


def test_projection_and_graph_agree_for_small_steps():
    """One step of each from unit vectors: they differ by O(lr^2), so a tenth of the step is a hundredth apart."""
    embeddings, labels = batch()
    start = losses.MarginSoftmaxHead(D, C).double()

    def after_step(unit_columns: str, lr: float) -> torch.Tensor:
        head = twin(start, unit_columns=unit_columns)
        optimizer = torch.optim.SGD(head.parameters(), lr=lr)
        optimizer.register_step_post_hook(lambda *_: head.project_())
        head(embeddings, labels).backward()
        optimizer.step()
        return head.weight.detach()

    far, near = ((after_step("graph", lr) - after_step("projected", lr)).norm() for lr in (1e-2, 1e-3))
    moved = (after_step("graph", 1e-2) - start.weight).norm()
    assert moved > 10 * far
    assert 50 < far / near < 200


def test_sub_centers_plain_loop():
    """The nearest of a class's K vectors counts, and it alone gets a gradient."""
    head = losses.MarginSoftmaxHead(D, 4, sub_centers=3, scale=5.0).double()
    embeddings, labels = torch.randn(2, D, dtype=torch.float64), torch.tensor([1, 3])
    cosine = torch.tensor(
        [
            [max(torch.cosine_similarity(e, head.weight[3 * j + k], dim=0).item() for k in range(3)) for j in range(4)]
            for e in embeddings
        ]
    )
    loss = head(embeddings[:1], labels[:1])
    expected = losses.am_softmax(cosine[:1].double(), labels[:1], 5.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, head.weight)
    assert (gradient.reshape(4, 3, D).abs().sum(2) > 0).sum(1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_sampling(chunk_size: int | None):
    embeddings, labels = batch(4)
    head = losses.MarginSoftmaxHead(D, C, chunk_size=chunk_size, sample_rate=0.4).double()
    whole = twin(head)
    torch.manual_seed(3)
    loss, _, gradient = gradients(head, embeddings, labels)
    used = (gradient != 0).any(dim=1)
    assert used.sum() == round(0.4 * C)
    assert used[labels].all()
    assert loss < whole(embeddings, labels)  # fewer classes to be told apart from
    # the same as a head that has the sampled classes only
    small = losses.MarginSoftmaxHead(D, int(used.sum())).double()
    small.weight.data = head.weight.data[used]
    torch.testing.assert_close(loss, small(embeddings, used.cumsum(0)[labels] - 1))
    seen = torch.zeros(C, dtype=torch.bool)
    for _ in range(40):
        seen |= (gradients(head, embeddings, labels)[2] != 0).any(dim=1)
    assert seen.all()
    torch.testing.assert_close(head.eval()(embeddings, labels), whole(embeddings, labels))


def test_sampling_makes_room_for_the_batch():
    head = losses.MarginSoftmaxHead(D, C, sample_rate=0.01).double()
    embeddings, labels = batch(9)
    (gradient,) = torch.autograd.grad(head(embeddings, labels), head.weight)
    assert (gradient != 0).any(dim=1).nonzero().squeeze(1).tolist() == sorted(labels.tolist())


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_an_ignored_row_is_no_class_to_sample(chunk_size: int | None):
    """Class 0, which no row has, is drawn as often as any other: 4 of 23 places, 3 of them taken."""
    head = losses.MarginSoftmaxHead(D, C, chunk_size=chunk_size, sample_rate=0.01).double()
    embeddings, labels = batch(4)
    labels[:] = torch.tensor([5, -100, 10, 15])
    drawn = [(gradients(head, embeddings, labels)[2][0] != 0).any().item() for _ in range(60)]
    assert 0 < sum(drawn) < 20  # 1 in 20 expected


def test_a_single_class_over_ranks(monkeypatch):
    """No rank has another class: log-sum-exp -inf with gradient 0, as unsharded."""
    monkeypatch.setattr(sharded.dist, "all_reduce", lambda *_, **__: None)
    others, target = torch.full((2,), -torch.inf, requires_grad=True), torch.ones(2, requires_grad=True)
    loss = cost(*sharded.combine_terms(others, target, None))  # type: ignore[arg-type]
    assert (loss == 0).all()
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss.sum(), [others, target]))


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_zero_and_half_precision(chunk_size: int | None):
    head = losses.MarginSoftmaxHead(D, C, chunk_size=chunk_size)
    embeddings, labels = torch.zeros(2, D, requires_grad=True), torch.tensor([1, 2])
    loss, into_embeddings, into_weight = gradients(head, embeddings, labels)
    assert loss.isfinite()
    assert (into_embeddings == 0).all()
    assert into_weight.isfinite().all()
    head.weight.data[1] = 0
    assert all(value.isfinite().all() for value in gradients(head, torch.randn(2, D, requires_grad=True), labels))
    half = head.half()(torch.randn(2, D).half(), labels)
    assert half.dtype == torch.float32


def test_one_batch_is_learnt():
    encoder, head = nn.Linear(8, D), losses.MarginSoftmaxHead(D, C, chunk_size=8)
    inputs, labels = torch.randn(20, 8), torch.randint(C, (20,))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.02)
    first = head(encoder(inputs), labels).item()
    for _ in range(200):
        optimizer.zero_grad()
        head(encoder(inputs), labels).backward()
        optimizer.step()
    assert head(encoder(inputs), labels).item() < 0.2 * first


def test_settings_are_checked():
    for options, message in (
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": 2.5}, r"chunk_size is 2\.5; expected a whole number"),
        ({"sub_centers": 1.5}, r"sub_centers is 1\.5; expected a whole number"),
        ({"unit_columns": "rows"}, "unit_columns is 'rows'"),
        ({"sample_rate": 0.0}, r"sample_rate is 0\.0"),
        ({"sub_centers": 0}, "sub_centers is 0"),
        ({"loss": "triplet"}, "loss is 'triplet'"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.MarginSoftmaxHead(D, C, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"embeddings have shape \(2, 5\); expected \(batch, 6\)"):
        losses.MarginSoftmaxHead(D, C)(torch.zeros(2, 5), torch.tensor([0, 1]))


def test_two_ranks(tmp_path: Path):
    """Shards of classes, and the whole head inside DistributedDataParallel, against one process: see two_ranks.py."""
    worker = Path(__file__).with_name("two_ranks.py")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "2", str(tmp_path / "meeting")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    assert all("checked: " in output for output in outputs), "\n".join(outputs)
