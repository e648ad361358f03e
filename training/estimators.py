"""How each system's gradient passes a sign.

With Wb = scale * sign(W) and g = dL/dWb, a layer hands an estimator ``scale * g`` (see
``bitexport.layers.estimator``). What the estimators return:

    system      dL/dW                                      d sign(x)/dx
    McDonnell   g                                          activations are real
    Bi-Real     mean|W| * g * [|W| < 1]                    max(2 - 2|x|, 0)
    ReActNet    as Bi-Real                                 as Bi-Real, at x + shift
    XNOR-Net    g * (1/n + mean|W| * [|W| < 1])            [|x| < 1]
    SiMaN       through |standardized W|                   max(2 - 2|x/std|, 0)
    RBNN        k * max(sqrt(2) t - t^2 |W'|, 0)           the same at x/std, with t >= 1, k = 1

The values are those of the exported network, and ``Relaxed`` alone changes them: it is the real
network that training may start from.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.layers import SignEstimator
from bitexport.models.rbnn import nearest_factors, rotated_latent, standardized_filters

__all__ = [
    "BiReal",
    "McDonnell",
    "Rbnn",
    "Relaxed",
    "Siman",
    "XnorNet",
    "half_half_bits",
    "sign_with_slope",
]

# Keeps upstream's standardization finite for a constant sample or filter.
_EPS = 1e-5
_ROTATION_ROUNDS = 3


class _SignWithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(slope)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None


def sign_with_slope(x: Tensor, slope: Tensor) -> Tensor:
    """sign(x) whose derivative is taken to be ``slope``, a tensor that broadcasts to x."""
    return cast(Tensor, _SignWithSlope.apply(x, slope))


class McDonnell:
    """The gradient of the scaled 1-bit weight is that of the latent one.

    McDonnell, "Training wide residual networks for deployment using a single bit for each
    weight", ICLR 2018, section 2: the sign is invisible to the gradient, and so is its scale.
    """

    def activation_signs(self, x: Tensor) -> Tensor:
        """Not of this system, whose activations are real."""
        return sign_with_slope(x, (x.abs() < 1).to(x.dtype))

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """dL/dW = g; takes back the scale that the layer multiplies by."""
        return sign_with_slope(latent, 1 / scale.detach())


class BiReal:
    """ApproxSign, and the magnitude-aware weight gradient.

    Liu et al., "Bi-Real Net", ECCV 2018, eqs. 4 to 8; Liu et al., "ReActNet", ECCV 2020, trains
    with both. Upstream's code leaves mean|W| out of the gradient; Adam does not notice, as the
    factor belongs to a filter and changes slowly.
    """

    def activation_signs(self, x: Tensor) -> Tensor:
        """The slope of the piecewise parabola that approximates the sign."""
        return sign_with_slope(x, (2 - 2 * x.detach().abs()).clamp_min(0))

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """The magnitude comes from the layer's scale; beyond -1 and 1 there is no gradient."""
        del scale
        return sign_with_slope(latent, (latent.detach().abs() < 1).to(latent.dtype))


class XnorNet:
    """The gradient of sign and scale together.

    Rastegari et al., "XNOR-Net", ECCV 2016, section 3.1: dL/dW = g * (1/n + alpha * [|W| < 1])
    with n weights in a filter and alpha their mean absolute value.
    """

    def activation_signs(self, x: Tensor) -> Tensor:
        """1 within (-1, 1)."""
        return sign_with_slope(x, (x.detach().abs() < 1).to(x.dtype))

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """The layer's scale is alpha, hence 1/(n * alpha) beside the indicator."""
        smallest = torch.finfo(scale.dtype).tiny
        share = 1 / (latent[0].numel() * scale.detach().abs().clamp_min(smallest))
        return sign_with_slope(latent, (latent.detach().abs() < 1).to(latent.dtype) + share)


class Siman:
    """Half of each filter's weights, those of the largest magnitude, are +1; the others are -1.

    Lin et al., "SiMaN: Sign-to-Magnitude Network Binarization", TPAMI 2022, section 3: the angle
    between a filter's magnitudes and its bits {0, 1} is smallest for the top half, if the weights
    follow a Laplace distribution. The gradient passes the choice unchanged.
    """

    def activation_signs(self, x: Tensor) -> Tensor:
        """The parabola's slope on the standardized sample; x [N, C, H, W] is centered already."""
        standardized = x / torch.sqrt(x.var(dim=(1, 2, 3), keepdim=True) + _EPS)
        return sign_with_slope(standardized, (2 - 2 * standardized.detach().abs()).clamp_min(0))

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """2 * bits - 1, with the gradient of |standardized latent|."""
        del scale
        centered = latent - latent.mean(dim=(1, 2, 3), keepdim=True)
        std = torch.sqrt(centered.var(dim=(1, 2, 3), keepdim=True) + _EPS)
        magnitude = (centered / std).abs()
        signs = half_half_bits(magnitude.detach()) * 2 - 1
        return signs + (magnitude - magnitude.detach())


