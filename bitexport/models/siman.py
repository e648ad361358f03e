"""The networks of SiMaN, by architecture name.

Lin et al., "SiMaN: Sign-to-Magnitude Network Binarization", TPAMI 2022. Upstream lmbxmu/SiMaN:
``cifar/models_cifar/*.py`` and ``imagenet/models_imagenet/resnet.py``; names without ``_1w1a``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitexport.models.centered_networks import CIFAR_RESNETS, NetworkPlan, ResNetPlan, VggPlan

__all__ = ["SIMAN_NETWORKS"]

_IMAGENET = ResNetPlan(
    depths=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    nonlinearity="prelu",
    shortcut="float",
    per_conv=True,
    stem="imagenet",
    stem_nonlinearity="relu",
    pool=(7, 1),
)

SIMAN_NETWORKS: Mapping[str, NetworkPlan] = {
    "resnet20": ResNetPlan(
        depths=(3, 3, 3),
        widths=(16, 32, 64),
        nonlinearity="prelu",
        shortcut="zero-pad",
        per_conv=True,
        stem_nonlinearity="relu",
    ),
    **CIFAR_RESNETS,
    "vgg_small": VggPlan(nonlinearity="prelu"),
    "resnet18_imagenet": _IMAGENET,
    "resnet34_imagenet": replace(_IMAGENET, depths=(3, 4, 6, 3)),
}
