r"""One optimiser for a large table of which a step touches few rows, and for the small dense rest."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from trainer.keras_training import update_moments


class RowAdagrad(Optimizer):
    r"""Adagrad with one accumulator a row where the gradient is sparse, Adam where it is dense.

    .. math:: s_r \leftarrow s_r + \tfrac1D \|g_r\|^2, \qquad w_r \leftarrow w_r - \alpha g_r / (\sqrt{s_r} + \epsilon)

    (Duchi, Hazan and Singer 2011, with the mean over a row in place of each coordinate; Mudigere et al. 2022.) Rows
    that a batch does not name cost nothing, and a rare n-gram keeps a large step. Dense weights follow Kingma and Ba
    2015 with the usual decay rates.

    Args:
        lr: alpha of the sparse weights.
        dense_share: alpha of the dense ones over that of the sparse ones, so that one schedule moves both.
        eps: epsilon of both.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, dense_share: float = 0.02, eps: float = 1e-10) -> None:
        if lr < 0 or dense_share < 0:
            raise ValueError(f"lr={lr} and dense_share={dense_share} cannot be negative")
        super().__init__(params, {"lr": lr, "dense_share": dense_share, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    self._sparse(parameter, group["lr"], group["eps"])
                else:
                    self._dense(parameter, group["lr"] * group["dense_share"], group["eps"])
        return loss

    def _sparse(self, parameter: torch.Tensor, lr: float, eps: float) -> None:
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.zeros(len(parameter), device=parameter.device)
        gradient = parameter.grad.coalesce()  # type: ignore[union-attr]
        rows, values = gradient.indices()[0], gradient.values()  # (R,), (R, D)
        total = state["sum"][rows] + values.square().mean(dim=1)
        state["sum"][rows] = total
        parameter.index_add_(0, rows, values / (total.sqrt() + eps)[:, None], alpha=-lr)

    def _dense(self, parameter: torch.Tensor, lr: float, eps: float) -> None:
        state = self.state[parameter]
        update_moments(state, parameter.grad, 0.9, 0.999)  # type: ignore[arg-type]
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        square = state["square"] / (1 - 0.999 ** state["step"])
        parameter.addcdiv_(mean, square.sqrt().add_(eps), value=-lr)
