r"""The network of the spectra article (Su 2018, archives/5505): dilated convolutions whose halves are added.

Legend: ``B`` batch, ``C`` channels, ``L`` pixels, ``K`` classes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.keras import read_keras

WIDTHS = (16, 16, 32, 32, 64, 64, 128, 128)  # the article's
DILATIONS = (1, 2, 4)


class FoldedConv(nn.Conv1d):
    r"""Conv1d with ``same`` padding and 2C channels, ReLU, halves added: (B, I, L) -> (B, C, L).

    .. math:: y = \max(0, a) + \max(0, b), \quad [a, b] = W * x

    Two rectified maps a channel, of which a zero-sum pair passes both signs of a feature.
    """

    def __init__(self, in_width: int, out_width: int, kernel: int, dilation: int) -> None:
        super().__init__(in_width, 2 * out_width, kernel, padding=dilation * (kernel // 2), dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.relu(super().forward(x), inplace=True).chunk(2, dim=1)  # (B, C, L) each
        return first + second


class Block(nn.Module):
    """Three `FoldedConv` with growing dilation and a shortcut, projected where the width changes: (B, I, L) -> (B, C,
    L).
    """

    def __init__(self, in_width: int, out_width: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        widths = [in_width, *[out_width] * len(dilations)]
        self.body = nn.Sequential(
            *(FoldedConv(i, o, kernel, d) for i, o, d in zip(widths, widths[1:], dilations, strict=False))
        )
        self.shortcut = nn.Conv1d(in_width, out_width, 1) if in_width != out_width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class SpectraNet(nn.Module):
    r"""Su 2018, archives/5505: eight blocks, max pools of 2 between, dropout of whole positions, a global max pool.

    Args:
        num_classes: outputs.
        in_channels: 1 for the flux alone; 2 with the S/N channel of `spectra.preprocess`.
        widths: channels of each block. The pools in between need L >= 2 ** (len(widths) - 1) pixels.
        dilations: of the convolutions within a block; the article's see 15 pixels a block.
        kernel: width of the convolutions in pixels, odd.
        dropout: probability that the last block's channels are all zero at a position: (B, 1, L) draws.

    Shape: (B, in_channels, L) -> logits (B, num_classes). L is any number from ``min_pixels`` on.

    *Deviation:* logits, not probabilities, so that the losses can be computed in their stable form.
    """

    def __init__(
        self,
        num_classes: int = 4,
        *,
        in_channels: int = 1,
        widths: Sequence[int] = WIDTHS,
        dilations: Sequence[int] = DILATIONS,
        kernel: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or not dilations or min(dilations) < 1:
            raise ValueError(f"widths and dilations must be positive, got {tuple(widths)} and {tuple(dilations)}")
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a pixel keeps its place; got {kernel}")
        self.in_channels, self.dropout = in_channels, dropout
        self.min_pixels = 2 ** (len(widths) - 1)
        ends = [in_channels, *widths]
        self.blocks = nn.ModuleList(Block(i, o, kernel, dilations) for i, o in zip(ends, widths, strict=False))
        self.dense = nn.Linear(widths[-1], 128)
        self.scores = nn.Linear(128, num_classes)
        for module in self.modules():  # Keras's defaults, which the article's learning rate was chosen for
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1] != self.in_channels or x.shape[2] < self.min_pixels:
            raise ValueError(
                f"expected spectra (B, {self.in_channels}, L) with L >= {self.min_pixels}, got {tuple(x.shape)}"
            )
        for i, block in enumerate(self.blocks):
            x = block(F.max_pool1d(x, 2) if i else x)  # (B, C, L // 2 ** i)
        if self.training and self.dropout:
            x = x * F.dropout(torch.ones_like(x[:, :1]), self.dropout)  # (B, 1, L'): a position lives or dies as one
        return self.scores(F.relu(self.dense(x.amax(dim=2))))

    @classmethod
    def from_keras(cls, path: str | Path) -> "SpectraNet":
        """The article's network with the weights its Keras script saved (.h5, .weights.h5 or .keras; read with h5py
        alone).

        Raises:
            UserError: not such a file, or other layers than 28 convolutions and two dense layers.
        """
        model = cls()
        modules: list[nn.Module] = []
        for block in model.blocks:
            modules += [m for m in block.modules() if isinstance(m, nn.Conv1d)]
        read_keras(path).load([*modules, model.dense, model.scores])
        return model
