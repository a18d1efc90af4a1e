r"""Matrix capsules (Hinton, Sabour & Frosst 2018; Su 2018c, archives/5155): the layers and the paper's network.

A capsule has a pose, a 4x4 matrix, and an activation between 0 and 1. Its vote for a parent is its pose times a matrix
that is learned, :math:`V_{ij} = P_i W_{ij}`, the same at every position; parents are found by EM routing.

    model = MatrixCapsNet(64, 8, 16, 16, num_classes=5, in_channels=2)     # the paper's smaller network for smallNORB
    activations = model(images)                                            # (B, 5)

Shapes: ``B`` batch, ``H, W`` positions, ``K`` kinds of capsules in, ``C`` kinds out, ``O`` classes. Capsules at
positions are held as poses (B, H, W, K, 4, 4) and activations (B, H, W, K).
"""

import math

import torch
from torch import Tensor, nn

from capsnet.em_routing import EMStep, em_routing, inverse_temperatures
from capsnet.routing import at_least_float32, kernels_run_on
from capsnet.window_routing import POSE, Windows, conv_windows, route_windows, whole_map


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


class _MatrixLayer(nn.Module):
    """Matrices, betas and inverse temperatures of a layer."""

    def __init__(
        self, places: int, in_caps: int, out_caps: int, num_iters: int, final_temperature: float, fused: bool
    ) -> None:
        super().__init__()
        for name, value in (("in_caps", in_caps), ("out_caps", out_caps), ("num_iters", num_iters)):
            _check_positive(name, value)
        if not 0 < final_temperature < math.inf:
            raise ValueError(f"final_temperature must be positive and finite, got {final_temperature}")
        self.in_caps, self.out_caps, self.num_iters = in_caps, out_caps, num_iters
        self.final_temperature, self.fused = final_temperature, fused
        # Near the identity: parents see much the same votes at first, and a child begins undecided (HINTON.md).
        self.weight = nn.Parameter(0.02 * torch.randn(places, in_caps, out_caps, 4, 4) + torch.eye(4))
        # A capsule whose log sigma lies below 0.06 gains by every vote that it describes, so that most do from the
        # beginning; beta_a is the price of it that leaves activations near a half.
        self.beta_u = nn.Parameter(torch.full((out_caps,), -0.06))
        price = 0.5 * POSE * inverse_temperatures(num_iters, final_temperature)[-1]
        self.beta_a = nn.Parameter(torch.full((out_caps,), -price))

    def schedule(self, windows: Windows) -> list[float]:
        """Inverse temperatures that suit the layer: the cost grows with the children a parent has to itself."""
        share = windows.children_per_parent * self.in_caps / self.out_caps
        return inverse_temperatures(self.num_iters, self.final_temperature / share)

    def betas(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """What EM is given: beta_u, held as in the paper for each of a pose's 16 numbers, and beta_a, held in units of
        the last logit; both then learn as fast as everything else (the official code multiplies them too).
        """
        return POSE * self.beta_u, self.beta_a / self.schedule(windows)[-1]

    def route(
        self, poses: Tensor, activations: Tensor, windows: Windows, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Poses (B, H', W', C, 4, 4) and activations (B, H', W', C); float32 at least, also under autocast."""
        function = route_windows
        if self.fused and kernels_run_on(poses):
            from capsnet.triton_routing import fused_route_windows as function  # here: Triton is not everywhere
        with torch.autocast(poses.device.type, enabled=False):
            weight, beta_u, beta_a = (at_least_float32(x) for x in (self.weight, *self.betas(windows)))
            flat = poses.to(weight.dtype).flatten(1, 2).flatten(3)  # (B, HW, K, 16)
            active = activations.to(weight.dtype).flatten(1, 2)
            mean, active = function(flat, active, weight, beta_u, beta_a, windows, self.schedule(windows), offsets)
        return mean.unflatten(1, windows.size).unflatten(4, (4, 4)), active.unflatten(1, windows.size)

    def check(self, poses: Tensor, activations: Tensor) -> None:
        name = type(self).__name__
        if poses.dim() != 6 or poses.shape[3:] != (self.in_caps, 4, 4):
            raise ValueError(f"{name}: expected poses (B, H, W, {self.in_caps}, 4, 4), got {tuple(poses.shape)}")
        if activations.shape != poses.shape[:4]:
            expected = tuple(poses.shape[:4])
            raise ValueError(f"{name}: expected activations {expected}, got {tuple(activations.shape)}")


class MatrixCapsuleConv2d(_MatrixLayer):
    r"""Convolutional matrix capsules: every parent position routes the window of children below it, with the same
    matrices everywhere, and a child chooses among all parents of all positions that see it.

    *Deviation:* the inverse temperature of the paper has no published values; the official code's schedule is used,
    with ``final_temperature`` over the number of children a parent has to itself, so that one value suits every layer.

    Args:
        in_caps, out_caps: kinds of capsules.
        kernel_size, stride: of the window; no padding.
        num_iters: see `capsnet.em_routing`.
        final_temperature: what the inverse temperature would tend to.
        fused: route by the Triton kernel (`capsnet.triton_routing`) on a GPU, and as ever elsewhere; the same numbers.

    Shape: poses (B, H, W, in_caps, 4, 4), activations (B, H, W, in_caps) -> the same with H', W' and out_caps.

    Raises:
        ValueError: an impossible setting, other shapes, or fewer positions than the window has.
    """

    def __init__(
        self,
        in_caps: int,
        out_caps: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        num_iters: int = 3,
        final_temperature: float = 1.0,
        fused: bool = False,
    ) -> None:
        _check_positive("kernel_size", kernel_size)
        _check_positive("stride", stride)
        super().__init__(kernel_size * kernel_size, in_caps, out_caps, num_iters, final_temperature, fused)
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        self.check(poses, activations)
        height, width = poses.shape[1:3]
        if min(height, width) < self.kernel_size:
            size = self.kernel_size
            raise ValueError(f"MatrixCapsuleConv2d: a {size}x{size} window needs more than {height}x{width} positions")
        return self.route(poses, activations, conv_windows(height, width, self.kernel_size, self.stride, poses.device))

    def extra_repr(self) -> str:
        return f"{self.in_caps} -> {self.out_caps}, kernel_size={self.kernel_size}, stride={self.stride}"


class MatrixClassCapsules(_MatrixLayer):
    """One capsule a class, from all positions, with one matrix for each kind of child and class, and *coordinate
    addition*: where a child is, row and column from 0 to 1, is added to the first two numbers of the last column of its
    votes, so that sharing matrices does not lose the place.

    Shape: poses (B, H, W, in_caps, 4, 4), activations (B, H, W, in_caps) -> poses (B, O, 4, 4), activations (B, O).
    """

    def __init__(
        self,
        in_caps: int,
        num_classes: int,
        *,
        num_iters: int = 3,
        final_temperature: float = 1.0,
        fused: bool = False,
    ) -> None:
        super().__init__(1, in_caps, num_classes, num_iters, final_temperature, fused)

    def coordinates(self, height: int, width: int) -> Tensor:
        """(H * W, 16): what is added to the votes from each position."""
        offsets = at_least_float32(self.weight).new_zeros(height, width, 4, 4)
        offsets[:, :, 0, 3] = ((torch.arange(height) + 0.5) / height).to(offsets).unsqueeze(1)
        offsets[:, :, 1, 3] = ((torch.arange(width) + 0.5) / width).to(offsets)
        return offsets.flatten(0, 1).flatten(1)

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        self.check(poses, activations)
        height, width = poses.shape[1:3]
        windows = whole_map(height, width, poses.device)
        mean, active = self.route(poses, activations, windows, self.coordinates(height, width))
        return mean[:, 0, 0], active[:, 0, 0]

    @torch.no_grad()
    def trace(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, list[EMStep]]:
        """The explicit votes (B, I, O, 16) and what every iteration does with them, for pictures."""
        height, width = poses.shape[1:3]
        weight = at_least_float32(self.weight[0])
        votes = torch.einsum("bhwkxz,kozy->bhwkoxy", poses.to(weight.dtype), weight).flatten(5)
        votes = votes.flatten(1, 2) + self.coordinates(height, width)[:, None, None]  # (B, HW, K, O, 16)
        votes = votes.flatten(1, 2).unflatten(3, (4, 4))
        steps: list[EMStep] = []
        windows = whole_map(height, width, poses.device)
        shared = (*self.betas(windows), self.num_iters)
        em_routing(votes, activations.flatten(1), *shared, inverse_temperature=self.schedule(windows), trace=steps)
        return votes.flatten(3), steps


def covered(pixels: int) -> slice:
    """The middle pixels that a 5x5 and a 3x3 window, both of stride 2, cover exactly: 4n + 5 of them."""
    spare = (pixels - 5) % 4
    first = (spare + 1) // 2  # of three, two: MNIST's digits are centred on pixel 14 of 28, right of the middle
    return slice(first, first + pixels - spare)


class MatrixCapsNet(nn.Module):
    """The paper's network: 5x5 convolution with stride 2 and ReLU to A channels; B kinds of primary capsules, whose
    poses are a linear map of the channels at their position and whose activations are its sigmoid; two convolutional
    capsule layers of C and D kinds, 3x3, with strides 2 and 1; class capsules.

    For smallNORB's pairs of images, five classes: (64, 8, 16, 16) has 68,754 parameters (paper: 68 K), (32, 32, 32, 32)
    has 317,194 (paper: 310 K).

    *Deviation:* strided windows without padding never see the last pixels, 3 of 28 rows and columns, which cuts more
    than 2 % of the ink from every fifth digit of MNIST. As many are left out, but on both sides.

    Args:
        A, B, C, D: see above.
        num_classes: class capsules.
        in_channels: of the images; 2 for smallNORB's pairs.
        num_iters: of routing, in all three layers; the paper's best is 3, its smaller networks use 2.
        final_temperature, fused: see `MatrixCapsuleConv2d`.

    Shape: (B, in_channels, H, W) -> activations (B, O); 17 pixels at least, any size. Of half precision weights
    the routing is computed, and its results are returned, in float32.

    Raises:
        ValueError: an impossible setting, or images of another shape or too small.
    """

    def __init__(
        self,
        A: int = 64,
        B: int = 8,
        C: int = 16,
        D: int = 16,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        num_iters: int = 2,
        final_temperature: float = 1.0,
        fused: bool = False,
    ) -> None:
        super().__init__()
        routing = {"num_iters": num_iters, "final_temperature": final_temperature, "fused": fused}
        self.in_channels, self.primary_caps = in_channels, B
        self.features = nn.Sequential(nn.Conv2d(in_channels, A, 5, stride=2), nn.ReLU())
        self.primary_poses = nn.Conv2d(A, B * POSE, 1)
        self.primary_activations = nn.Conv2d(A, B, 1)
        with torch.no_grad():
            self.primary_poses.weight.mul_(5)  # poses of about one
        self.conv_caps1 = MatrixCapsuleConv2d(B, C, 3, 2, **routing)  # type: ignore[arg-type]
        self.conv_caps2 = MatrixCapsuleConv2d(C, D, 3, 1, **routing)  # type: ignore[arg-type]
        self.classes = MatrixClassCapsules(D, num_classes, **routing)  # type: ignore[arg-type]

    def convolve(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Capsules under the classes: poses (B, H', W', D, 4, 4), activations (B, H', W', D)."""
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < 17:
            expected = f"(B, {self.in_channels}, H, W) of at least 17x17 pixels"
            raise ValueError(f"MatrixCapsNet: expected images {expected}, got {tuple(x.shape)}")
        maps = self.features(x[..., covered(x.shape[2]), covered(x.shape[3])])  # (B, A, H', W')
        poses = self.primary_poses(maps).unflatten(1, (self.primary_caps, 4, 4)).permute(0, 4, 5, 1, 2, 3)
        activations = self.primary_activations(maps).sigmoid().permute(0, 2, 3, 1)
        return self.conv_caps2(*self.conv_caps1(poses, activations))

    def capsules(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class capsules: poses (B, O, 4, 4) and activations (B, O)."""
        return self.classes(*self.convolve(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.capsules(x)[1]
