"""Which wavelengths decided: gradient times input of the winning class's logit."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Array = np.ndarray


def saliency(model: nn.Module, inputs: Array, label: int, width: int = 9) -> Array:
    r"""(L,) from 0 to 1: :math:`|x\, \partial z_k / \partial x|` of the flux, its mean over ``width`` bins, over its
    largest.

    The gradient alone also marks what would matter if it were there; times the input (Shrikumar et al. 2017), here less
    its median since a spectrum's zero is no neutral point, it marks what is there.

    Args:
        model: in evaluation mode.
        inputs: (C, L) of one spectrum.
        label: the class k.
        width: bins, odd.
    """
    x = torch.from_numpy(inputs[None]).requires_grad_()
    with torch.enable_grad():
        model(x)[0, label].backward()
    assert x.grad is not None
    flux = x.detach()[0, 0]
    product = (x.grad[0, 0] * (flux - flux.median())).abs()
    band = F.avg_pool1d(product[None, None], width, 1, width // 2, count_include_pad=False)[0, 0]
    return np.asarray((band / band.max().clamp(min=1e-30)).numpy())
