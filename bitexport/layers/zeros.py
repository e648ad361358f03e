"""The reference of a file in which weights of exactly 0 were packed as +1."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bitexport.layers.adapters import spec_of
from bitexport.layers.sign_conv import SignConv2d
from bitexport.spec import SignConvSpec

__all__ = ["ones_for_zeros"]

# Positive, so that its sign is +1, and too small to move a filter's mean absolute weight.
_TINY = 1e-30


def ones_for_zeros(module: nn.Module) -> nn.Module | None:
    """A copy whose 1-bit weights of exactly 0 have the sign +1.

    Returns:
        None where there are none, or where they are in a layer that is not ours to change.
    """
    twin = copy.deepcopy(module)
    found = False
    for layer in twin.modules():
        spec = spec_of(layer)
        if not isinstance(spec, SignConvSpec) or not spec.zero_weights:
            continue
        if not isinstance(layer, SignConv2d):
            return None
        found = True
        with torch.no_grad():
            layer.weight[layer.weight == 0] = _TINY
    return twin if found else None
