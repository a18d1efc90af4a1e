r"""The two networks of the two-digit experiment (Su 2018a, archives/4819): capsules against pooling.

Both see an image through the same four convolutions; they differ only in what turns the features of all positions into
ten class scores. Neither knows the size of the image, so what was trained on single digits can be asked about a row.

Shapes: ``B`` batch, ``H, W`` image size in pixels (at least 14 each for the article's features), ``I`` positions,
``C`` channels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsnet.layers import CapsuleLayer
from capsnet.routing import Routing, RoutingStep
from trainer.keras import read_keras

WIDTHS = (64, 64, 128, 128)  # the article's


class DigitFeatures(nn.Sequential):
    """3x3 convolutions, valid, with ReLU; a mean pool of 2 behind the second: (B, 1, H, W) -> (B, C, H', W').

    With the article's four, H' = H // 2 - 6 and a position sees 14 pixels; each further convolution takes 2 positions
    away and adds 4 pixels to what a position sees.

    Args:
        widths: channels of each convolution, at least two.
        batch_norm: normalise before every ReLU (not in the article).
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, batch_norm: bool = False) -> None:
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be two or more positive numbers of channels, got {tuple(widths)}")
        layers: list[nn.Module] = []
        for i, (in_width, out_width) in enumerate(zip([1, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(in_width, out_width, 3, bias=not batch_norm))
            layers += [nn.BatchNorm2d(out_width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            if i == 1:
                layers.append(nn.AvgPool2d(2))
        super().__init__(*layers)
        self.out_channels = widths[-1]
        self.min_size = 6 + 4 * (len(widths) - 2)  # pixels that leave one position
        for convolution in self.convolutions:  # Keras's defaults, which the article's learning rate was chosen for
            nn.init.xavier_uniform_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions, in order."""
        return [module for module in self if isinstance(module, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"expected images (B, 1, H, W) of at least {self.min_size}x{self.min_size} pixels, got {tuple(x.shape)}"
            )
        return super().forward(x)


class DigitCapsNet(nn.Module):
    """Features -> a capsule at every position -> one shared capsule layer -> lengths: (B, 1, H, W) -> (B, num_classes).

    Args:
        num_classes: output capsules.
        out_dim: dimension of an output capsule.
        routing, num_iters, squash_constant: see `CapsuleLayer`.
        widths, batch_norm: see `DigitFeatures`.
        capsule_gain: factor on the initial capsule weights; normalised features of many positions add up to a
            saturated squash, which a small gain avoids.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        out_dim: int = 16,
        routing: Routing = "kmeans",
        num_iters: int = 3,
        squash_constant: float = 0.5,
        widths: Sequence[int] = WIDTHS,
        batch_norm: bool = False,
        capsule_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.features = DigitFeatures(widths, batch_norm)
        self.capsules = CapsuleLayer(
            self.features.out_channels,
            num_classes,
            out_dim,
            transform="shared",
            routing=routing,
            num_iters=num_iters,
            squash_constant=squash_constant,
        )
        with torch.no_grad():
            self.capsules.weight.mul_(capsule_gain)

    def forward(self, x: Tensor, trace: list[RoutingStep] | None = None) -> Tensor:
        positions = self.features(x).flatten(2).transpose(1, 2)  # (B, I, C)
        return torch.linalg.vector_norm(self.capsules(positions, trace), dim=2)  # (B, num_classes)

    @classmethod
    def from_keras(cls, path: str | Path) -> "DigitCapsNet":
        """The article's network with the weights its Keras script saved (.h5, .weights.h5 or .keras; read with h5py
        alone).

        Raises:
            UserError: not such a file, or other layers than four convolutions and a capsule layer.
        """
        file = read_keras(path)
        model = cls()
        [capsule] = file.load(model.features.convolutions, also={"capsule": 1})
        kernels = list(capsule.arrays.values())
        shape = model.capsules.weight.shape
        if len(kernels) != 1 or kernels[0].shape != (1, shape[0], shape[1] * shape[2]):
            raise capsule.error(f"expected one kernel (1, {shape[0]}, {shape[1] * shape[2]}), found {capsule}")
        model.capsules.load_state_dict({"weight": torch.tensor(kernels[0]).reshape(shape)})
        return model


class PooledCNN(nn.Module):
    """The control: features -> mean over positions -> dense -> ReLU -> dense -> sigmoid: (B, 1, H, W) -> (B,
    num_classes).

    Args:
        num_classes: outputs.
        hidden: width of the dense layer.
        widths, batch_norm: see `DigitFeatures`.
    """

    def __init__(
        self, num_classes: int = 10, *, hidden: int = 128, widths: Sequence[int] = WIDTHS, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.features = DigitFeatures(widths, batch_norm)
        self.dense = nn.Linear(self.features.out_channels, hidden)
        self.scores = nn.Linear(hidden, num_classes)
        for layer in (self.dense, self.scores):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean(dim=(2, 3))  # (B, C)
        return self.scores(F.relu(self.dense(pooled))).float().sigmoid()

    @classmethod
    def from_keras(cls, path: str | Path) -> "PooledCNN":
        """The article's control with the weights its Keras script saved: see `DigitCapsNet.from_keras`."""
        model = cls()
        read_keras(path).load([*model.features.convolutions, model.dense, model.scores])
        return model
