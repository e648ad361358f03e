"""What each system does around a training step, beside its estimator: one visible table.

- ``prepare``: once a stage, estimators into the 1-bit layers.
- ``begin_epoch``: schedules that the gradient follows (SiMaN's clipping, RBNN's rotations).
- ``after_step``: what holds for the latent weights at all times (XNOR-Net, SiMaN).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from bitexport.layers import BinaryConv2d, SignConv2d, SignEstimator, SignInputConv2d
from training.estimators import BiReal, McDonnell, Rbnn, Relaxed, Siman, XnorNet
from training.recipe import Stage

__all__ = ["SYSTEMS", "System", "is_linear_upstream", "sign_layers"]

SignLayer = SignConv2d | SignInputConv2d

_SMALLEST_GAMMA = 0.01
_SIMAN_PERCENT = 5.0
# The one linear layer among XNOR-Net's binary ones whose kernel is larger than a pixel.
_LINEAR_KERNEL = "bin_ip1"


class System:
    """A system without anything of its own: the base of the others, and real networks."""

    def estimator(self, layer: SignLayer) -> SignEstimator:
        """The estimator of one layer."""
        del layer
        return BiReal()

    def prepare(self, model: nn.Module, *, weights: bool, activations: bool) -> None:
        """Put estimators into a model.

        Args:
            model: Changed in place.
            weights: Whether weights are binary.
            activations: Whether activations are binary.
        """
        for _, layer in sign_layers(model):
            if weights and activations:
                layer.estimator = self.estimator(layer)
            else:
                # A rotation has nothing to do here, and its angle no gradient.
                plain = isinstance(self, _Rbnn)
                inner: SignEstimator = BiReal() if plain else self.estimator(layer)
                layer.estimator = Relaxed(inner, weights=not weights, activations=not activations)
            if isinstance(layer, SignConv2d) and layer.scale_rule == "learned":
                layer.alpha.requires_grad_(weights)

    def initialize(self, model: nn.Module) -> None:
        """Set a fresh model's learned scales to the mean magnitude of their filters."""
        for _, layer in sign_layers(model):
            if isinstance(layer, SignConv2d) and layer.scale_rule == "learned":
                with torch.no_grad():
                    layer.alpha.copy_(layer.weight.abs().mean(dim=(1, 2, 3)).reshape(-1, 1, 1))

    def begin_epoch(self, model: nn.Module, stage: Stage, epoch: int) -> None:
        """Called before epoch 0, 1, ... of a stage."""

    def after_step(self, model: nn.Module) -> None:
        """Called after each step of the optimizer, and once before the first."""


class _WideResNet(System):
    def estimator(self, layer: SignLayer) -> SignEstimator:
        del layer
        return McDonnell()


class _XnorNet(System):
    """Filters centered over their input channels and clamped; BatchNorm's gamma at least 0.01.

    Rastegari et al. center and clamp before each step, their PyTorch port does the same.
    """

    def estimator(self, layer: SignLayer) -> SignEstimator:
        del layer
        return XnorNet()

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for name, layer in model.named_modules():
            if isinstance(layer, BinaryConv2d):
                dims = (1, 2, 3) if is_linear_upstream(name) else (1,)
                latent = layer.weight
                latent.copy_((latent - latent.mean(dim=dims, keepdim=True)).clamp(-1, 1))
            elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
                layer.weight.clamp_(min=_SMALLEST_GAMMA)


class _Siman(System):
    """Magnitudes clipped to a layer's percentiles, from 5 % down to 0 over the epochs."""

    def __init__(self) -> None:
        self._share = _SIMAN_PERCENT / 100

    def estimator(self, layer: SignLayer) -> SignEstimator:
        del layer
        return Siman()

    def begin_epoch(self, model: nn.Module, stage: Stage, epoch: int) -> None:
        del model
        self._share = _SIMAN_PERCENT / 100 * (1 - epoch / stage.epochs)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for _, layer in sign_layers(model):
            centered = layer.weight - layer.weight.mean(dim=(1, 2, 3), keepdim=True)
            magnitude = centered.abs()
            low, high = _quantiles(magnitude, self._share, 1 - self._share)
            layer.weight.copy_(magnitude.clamp(low, high) * centered.sign())


class _Rbnn(System):
    """Rotations learned anew at every epoch, and a slope that sharpens."""

    def estimator(self, layer: SignLayer) -> SignEstimator:
        return Rbnn(layer.weight)

    def begin_epoch(self, model: nn.Module, stage: Stage, epoch: int) -> None:
        low, high = map(math.log10, stage.slope_t)
        for _, layer in sign_layers(model):
            if isinstance(layer.estimator, Rbnn):
                layer.estimator.t = 10 ** (low + (high - low) * epoch / stage.epochs)
                layer.estimator.update_rotation(layer.weight)


SYSTEMS: Mapping[str, type[System]] = {
    "wide-resnet": _WideResNet,
    "bireal": System,
    "reactnet": System,
    "xnor-net": _XnorNet,
    "siman": _Siman,
    "rbnn": _Rbnn,
    "resnet": System,
}


def sign_layers(model: nn.Module) -> Iterator[tuple[str, SignLayer]]:
    """The layers with binary weights or activations, by name."""
    for name, layer in model.named_modules():
        if isinstance(layer, SignConv2d | SignInputConv2d):
            yield name, layer


def is_linear_upstream(name: str) -> bool:
    """Whether a binary convolution of XNOR-Net is a linear layer in its checkpoints."""
    return f"{_LINEAR_KERNEL}." in name or name.startswith(("classifier.0.", "classifier.1."))


def _quantiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """torch.quantile takes 16 million values at most; a layer here may have more."""
    ordered = values.flatten().sort().values
    last = ordered.numel() - 1
    return float(ordered[round(low * last)]), float(ordered[round(high * last)])
