r"""The capsule layer: three transforms, four routings (Su 2018a, archives/4819; Su 2018b, archives/5112).

Shapes: ``B`` batch, ``I`` input capsules, ``O`` output capsules.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from capsnet.routing import Routing, RoutingStep, Votes, at_least_float32, check_routing, route_votes
from capsnet.transforms import FullVotes, SharedVotes

Transform = Literal["shared", "full", "factorized"]


class CapsuleLayer(nn.Module):
    r"""Output capsules as cluster centres of the transformed input capsules (Su 2018b, section on the three
    transforms).

    ==============  =====================================  ===========================================================
    ``shared``      :math:`\hat u_{ij} = W_j^\top u_i`          any number of inputs, so images of any size
    ``full``        :math:`\hat u_{ij} = W_{ij}^\top u_i`       ``in_caps`` inputs, a matrix a pair
    ``factorized``  :math:`\hat u_{ij} = W_j^\top \tilde W_i^\top u_i`  ``in_caps`` inputs, ``in_caps + out_caps``
    matrices
    ==============  =====================================  ===========================================================

    Args:
        in_dim: dimension of an input capsule.
        out_caps: number of output capsules.
        out_dim: dimension of an output capsule.
        in_caps: number of input capsules; needed by ``full`` and ``factorized``, refused by ``shared``.
        transform: see the table.
        routing: see `capsnet.route`.
        num_iters: as ``routings`` in the Keras original.
        squash_constant: see `capsnet.squash`.

    Shape: (B, I, in_dim) -> (B, O, out_dim).

    Raises:
        ValueError: an impossible setting, or inputs of another shape.
    """

    def __init__(
        self,
        in_dim: int,
        out_caps: int,
        out_dim: int,
        *,
        in_caps: int | None = None,
        transform: Transform = "shared",
        routing: Routing = "dynamic",
        num_iters: int = 3,
        squash_constant: float = 0.5,
    ) -> None:
        super().__init__()
        check_routing(routing, num_iters)
        if transform not in get_args(Transform):
            raise ValueError(f"transform must be one of {', '.join(get_args(Transform))}; got {transform!r}")
        if (in_caps is None) != (transform == "shared"):
            problem = "needs in_caps" if in_caps is None else "takes any number of inputs: leave in_caps out"
            raise ValueError(f"transform {transform!r} {problem}")
        self.in_dim, self.out_caps, self.out_dim, self.in_caps = in_dim, out_caps, out_dim, in_caps
        self.transform: Transform = transform
        self.routing: Routing = routing
        self.num_iters, self.squash_constant = num_iters, squash_constant
        pair = (in_dim, out_caps, out_dim)
        self.weight = nn.Parameter(torch.empty((in_caps, *pair) if transform == "full" else pair))  # type: ignore[arg-type]
        if transform == "factorized":
            self.input_weight = nn.Parameter(torch.empty(in_caps, in_dim, in_dim))  # type: ignore[arg-type]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot uniform with the fans that Keras gives the original's kernels: (1 or I, in_dim, O * out_dim)."""
        for weight in self.parameters():
            receptive = 1 if weight is self.weight and self.transform != "full" else self.in_caps or 1
            fan_in, fan_out = receptive * self.in_dim, receptive * self.out_caps * self.out_dim
            if weight is not self.weight:  # the factor of each input keeps the variance, as a matrix of its own
                fan_in = fan_out = self.in_dim
            bound = (6 / (fan_in + fan_out)) ** 0.5
            nn.init.uniform_(weight, -bound, bound)

    def votes(self, u: Tensor) -> Votes:
        """The votes of the input capsules, in the form that answers the routing without building them."""
        if u.dim() != 3 or u.shape[2] != self.in_dim or u.shape[1] == 0:
            raise ValueError(f"CapsuleLayer: expected inputs (B, I, {self.in_dim}) with I > 0, got {tuple(u.shape)}")
        if self.in_caps is not None and u.shape[1] != self.in_caps:
            raise ValueError(
                f"CapsuleLayer: transform {self.transform!r} was built for {self.in_caps} inputs, got {u.shape[1]}"
            )
        weight = at_least_float32(self.weight)
        u = u.to(weight.dtype)
        if self.transform == "full":
            return FullVotes(u, weight)
        if self.transform == "factorized":
            u = torch.einsum("bin,inm->bim", u, at_least_float32(self.input_weight))
        return SharedVotes(u, weight)

    def forward(self, u: Tensor, trace: list[RoutingStep] | None = None) -> Tensor:
        """Route; ``trace`` collects one `RoutingStep` an iteration. float32 also under autocast and of half precision
        weights, for routing is cheap; the outputs are of the weights' precision.
        """
        with torch.autocast(u.device.type, enabled=False):
            out = route_votes(self.votes(u), self.routing, self.num_iters, self.squash_constant, trace)
            return out.to(self.weight.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.in_caps or 'any'} x {self.in_dim} -> {self.out_caps} x {self.out_dim}, transform={self.transform}, "
            f"routing={self.routing}, num_iters={self.num_iters}, squash_constant={self.squash_constant}"
        )
