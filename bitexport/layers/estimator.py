"""What a sign is to the gradient: the one thing about a 1-bit layer that only training needs.

A sign has no useful derivative, and every system estimates it in a way of its own. A layer asks
its :class:`SignEstimator` for the signs; their values are those of ``torch.sign``, whoever gives
them, so nothing of it reaches an exported file. The systems' estimators are a part of training.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

__all__ = ["SignEstimator", "StraightThrough"]


class SignEstimator(Protocol):
    """Signs with a gradient."""

    def activation_signs(self, x: Tensor) -> Tensor:
        """Signs of activations, of the shape of ``x``."""
        ...

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """Signs of a latent weight [Co, Ci/group, kh, kw].

        The layer multiplies them by ``scale`` [Co, 1, 1, 1], so the gradient that comes back is
        that of the binary weight times the scale.
        """
        ...


class _Sign(torch.autograd.Function):
    """The gradient passes unchanged."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _ClippedSign(torch.autograd.Function):
    """The gradient passes where -1 <= x <= 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return cast(Tensor, gradients[0] * (x.abs() <= 1))


class StraightThrough:
    """The plain estimator that layers start with: 1 for weights, 1 on [-1, 1] for activations.

    Hubara et al., "Binarized Neural Networks", NeurIPS 2016, eq. 4.
    """

    def activation_signs(self, x: Tensor) -> Tensor:
        """sign(x), with sign(0) = 0."""
        return cast(Tensor, _ClippedSign.apply(x))

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """sign(latent), with sign(0) = 0."""
        del scale
        return cast(Tensor, _Sign.apply(latent))
