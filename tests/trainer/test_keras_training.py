"""Keras's Adam and initialisers against their formulas. Against Keras itself: tests/trainer/test_keras_parity.py."""

import math

import pytest
import torch
from torch import nn

from trainer.keras_training import KerasAdam, keras_init_


def test_adam_plain_loop():
    """One number, the formula in Python floats; gradients from 1e-9, where epsilon decides, to 1."""
    value = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = KerasAdam([value], lr=0.01, betas=(0.8, 0.95), eps=1e-7)
    x, m, v = 0.5, 0.0, 0.0
    for t, gradient in enumerate([1e-9, 2e-8, -1e-7, 1e-3, 1.0, -0.3], 1):
        value.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        x -= 0.01 * math.sqrt(1 - 0.95**t) / (1 - 0.8**t) * m / (math.sqrt(v) + 1e-7)
        assert value.item() == pytest.approx(x, rel=1e-12)


def test_adam_differs_from_torch_where_gradients_are_small():
    """First step on g = eps: torch moves lr / 2, epsilon-hat lr / (1 + sqrt(1000)): 16 times less."""
    moves = []
    for optimizer_class in (torch.optim.Adam, KerasAdam):
        value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        value.grad = torch.full_like(value, 1e-7)
        optimizer_class([value], lr=1.0, eps=1e-7).step()
        moves.append(-value.item())
    assert moves == pytest.approx([1 / 2, 1 / (1 + 1000**0.5)])


def test_adam_resumes_from_its_state(tmp_path):
    def run(steps: int, save_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = KerasAdam(model.parameters(), lr=0.1)
        for step in range(steps):
            if step == save_at:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
                model, optimizer = nn.Linear(3, 2), None
                optimizer = KerasAdam(model.parameters(), lr=0.5)
                state = torch.load(tmp_path / "state.pt", weights_only=True)
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
            optimizer.zero_grad()
            model(torch.full((4, 3), step + 1.0)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(run(5), run(5, save_at=2))


def test_adam_closure_and_refusals():
    model = nn.Linear(2, 1)
    optimizer = KerasAdam(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
    with pytest.raises(ValueError, match=r"lr=-1.0"):
        KerasAdam(model.parameters(), lr=-1.0)
    sparse = nn.Embedding(3, 2, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="takes dense gradients"):
        KerasAdam(sparse.parameters()).step()


def test_initialisers():
    model = nn.ModuleList(
        [nn.Linear(300, 100), nn.Conv1d(10, 60, 3), nn.Conv2d(8, 50, 3), nn.Embedding(400, 30, padding_idx=0)]
    )
    model.append(nn.GRU(200, 40))
    norm = nn.BatchNorm1d(5)
    norm.running_mean.fill_(3)
    model.append(norm)
    assert keras_init_(model, torch.Generator().manual_seed(0)) is model
    limits = [math.sqrt(6 / 400), math.sqrt(6 / (30 + 180)), math.sqrt(6 / (72 + 450)), 0.05]
    for layer, limit in zip(model, limits, strict=False):
        assert 0.98 * limit < layer.weight.abs().max() <= limit
        # the standard deviation of U(-a, a) is a / sqrt(3); 1800 draws and more leave 4 %
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.04)
        assert getattr(layer, "bias", None) is None or (layer.bias == 0).all()
    gru = model[4]
    assert gru.weight_ih_l0.abs().max().item() == pytest.approx(math.sqrt(6 / (200 + 120)), rel=0.02)
    torch.testing.assert_close(gru.weight_hh_l0.T @ gru.weight_hh_l0, torch.eye(40), rtol=0, atol=1e-5)
    assert (gru.bias_ih_l0 == 0).all()
    assert (gru.bias_hh_l0 == 0).all()
    assert (norm.running_mean == 0).all()
    again = keras_init_(nn.Linear(300, 100), torch.Generator().manual_seed(0))
    assert torch.equal(again.weight, model[0].weight)