def half_half_bits(magnitude: Tensor) -> Tensor:
    """1 for the larger half of each filter's magnitudes, 0 for the rest; [Co, ...] -> the same."""
    flat = magnitude.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    bits = torch.zeros_like(flat).scatter_(1, order[:, : flat.shape[1] // 2], 1)
    return bits.reshape(magnitude.shape)


class Rbnn(nn.Module):
    """Rotate the latent weights towards their signs, and sharpen the gradient as training goes on.

    Lin et al., "Rotated Binary Neural Network", NeurIPS 2020. The rotation of a filter, written
    as a matrix [a, b], is the product of two small ones (section 3.2); a learned angle blends it
    with the filter (3.3); the slope of the sign is k * max(sqrt(2) t - t^2 |x|, 0), where t grows
    from 0.01 to 10 over the epochs and k = max(1/t, 1) (3.4). For activations t starts at 1, as in
    the authors' code: the first epochs' slope of sqrt(2) everywhere would multiply over the layers.

    Args:
        weight: The layer's latent weight, float [Co, Ci, kh, kw].

    Attributes:
        rotate: The angle, float [Co, 1, 1, 1].
        R1: float [a, a], orthogonal.
        R2: float [b, b], orthogonal.
    """

    R1: Tensor
    R2: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = nearest_factors(weight[0].numel())
        self.rotate = nn.Parameter(torch.rand(weight.shape[0], 1, 1, 1) * math.pi / 2)
        self.register_buffer("R1", _random_orthogonal(rows))
        self.register_buffer("R2", _random_orthogonal(columns))
        self.t = 0.1

    def slope(self, x: Tensor, smallest_t: float = 0.0) -> Tensor:
        """The sign's derivative at x."""
        t = max(self.t, smallest_t)
        k = max(1 / t, 1.0)
        return (k * (math.sqrt(2) * t - t**2 * x.detach().abs())).clamp_min(0)

    def activation_signs(self, x: Tensor) -> Tensor:
        """On the standardized sample; x [N, C, H, W] is centered already."""
        std = x.std(dim=(1, 2, 3), keepdim=True).clamp_min(_EPS)
        standardized = x / std
        return sign_with_slope(standardized, self.slope(standardized, smallest_t=1.0))

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """The signs of the rotated weight."""
        del scale
        w = rotated_latent(standardized_filters(latent), self.R1, self.R2, self.rotate)
        return sign_with_slope(w, self.slope(w))

    @torch.no_grad()
    def update_rotation(self, latent: Tensor) -> None:
        """Three rounds of the alternating optimization: signs, left rotation, right rotation.

        Each step maximizes sum trace(sign(V)^T V) with V = R1^T X R2, the left and the right
        rotation by an orthogonal Procrustes problem.
        """
        x = standardized_filters(latent).reshape(-1, self.R1.shape[0], self.R2.shape[0])
        for _ in range(_ROTATION_ROUNDS):
            signs = (self.R1.t() @ x @ self.R2).sign()
            self.R1.copy_(_procrustes((x @ self.R2 @ signs.mT).sum(dim=0)))
            self.R2.copy_(_procrustes((x.mT @ self.R1 @ signs).sum(dim=0)))


class Relaxed:
    """The real network behind a binary one: the stages before, and the float32 twin.

    Bi-Real Net, section 3.3, starts from clipped activations in place of signs; ReActNet's first
    step has real weights behind binary activations.

    Args:
        inner: Gives the signs of what stays binary.
        weights: Weights are real.
        activations: Activations are real, clipped to [-1, 1].
    """

    def __init__(self, inner: SignEstimator, *, weights: bool, activations: bool) -> None:
        self.inner = inner
        self.weights = weights
        self.activations = activations

    def activation_signs(self, x: Tensor) -> Tensor:
        """clip(x, -1, 1), or signs."""
        return F.hardtanh(x) if self.activations else self.inner.activation_signs(x)

    def weight_signs(self, latent: Tensor, scale: Tensor) -> Tensor:
        """What the layer's scale turns into the latent weight, or signs."""
        if not self.weights:
            return self.inner.weight_signs(latent, scale)
        return latent / scale.detach()


def _random_orthogonal(size: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(size, size))


def _procrustes(correlation: Tensor) -> Tensor:
    """The orthogonal R that maximizes trace(R^T @ correlation)."""
    left, _, right = torch.linalg.svd(correlation)
    return cast(Tensor, left @ right)
