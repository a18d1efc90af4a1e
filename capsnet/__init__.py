"""Capsule networks as clustering (Su 2018, archives/4819 and 5112) with the experiment that shows what it is good for,
and the two Hinton papers whole: CapsNet (Sabour et al. 2017), matrix capsules with EM routing (Hinton et al. 2018; Su
2018, archives/5155).
"""

from capsnet.em_routing import em_routing
from capsnet.kmeans import kmeans
from capsnet.layers import CapsuleLayer
from capsnet.matrix import MatrixCapsNet, MatrixCapsuleConv2d
from capsnet.networks import DigitCapsNet, PooledCNN
from capsnet.routing import RoutingStep, route, squash
from capsnet.sabour import CapsNet

__all__ = [
    "CapsNet",
    "CapsuleLayer",
    "DigitCapsNet",
    "MatrixCapsNet",
    "MatrixCapsuleConv2d",
    "PooledCNN",
    "RoutingStep",
    "em_routing",
    "kmeans",
    "route",
    "squash",
]
