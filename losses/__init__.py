r"""The losses of the articles and papers, as functions and as modules. See losses/README.md for class -> paper."""

from losses.capsule import CapsuleMarginLoss, SpreadLoss, capsule_margin, spread, spread_margin
from losses.center import CenterLoss, center
from losses.cross_entropy import UniformCrossEntropyLoss, uniform_cross_entropy
from losses.f1 import SoftMacroF1Loss, soft_macro_f1
from losses.head import MarginSoftmaxHead
from losses.margin import (
    AmSoftmaxLoss,
    ArcFaceLoss,
    ASoftmaxLoss,
    NormalizedSoftmaxLoss,
    SimplerASoftmaxLoss,
    a_softmax,
    am_softmax,
    arc_face,
    normalized_softmax,
    simpler_a_softmax,
)
from losses.triplet import CosineTripletLoss, cosine_triplet

__all__ = [
    "ASoftmaxLoss",
    "AmSoftmaxLoss",
    "ArcFaceLoss",
    "CapsuleMarginLoss",
    "CenterLoss",
    "CosineTripletLoss",
    "MarginSoftmaxHead",
    "NormalizedSoftmaxLoss",
    "SimplerASoftmaxLoss",
    "SoftMacroF1Loss",
    "SpreadLoss",
    "UniformCrossEntropyLoss",
    "a_softmax",
    "am_softmax",
    "arc_face",
    "capsule_margin",
    "center",
    "cosine_triplet",
    "normalized_softmax",
    "simpler_a_softmax",
    "soft_macro_f1",
    "spread",
    "spread_margin",
    "uniform_cross_entropy",
]
