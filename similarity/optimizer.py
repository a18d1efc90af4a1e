r"""Optimisers for a large table of which a step touches few rows, together with the small dense rest."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class _ByRow(Optimizer):
    r"""Adam where the gradient is dense (Kingma and Ba 2015, with the usual decay rates); what subclasses do where it
    is sparse, row by row. Rows that a step does not name cost nothing.
    """

    def __init__(self, params: Iterable[Any], lr: float, dense_share: float, eps: float) -> None:
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
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    gradient = gradient.coalesce()
                    self._rows(parameter, gradient.indices()[0], gradient.values(), group["lr"], group["eps"])
                else:
                    self._dense(parameter, group["lr"] * group["dense_share"], group["eps"])
        return loss

    def _rows(self, parameter: Tensor, rows: Tensor, values: Tensor, lr: float, eps: float) -> None:
        """Move rows (R,) of a (rows, D) parameter, whose gradients are values (R, D)."""
        raise NotImplementedError

    def _dense(self, parameter: Tensor, lr: float, eps: float) -> None:
        state = self._moments(parameter)
        parameter.sub_(_adam_(state["mean"], state["square"], parameter.grad, state["step"], lr, eps))  # type: ignore[arg-type]

    def _moments(self, parameter: Tensor) -> dict[str, Any]:
        """Adam's state, one step on."""
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        return state


def _adam_(mean: Tensor, square: Tensor, gradient: Tensor, step: int, lr: float, eps: float) -> Tensor:
    """Update both moments in place; returns what is to be taken from the weights."""
    mean.lerp_(gradient, 0.1)
    square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    root = (square / (1 - 0.999**step)).sqrt_().add_(eps)
    return (mean / root).mul_(lr / (1 - 0.9**step))


class RowAdagrad(_ByRow):
    r"""Adagrad with one accumulator a row where the gradient is sparse, Adam where it is dense.

    .. math:: s_r \leftarrow s_r + \tfrac1D \|g_r\|^2, \qquad w_r \leftarrow w_r - \alpha g_r / (\sqrt{s_r} + \epsilon)

    (Duchi, Hazan and Singer 2011, with the mean over a row in place of each coordinate; Mudigere et al. 2022.) A rare
    n-gram keeps a large step.

    Args:
        lr: alpha of the sparse weights.
        dense_share: alpha of the dense ones over that of the sparse ones, so that one schedule moves both.
        eps: epsilon of both.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, dense_share: float = 0.02, eps: float = 1e-10) -> None:
        super().__init__(params, lr, dense_share, eps)

    def _rows(self, parameter: Tensor, rows: Tensor, values: Tensor, lr: float, eps: float) -> None:
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.zeros(len(parameter), device=parameter.device)
        total = state["sum"][rows] + values.square().mean(dim=1)
        state["sum"][rows] = total
        parameter.index_add_(0, rows, values / (total.sqrt() + eps)[:, None], alpha=-lr)


class RowAdam(_ByRow):
    r"""Adam (Kingma and Ba 2015) whose rows rest, moments too, in steps whose sparse gradient does not name them: the
    rule of `torch.optim.SparseAdam` ("lazy Adam"), for sparse and dense weights in one optimiser.

    Args:
        lr: alpha.
        eps: epsilon, added to the root of the corrected second moment.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, eps: float = 1e-7) -> None:
        super().__init__(params, lr, 1.0, eps)

    def _rows(self, parameter: Tensor, rows: Tensor, values: Tensor, lr: float, eps: float) -> None:
        state = self._moments(parameter)
        mean, square = state["mean"][rows], state["square"][rows]
        parameter.index_add_(0, rows, _adam_(mean, square, values, state["step"], lr, eps), alpha=-1)
        state["mean"][rows], state["square"][rows] = mean, square
