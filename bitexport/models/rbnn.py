"""The networks of RBNN, by architecture name.

Lin et al., "Rotated Binary Neural Network", NeurIPS 2020. Upstream lmbxmu/RBNN:
``cifar/models_cifar/*.py`` and ``imagenet/models_imagenet/resnet.py``; names without ``_1w1a``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from bitexport.models.centered_networks import CIFAR_RESNETS, NetworkPlan, ResNetPlan, VggPlan

__all__ = ["RBNN_NETWORKS", "nearest_factors", "rotated_latent", "standardized_filters"]

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


def standardized_filters(latent: Tensor) -> Tensor:
    """(latent - mean) / std of each filter, float [Co, Ci, kh, kw]; std unbiased, without eps."""
    centered = latent - latent.mean(dim=(1, 2, 3), keepdim=True)
    return centered / centered.std(dim=(1, 2, 3), keepdim=True)


def rotated_latent(standardized: Tensor, left: Tensor, right: Tensor, angle: Tensor) -> Tensor:
    """The weight whose signs the layer has.

        w + |sin(angle)| * (R - w)        R[co] = left^T @ w[co].reshape(a, b) @ right

    In this order of operations, as another one flips a few signs. No gradient flows through R.

    Args:
        standardized: w, float [Co, Ci, kh, kw].
        left: float [a, a].
        right: float [b, b], with a * b = Ci * kh * kw.
        angle: float [Co, 1, 1, 1].

    Returns:
        float [Co, Ci, kh, kw].
    """
    matrices = standardized.detach().reshape(-1, left.shape[0], right.shape[0])
    rotated = (left.t() @ matrices @ right).reshape(standardized.shape)
    return standardized + angle.sin().abs() * (rotated - standardized)


def nearest_factors(number: int) -> tuple[int, int]:
    """(a, b) with a * b = ``number`` and a the largest divisor up to its square root."""
    small = next(i for i in range(math.isqrt(number), 0, -1) if number % i == 0)
    return small, number // small
