r"""Train as Keras does: its Adam and its initialisers, for runs compared step by step with an original."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class KerasAdam(torch.optim.Optimizer):
    r"""Adam in the "epsilon hat" form (Kingma and Ba 2015, section 2, last paragraph), which Keras uses.

    .. math:: \theta_t = \theta_{t-1}
        - \alpha \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} \frac{m_t}{\sqrt{v_t} + \hat\epsilon}

    with m and v the running means of the gradient and of its square. :class:`torch.optim.Adam` divides sqrt(v) by
    sqrt(1 - beta_2^t) *before* it adds epsilon: early on, and where gradients are near epsilon, its steps are larger.
    The factor of alpha is computed in the precision of the weights, as Keras does: in float32 that moves the first
    steps by 1e-5 of their length, which a network with ReLUs makes visible within 20 steps.

    Args:
        lr: alpha, the step size.
        betas: the decay rates of m and v, within [0, 1).
        eps: epsilon hat, 1e-7 in Keras.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
    ):
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr={lr} and eps={eps} cannot be negative, and betas={betas} lie within [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad
                if gradient.is_sparse:
                    raise ValueError("KerasAdam takes dense gradients; build the embedding with sparse=False")
                state = self.state[parameter]
                update_moments(state, gradient, beta1, beta2)
                rate = _rate(group["lr"], beta1, beta2, state["step"], parameter.dtype)
                parameter.addcdiv_(state["mean"], state["square"].sqrt().add_(group["eps"]), value=-rate)
        return loss


def update_moments(state: dict[str, Any], gradient: Tensor, beta1: float, beta2: float) -> None:
    """Adam's ``step``, ``mean`` and ``square`` of a parameter (Kingma and Ba 2015, algorithm 1), begun at zero."""
    if not state:
        state["step"] = 0
        state["mean"] = torch.zeros_like(gradient)
        state["square"] = torch.zeros_like(gradient)
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - beta1)
    state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)


def _rate(lr: float, beta1: float, beta2: float, step: int, dtype: torch.dtype) -> float:
    """lr sqrt(1 - beta2^step) / (1 - beta1^step), each operation rounded to `dtype` (float32 at the least)."""
    lr_, first, second, steps = torch.tensor([lr, beta1, beta2, step], dtype=torch.promote_types(dtype, torch.float32))
    return (lr_ * torch.sqrt(1 - torch.pow(second, steps)) / (1 - torch.pow(first, steps))).item()


@torch.no_grad()
def keras_init_(model: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    r"""Draw every weight of `model` anew as Keras does by default; in place, returns the model.

    ========================= =================================================================================
    Linear, Conv1d, Conv2d    Glorot and Bengio 2010: U(-a, a), a = sqrt(6 / (fan_in + fan_out)); bias 0
    Embedding                 U(-0.05, 0.05), the row of `padding_idx` too
    GRU                       input matrix Glorot over (in, 3H) as one; recurrent matrix orthogonal; biases 0
    BatchNorm                 weight 1, bias 0, running mean 0 and variance 1
    ========================= =================================================================================

    torch draws Linear, Conv and GRU from U(+-1/sqrt(fan)), biases too, and Embedding from N(0, 1).
    Layers without weights, and layers of other kinds (a capsule layer), are left as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -0.05, 0.05, generator=generator)
        elif isinstance(module, nn.GRU):
            for name, weight in module.named_parameters():
                if name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(weight, generator=generator)
                elif name.startswith("weight_hh"):
                    nn.init.orthogonal_(weight, generator=generator)
                else:
                    weight.zero_()
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
    return model
