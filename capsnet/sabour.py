r"""CapsNet (Sabour, Frosst & Hinton 2017, *Dynamic routing between capsules*), its small successor, and their controls.

An image becomes primary capsules (:math:`u_i`, eight numbers that are eight channels at *one* position), those vote for
one capsule a class (:math:`v_j`, whose length is the class score), and a decoder draws the image again from the capsule
of one class alone, so that its numbers have to say how the digit looks.

    model = CapsNet()                                   # 8,215,568 parameters, as in the paper
    lengths = model(images)                             # (B, 10)
    lengths, drawn = model(images, labels[:, None])     # and (B, 1, 1, 28, 28), drawn from the capsule of each label

Shapes: ``B`` batch, ``C`` image channels, ``H, W`` image size in pixels, ``I`` primary capsules of ``N`` numbers,
``O`` classes, ``D`` numbers of a class capsule, ``n`` capsules drawn separately for each image.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from capsnet.layers import CapsuleLayer
from capsnet.routing import Routing, RoutingStep, Votes, at_least_float32, kernels_run_on, squash
from losses import capsule_margin

Network = Literal["paper", "small"]
PRIMARY_DIM = 8
SMALL_TYPES = 16
RECONSTRUCTION_WEIGHT = 0.0005  # of the sum of squares over the pixels, so that it does not dominate the margin loss


def _check_network(network: str) -> None:
    if network not in get_args(Network):
        raise ValueError(f"network must be one of {', '.join(get_args(Network))}; got {network!r}")


def _check_images(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.dim() != 4 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"{name}: built for images (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


class SmallFeatures(nn.Sequential):
    """Four convolutions with batch normalisation, as wide as Efficient-CapsNet's (Mazzia et al. 2021): 130,688
    parameters, (B, C, H, W) -> (B, 128, H', W') with H' = (H - 9) // 2, 9 for 28 pixels.
    """

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for in_width, width, size, stride in ((channels, 32, 5, 1), (32, 64, 3, 1), (64, 64, 3, 1), (64, 128, 3, 2)):
            layers += [nn.Conv2d(in_width, width, size, stride), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


class PrimaryCapsules(nn.Module):
    r"""Image -> squashed primary capsules (B, I, N).

    ``paper``: 256 kernels of 9x9, ReLU, then 32 types of 8-d capsules by 9x9 kernels with stride 2. ``small``: the
    convolutions of `SmallFeatures`, then one kernel a channel that covers the whole map, so that there are 16 capsules
    whatever the image size.

    The channels of the last convolution are laid out type by type: channels ``8 t .. 8 t + 7`` of *one* position are
    the capsule of type ``t`` there. Many public versions cut the tensor otherwise and take eight neighbouring
    positions of one channel.
    """

    def __init__(self, network: Network, image_shape: tuple[int, int, int], squash_constant: float) -> None:
        super().__init__()
        channels, *size = image_shape
        self.squash_constant, self.image_shape = squash_constant, image_shape
        least = 17 if network == "paper" else 11
        if min(size) < least:
            raise ValueError(f"CapsNet: the {network} network needs images of {least} pixels, got {size[0]}x{size[1]}")
        if network == "paper":
            self.features = nn.Sequential(nn.Conv2d(channels, 256, 9), nn.ReLU())
            self.primary = nn.Conv2d(256, 32 * PRIMARY_DIM, 9, stride=2)
            self.num_caps = 32 * ((size[0] - 16 + 1) // 2) * ((size[1] - 16 + 1) // 2)
        else:
            self.features = SmallFeatures(channels)
            width = SMALL_TYPES * PRIMARY_DIM
            rest = ((size[0] - 9) // 2, (size[1] - 9) // 2)
            self.primary = nn.Conv2d(width, width, rest, groups=width)
            self.num_caps = SMALL_TYPES

    def forward(self, x: Tensor) -> Tensor:
        _check_images("CapsNet", x, self.image_shape)
        maps = at_least_float32(self.primary(self.features(x)))  # (B, types * N, H', W')
        capsules = maps.permute(0, 2, 3, 1).reshape(len(x), self.num_caps, PRIMARY_DIM)  # of H' * W' * types
        return squash(capsules, self.squash_constant)


class DetachedVotes:
    """Votes whose agreements are constants: the gradient flows through the last weighted sum only."""

    def __init__(self, votes: Votes) -> None:
        self.votes = votes

    def combine(self, coupling: Tensor | None) -> Tensor:
        return self.votes.combine(coupling)

    @torch.no_grad()
    def agree(self, v: Tensor) -> Tensor:
        return self.votes.agree(v)


class ClassCapsules(CapsuleLayer):
    """A `CapsuleLayer` with one matrix a pair, begun as the official code does, with ``detach`` and ``fused``."""

    def __init__(
        self, in_caps: int, num_classes: int, out_dim: int, *, detach: bool, fused: bool, **routing: Any
    ) -> None:
        super().__init__(PRIMARY_DIM, num_classes, out_dim, in_caps=in_caps, transform="full", **routing)
        if fused and (detach or self.routing != "dynamic"):
            raise ValueError("fused routing is dynamic routing with its gradient: leave detach and other routings out")
        self.detach, self.fused = detach, fused

    def reset_parameters(self) -> None:
        """Normal with deviation 0.1, cut at two deviations."""
        nn.init.trunc_normal_(self.weight, std=0.1, a=-0.2, b=0.2)

    def votes(self, u: Tensor) -> Votes:
        return DetachedVotes(super().votes(u)) if self.detach else super().votes(u)

    def forward(self, u: Tensor, trace: list[RoutingStep] | None = None) -> Tensor:
        if not self.fused or trace is not None or not kernels_run_on(u):
            return super().forward(u, trace)
        from capsnet.triton_routing import fused_route  # here, for Triton is not everywhere

        with torch.autocast(u.device.type, enabled=False):
            return fused_route(u, self.weight, self.num_iters, self.squash_constant).to(self.weight.dtype)


class Decoder(nn.Sequential):
    """Dense 512, 1024, one sigmoid a pixel: all capsules of an image with but one not zero -> the image."""

    def __init__(self, num_classes: int, out_dim: int, image_shape: tuple[int, int, int]) -> None:
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        super().__init__(
            nn.Linear(num_classes * out_dim, 512),
            nn.ReLU(),
            nn.Linear(512, 1024),
            nn.ReLU(),
            nn.Linear(1024, pixels),
            nn.Sigmoid(),
            nn.Unflatten(1, image_shape),
        )


class CapsNet(nn.Module):
    r"""The paper's network, of any image size and number of classes.

    *Deviations:* no bias on the class capsules (the paper's text has none; the official code adds 0.1 to each number),
    and primary capsules are not divided by 32 before their squash, as the official code does by routing them with one
    iteration.

    Args:
        num_classes: class capsules.
        image_shape: channels, height and width in pixels.
        network: ``paper``, or ``small``: 161,664 parameters without the decoder at 28x28, the scale of
            Efficient-CapsNet.
        out_dim: numbers of a class capsule.
        routing, num_iters, squash_constant: see `CapsuleLayer`; the paper's are ``dynamic``, 3 and 1.
        detach: let no gradient through the agreements; the official code lets it through all iterations.
        fused: route by the Triton kernel (`capsnet.triton_routing`) on a GPU, and as ever elsewhere; the same numbers.
        decoder: whether there is one.

    Shape: (B, C, H, W) -> lengths (B, O); with ``drawn`` (B, n) also images (B, n, C, H, W).

    Raises:
        ValueError: an impossible setting, images of another shape, or images asked of a network without decoder.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        network: Network = "paper",
        out_dim: int = 16,
        routing: Routing = "dynamic",
        num_iters: int = 3,
        squash_constant: float = 1.0,
        detach: bool = False,
        fused: bool = False,
        decoder: bool = True,
    ) -> None:
        super().__init__()
        _check_network(network)
        self.primary = PrimaryCapsules(network, tuple(image_shape), squash_constant)  # type: ignore[arg-type]
        self.classes = ClassCapsules(
            self.primary.num_caps,
            num_classes,
            out_dim,
            detach=detach,
            fused=fused,
            routing=routing,
            num_iters=num_iters,
            squash_constant=squash_constant,
        )
        self.decoder = Decoder(num_classes, out_dim, tuple(image_shape)) if decoder else None  # type: ignore[arg-type]

    def capsules(self, x: Tensor, trace: list[RoutingStep] | None = None) -> Tensor:
        """Class capsules (B, O, D)."""
        return self.classes(self.primary(x), trace)

    def draw(self, capsules: Tensor, which: Tensor) -> Tensor:
        """Images drawn each from one class capsule: (B, O, D), class numbers (B, n) -> (B, n, C, H, W)."""
        if self.decoder is None:
            raise ValueError("CapsNet: built with decoder=False, it cannot draw")
        _check_classes("CapsNet", which, len(capsules))
        kept = nn.functional.one_hot(which, capsules.shape[1]).unsqueeze(3) * capsules.unsqueeze(1)  # (B, n, O, D)
        return self.decoder(kept.flatten(0, 1).flatten(1)).to(capsules.dtype).unflatten(0, which.shape)

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Lengths; with class numbers ``drawn`` also what the decoder makes of each of them."""
        capsules = self.capsules(x)
        lengths = torch.linalg.vector_norm(capsules, dim=2)
        return lengths if drawn is None else (lengths, self.draw(capsules, drawn))


class BaselineCNN(nn.Module):
    """The controls: (B, C, H, W) -> class scores (B, O) between 0 and 1.

    ``paper``: the paper's own, three 5x5 convolutions of 256, 256, 128 channels, dense 328, 192 with dropout: 35.4 M
    parameters at 28x28 (its count agrees when the convolutions keep the size of the image). ``small``: `SmallFeatures`,
    mean over positions, dense 192: 157,386 parameters, about as many as the small capsules without their decoder.
    """

    def __init__(
        self, num_classes: int = 10, *, image_shape: tuple[int, int, int] = (1, 28, 28), network: Network = "paper"
    ) -> None:
        super().__init__()
        self.image_shape = channels, height, width = tuple(image_shape)
        _check_network(network)
        if network == "paper":
            layers: list[nn.Module] = []
            for in_width, out_width in ((channels, 256), (256, 256), (256, 128)):
                layers += [nn.Conv2d(in_width, out_width, 5, padding=2), nn.ReLU()]
            layers += [nn.Flatten(), nn.Linear(128 * height * width, 328), nn.ReLU(), nn.Linear(328, 192), nn.ReLU()]
            layers += [nn.Dropout(0.5)]
        else:
            layers = [SmallFeatures(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 192), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(192, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        _check_images("BaselineCNN", x, self.image_shape)
        return self.layers(x).float().sigmoid()


def reconstruction_loss(drawn: Tensor, images: Tensor) -> Tensor:
    """Sum of squared differences over the pixels of every drawn image, mean over the batch: (B, n, C, H, W) twice."""
    return (at_least_float32(drawn) - at_least_float32(images)).square().flatten(1).sum(dim=1).mean()


def _check_classes(name: str, labels: Tensor, batch: int) -> None:
    if labels.dim() != 2 or len(labels) != batch:
        raise ValueError(f"{name}: expected class numbers ({batch}, n), n classes an image; got {tuple(labels.shape)}")


def capsnet_loss(
    lengths: Tensor, labels: Tensor, drawn: Tensor | None = None, images: Tensor | None = None
) -> dict[str, Tensor]:
    """Margin loss of 0.9, 0.1 and 0.5, plus 0.0005 times `reconstruction_loss` where images were drawn.

    Args:
        lengths: (B, O).
        labels: (B, n) the classes that are present, all different.
        drawn, images: (B, n, C, H, W): what was drawn, and the picture of each class alone.

    Returns:
        ``loss`` (to minimise) and its terms ``margin`` and, of drawn images, ``reconstruction`` (unweighted).

    Raises:
        ValueError: labels of another shape.
    """
    _check_classes("capsnet_loss", labels, len(lengths))
    present = torch.zeros_like(lengths).scatter(1, labels, 1.0)
    margin = capsule_margin(lengths, present)
    if drawn is None or images is None:
        return {"loss": margin, "margin": margin}
    reconstruction = reconstruction_loss(drawn, images)
    return {
        "loss": margin + RECONSTRUCTION_WEIGHT * reconstruction,
        "margin": margin,
        "reconstruction": reconstruction,
    }
