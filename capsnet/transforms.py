r"""Votes that are never built: what routing asks of them, answered from the inputs and the weights.

A vote is linear in its input, :math:`\hat u_{ij} = W_{ij}^\top u_i`, and so are the two questions of the routing loop:

* :math:`s_j = \sum_i c_{ij} W_{ij}^\top u_i`: weight the inputs first, multiply by the matrix once;
* :math:`b_{ij} = \langle W_{ij}^\top u_i, v_j \rangle = \langle u_i, W_{ij} v_j \rangle`: pull the centre back,
compare with the inputs.

With shared matrices (:math:`W_{ij} = W_j`) both cost ``B*I*O*in_dim`` operations instead of ``B*I*O*D*in_dim``, and
memory grows with ``B*I*O``. With full matrices each is one matrix product a class, in chunks of classes small enough
to stay in cache; what the products need in between is made again in the backward pass rather than kept.

Shapes: ``B`` batch, ``I`` input capsules, ``N`` input dimension, ``O`` output capsules, ``D`` output dimension.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of a `torch.autograd.Function`, in the precision of what it saved: whoever calls ``backward``
    inside an autocast would else get products in half precision, of a forward pass that was not.
    """

    @wraps(backward)
    def run(ctx: Any, *grads: Tensor) -> Any:
        with torch.autocast(grads[0].device.type, enabled=False):
            return backward(ctx, *grads)

    return run


class SharedVotes:
    r"""Votes :math:`\hat u_{ij} = W_j^\top u_i` of inputs (B, I, N) under one matrix an output, (N, O, D)."""

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        self.u = u
        self.weight = weight.transpose(0, 1)  # (O, N, D)

    def combine(self, coupling: Tensor | None) -> Tensor:
        if coupling is None:
            mean = self.u.sum(dim=1) / self.weight.shape[0]  # (B, N)
            return torch.einsum("bn,ond->bod", mean, self.weight)
        weighted = coupling.transpose(1, 2) @ self.u  # (B, O, N)
        return torch.bmm(weighted.transpose(0, 1), self.weight).transpose(0, 1)  # (B, O, D)

    def agree(self, v: Tensor) -> Tensor:
        pulled = torch.bmm(v.transpose(0, 1), self.weight.transpose(1, 2))  # (O, B, N)
        return self.u @ pulled.permute(1, 2, 0)  # (B, I, O)


class FullVotes:
    r"""Votes :math:`\hat u_{ij} = W_{ij}^\top u_i` of inputs (B, I, N) under a matrix a pair, (I, N, O, D)."""

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        self.u = u
        self.weight = weight.permute(2, 0, 1, 3).contiguous()  # (O, I, N, D)

    def combine(self, coupling: Tensor | None) -> Tensor:
        if coupling is None:
            flat = self.weight.flatten(1, 2)  # (O, I*N, D)
            return torch.einsum("bk,okd->bod", self.u.flatten(1), flat) / self.weight.shape[0]
        return _Combine.apply(self.u, self.weight, coupling)

    def agree(self, v: Tensor) -> Tensor:
        return _Agree.apply(self.u, self.weight, v)


def _combine_class(u: Tensor, weight: Tensor, coupling: Tensor) -> Tensor:
    """(B, I, N), (I, N, D), (B, I) -> (B, D)."""
    return (u * coupling.unsqueeze(2)).flatten(1) @ weight.flatten(0, 1)


def _pull_class(weight: Tensor, v: Tensor) -> Tensor:
    """(I, N, D), (B, D) -> (B, I, N): the centre seen from every input."""
    return (v @ weight.flatten(0, 1).T).unflatten(1, weight.shape[:2])


class _Combine(torch.autograd.Function):
    """s_j = sum_i c_ij W_ij^T u_i for every class, keeping nothing but the arguments."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, coupling: Tensor) -> Tensor:
        ctx.save_for_backward(u, weight, coupling)
        classes = zip(weight, coupling.unbind(2), strict=True)
        return torch.stack([_combine_class(u, w, c) for w, c in classes], dim=1)  # (B, O, D)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, weight, coupling = ctx.saved_tensors
        grad_u, grad_weight, grad_coupling = torch.zeros_like(u), torch.empty_like(weight), torch.empty_like(coupling)
        for j, w in enumerate(weight):
            c, g = coupling[:, :, j, None], grad[:, j]
            pulled = _pull_class(w, g)  # (B, I, N)
            grad_coupling[:, :, j] = (u * pulled).sum(dim=2)
            grad_u.addcmul_(c, pulled)
            torch.mm((u * c).flatten(1).T, g, out=grad_weight[j].flatten(0, 1))
        return grad_u, grad_weight, grad_coupling


class _Agree(torch.autograd.Function):
    """b_ij = <u_i, W_ij v_j> for every class, keeping nothing but the arguments."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(u, weight, v)
        classes = zip(weight, v.unbind(1), strict=True)
        return torch.stack([(u * _pull_class(w, v_j)).sum(dim=2) for w, v_j in classes], dim=2)  # (B, I, O)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, weight, v = ctx.saved_tensors
        grad_u, grad_weight, grad_v = torch.zeros_like(u), torch.empty_like(weight), torch.empty_like(v)
        for j, w in enumerate(weight):
            g = grad[:, :, j, None]  # (B, I, 1)
            weighted = (u * g).flatten(1)  # (B, I*N)
            grad_v[:, j] = weighted @ w.flatten(0, 1)
            grad_u.addcmul_(g, _pull_class(w, v[:, j]))
            torch.mm(weighted.T, v[:, j], out=grad_weight[j].flatten(0, 1))
        return grad_u, grad_weight, grad_v
