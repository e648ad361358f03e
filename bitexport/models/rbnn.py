"""The networks of RBNN, by architecture name.

Lin et al., "Rotated Binary Neural Network", NeurIPS 2020. Upstream lmbxmu/RBNN:
``cifar/models_cifar/*.py`` and ``imagenet/models_imagenet/resnet.py``; names without ``_1w1a``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitexport.models.centered_networks import NetworkPlan, ResNetPlan, VggPlan
from bitexport.models.siman import SIMAN_NETWORKS

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
_SHARED = ("resnet18", "resnet18A", "resnet18B", "resnet18C", "resnet34")

RBNN_NETWORKS: Mapping[str, NetworkPlan] = {
    "resnet20": _RESNET20,
    "resnet20_bireal": replace(_RESNET20, per_conv=True),
    **{name: SIMAN_NETWORKS[name] for name in _SHARED},
    "vgg_small": VggPlan(nonlinearity="hardtanh"),
    "resnet18_imagenet": _IMAGENET,
    "resnet34_imagenet": replace(_IMAGENET, depths=(3, 4, 6, 3)),
}
