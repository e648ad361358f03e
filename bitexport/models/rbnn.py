"""The networks of RBNN, by architecture name.

Lin et al., "Rotated Binary Neural Network", NeurIPS 2020. Upstream lmbxmu/RBNN:
``cifar/models_cifar/*.py`` and ``imagenet/models_imagenet/resnet.py``; names without ``_1w1a``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitexport.models.centered_networks import CIFAR_RESNETS, NetworkPlan, ResNetPlan, VggPlan

__all__ = ["RBNN_NETWORKS"]

_RESNET20 = ResNetPlan(
    depths=(3, 3, 3),
    widths=(16, 32, 64),
    nonlinearity="hardtanh",
    shortcut="zero-pad",
    per_conv=False,
    stem_nonlinearity="hardtanh",
)
_IMAGENET = ResNetPlan(
    depths=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    nonlinearity="hardtanh",
    shortcut="float",
    per_conv=True,
    stem="imagenet",
    stem_nonlinearity="hardtanh",
    pool=(7, 1),
)

RBNN_NETWORKS: Mapping[str, NetworkPlan] = {
    "resnet20": _RESNET20,
    "resnet20_bireal": replace(_RESNET20, per_conv=True),
    **CIFAR_RESNETS,
    "vgg_small": VggPlan(nonlinearity="hardtanh"),
    "resnet18_imagenet": _IMAGENET,
    "resnet34_imagenet": replace(_IMAGENET, depths=(3, 4, 6, 3)),
}
