"""Dense weights of 8 bits: the reference of a file that stores them so."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.layers.adapters import spec_of

__all__ = ["rounded_to_int8"]

_LEVELS = 127
# Layer -> the axis of the output channels in its weight.
_AXES: dict[type[nn.Module], int] = {nn.Conv2d: 0, nn.ConvTranspose2d: 1, nn.Linear: 0}


def rounded_to_int8(module: nn.Module) -> nn.Module:
    """A copy whose dense convolutions and linear layers have weights of 8 bits.

    Symmetric quantization with a step for each output channel (Krishnamoorthi, "Quantizing deep
    convolutional networks for efficient inference", 2018, sections 2.2 and 3.1): W becomes
    ``step * round(W / step)`` with ``step = max |W| / 127``. Biases, and layers that compute
    anything but the plain product, stay as they are; so do 1-bit and product-quantized layers, and
    a weight that is shared with any of these, or by layers with different output channels.

    Raises:
        UnsupportedModel: The model cannot be copied.
    """
    try:
        twin = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModel(
            "the weights of the model's dense layers cannot be rounded",
            got=f"a model that cannot be copied: {next(iter(str(error).splitlines()), '')}",
            expected="one that copy.deepcopy takes",
            fix="Export it without --dense-weights int8.",
        ) from error
    axes: dict[nn.Parameter, set[int | None]] = {}
    for layer in twin.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            axis = _plain_axis(layer) if name == "weight" else None
            axes.setdefault(parameter, set()).add(axis)
    for parameter, found in axes.items():
        axis = found.pop() if len(found) == 1 else None
        if axis is not None and parameter.numel():
            with torch.no_grad():
                parameter.copy_(_rounded(parameter, axis))
    return twin


def _plain_axis(layer: nn.Module) -> int | None:
    """The axis of the output channels, where the weight is a parameter that is used as it is."""
    for cls, axis in _AXES.items():
        if isinstance(layer, cls):
            plain = type(layer).forward is cls.forward and "weight" in layer._parameters
            grouped = axis == 1 and getattr(layer, "groups", 1) != 1
            return axis if plain and not grouped and spec_of(layer) is None else None
    return None


def _rounded(weight: Tensor, axis: int) -> Tensor:
    others = [dim for dim in range(weight.dim()) if dim != axis]
    step = weight.abs().amax(dim=others, keepdim=True) / _LEVELS
    usable = (step > 0) & step.isfinite()
    return torch.where(usable, (weight / step).round() * step, weight)
