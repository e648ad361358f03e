"""Write a model back into the packed checkpoint that its upstream system reads.

- 1-bit Wide ResNet: ``evaluate_packed.py`` of binary-wide-resnet wants a flat dict with ``module.``
  before every key, and uint8 [Co, Ci/8, kh, kw] from np.packbits over the input channels.
- kill-the-bits: ``inference.py`` wants layer -> {centroids float16, assignments, n_blocks, is_conv,
  k}, dense layers as float16, and the classifier's bias under ``fc_bias``.

Both round trip: reading the packed file gives the same model, bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel
from bitexport.layers import CodebookConv2d, CodebookLinear, SignConv2d

__all__ = ["packed_bytes", "packed_state"]

_CHANNELS_PER_BYTE = 8
# Upstream's uint8 and int16 first; the wide one for codebooks that its files never have.
_CODE_DTYPES = (torch.uint8, torch.int16, torch.int32)


def packed_bytes(model: LoadedModel) -> bytes:
    """The packed checkpoint as a file's contents; raises as :func:`packed_state`."""
    buffer = io.BytesIO()
    torch.save(packed_state(model), buffer)
    return buffer.getvalue()


def packed_state(model: LoadedModel) -> dict[str, Any]:
    """What ``torch.save`` is to write for a model.

    Raises:
        UnsupportedModel: Its upstream system has no packed format, or the weights do not fit it.
    """
    if model.family not in _PACKERS:
        raise UnsupportedModel(
            f"{model.family} has no packed checkpoint format",
            got=model.arch,
            expected=f"a model of {' or '.join(_PACKERS)}",
            fix="Export it with `bitexport onnx`.",
        )
    if len(model.outputs) > 1:
        raise UnsupportedModel(
            f"{model.arch} cannot be packed",
            got="a part of the network that its file holds",
            expected="a classifier",
            fix="Keep the file, which is packed already, or export it with `bitexport onnx`.",
        )
    return _PACKERS[model.family](model.module)


def _pack_wide_resnet(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    convolutions = {
        f"{name}.weight": layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d)
    }
    for key, value in module.state_dict().items():
        layer = convolutions.get(key)
        # Upstream's convolutions are bare parameters.
        bare = key if layer is None else key.removesuffix(".weight")
        packed = _pack_signs(bare, value) if isinstance(layer, SignConv2d) else value.clone()
        state[f"module.{bare}"] = packed
    if not any(isinstance(layer, SignConv2d) for layer in convolutions.values()):
        raise UnsupportedModel(
            "a full-precision network has nothing to pack",
            got="no 1-bit layers",
            expected="a 1-bit Wide ResNet",
            fix="Leave --weights float out.",
        )
    return state


def _pack_signs(name: str, latent: Tensor) -> Tensor:
    zeros = int((latent == 0).sum())
    if zeros or latent.shape[1] % _CHANNELS_PER_BYTE:
        raise UnsupportedModel(
            f"layer {name!r} does not fit the packed format",
            got=f"{zeros} weights of exactly 0, {latent.shape[1]} input channels",
            expected="no zeros, and a multiple of 8 channels",
            fix="Export it with `bitexport onnx`, which keeps both exact.",
        )
    return torch.from_numpy(np.packbits(latent.detach().numpy() > 0, axis=1))


def _pack_kill_the_bits(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, CodebookConv2d | CodebookLinear):
            state[name] = _pack_codes(layer)
            if isinstance(layer, CodebookLinear) and layer.bias is not None:
                state[f"{name}_bias"] = {"bias": layer.bias.detach().clone()}
        elif isinstance(layer, nn.BatchNorm2d):
            state[name] = {k: _half(name, getattr(layer, k)) for k in ("weight", "bias")}
            if _has_statistics(layer):
                raise UnsupportedModel(
                    f"layer {name!r} does not fit the packed format",
                    got="BatchNorm statistics",
                    expected="a mean of 0 and a variance of 1",
                    fix="Fold the statistics into weight and bias first.",
                )
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            state[name] = {"weight": _half(name, layer.weight)}
            if layer.bias is not None:
                state[f"{name}_bias"] = {"bias": layer.bias.detach().clone()}
    return state


def _has_statistics(layer: nn.BatchNorm2d) -> bool:
    """Whether a BatchNorm does more than its weight and bias say."""
    mean, variance = layer.running_mean, layer.running_var
    return (mean is not None and bool(mean.any())) or (
        variance is not None and bool((variance != 1).any())
    )


def _pack_codes(layer: CodebookConv2d | CodebookLinear) -> dict[str, Any]:
    last = layer.codebook.shape[0] - 1
    dtype = next(d for d in _CODE_DTYPES if last <= torch.iinfo(d).max)
    shape = layer.weight_shape
    return {
        "centroids": _half("a codebook", layer.codebook),
        "assignments": layer.codes.T.flatten().to(dtype),
        "n_blocks": layer.codes.shape[1],
        "is_conv": isinstance(layer, CodebookConv2d),
        "k": shape[-1] if len(shape) > 2 else 1,
    }


def _half(name: str, value: Tensor) -> Tensor:
    half = value.detach().half()
    if not torch.equal(half.float(), value.detach().float()):
        raise UnsupportedModel(
            f"layer {name!r} does not fit the packed format",
            got="values that float16 rounds",
            expected="values that float16 holds exactly",
            fix="Round the model to float16, and evaluate the rounded one.",
        )
    return half


_PACKERS: Mapping[str, Callable[[nn.Module], dict[str, Any]]] = {
    "wide-resnet": _pack_wide_resnet,
    "kill-the-bits": _pack_kill_the_bits,
}
