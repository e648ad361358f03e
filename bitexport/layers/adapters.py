"""The table that turns a torch layer into a framework-free spec.

A user's own layer joins by :func:`register_layer`; the nearest registered class in a layer's
method resolution order wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from bitexport.errors import InputError, UnsupportedModel
from bitexport.layers.binary_conv import BinaryConv2d
from bitexport.layers.codebook import CodebookConv2d, CodebookConvTranspose2d, CodebookLinear
from bitexport.layers.sign_conv import SignConv2d
from bitexport.spec import (
    BinaryConvSpec,
    CodebookConvSpec,
    CodebookConvTransposeSpec,
    CodebookLinearSpec,
    ConvGeometry,
    LayerSpec,
    SignConvSpec,
)

__all__ = ["ToSpec", "conv_geometry", "float32_bytes", "register_layer", "spec_of"]

Layer = TypeVar("Layer", bound=nn.Module)
ToSpec = Callable[[Layer], LayerSpec | None]


def spec_of(layer: nn.Module) -> LayerSpec | None:
    """The spec of a quantized layer, or None for a layer that no adapter is registered for.

    None also for a transposed convolution whose outputs overlap, which no op computes.

    Raises:
        UnsupportedModel: Its adapter returns something else.
    """
    for cls in type(layer).__mro__:
        if cls in _ADAPTERS:
            spec = _ADAPTERS[cls](layer)
            if spec is None or isinstance(spec, LayerSpec):
                return spec
            raise UnsupportedModel(
                f"what was registered for layer class {cls.__qualname__} returns no spec",
                got=type(spec).__name__,
                expected="a spec of bitexport.spec, or None where torch exports the layer",
                fix="Correct the function given to register_layer.",
            )
    return None


def float32_bytes(module: nn.Module) -> int:
    """Bytes of the weights and statistics that the full-precision twin would hold."""
    values = 0
    for layer in module.modules():
        spec = spec_of(layer)
        if spec is not None:
            values += int(np.prod(spec.weight_shape))
            values += spec.out_channels if spec.bias.any() else 0
            continue
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        values += sum(t.numel() for t in own if t.is_floating_point())
    return 4 * values


def register_layer(cls: type[Layer], to_spec: ToSpec[Layer]) -> None:
    """Teach the exporter a layer class.

    Args:
        cls: The class of the layer; its forward must compute what the spec says.
        to_spec: Turns a layer in evaluation mode into its spec, or into None where torch is to
            export it, with a dense weight.

    Raises:
        InputError: ``cls`` is no class of layers, such as a layer, or ``to_spec`` no function.
        UnsupportedModel: The class is registered already.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and callable(to_spec)):
        raise InputError(
            "a layer class cannot be registered",
            got=f"{_kind(cls)} and {_kind(to_spec)}",
            expected="a class of torch.nn.Module, and a function that turns its layers into specs",
            fix="Call bitexport.register_layer(MyLayer, to_spec).",
        )
    if cls in _ADAPTERS:
        raise UnsupportedModel(
            f"layer class {cls.__qualname__} is registered twice",
            got="a second adapter",
            expected="one adapter per class",
            fix="Register a subclass instead.",
        )
    _ADAPTERS[cls] = to_spec


def _kind(value: object) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def conv_geometry(conv: nn.Conv2d) -> ConvGeometry:
    """The geometry of a torch convolution.

    Raises:
        UnsupportedModel: The padding is not explicit zeros.
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise UnsupportedModel(
            "a quantized convolution pads in an unsupported way",
            got=f"padding={conv.padding!r}, padding_mode={conv.padding_mode!r}",
            expected="integer padding with zeros",
            fix="Write the padding as integers.",
        )
    return _geometry(conv.stride, conv.padding, conv.dilation, conv.groups)


def _geometry(
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
) -> ConvGeometry:
    vertical, horizontal = _pair(padding)
    return ConvGeometry(
        strides=_pair(stride),
        pads=(vertical, horizontal, vertical, horizontal),
        dilations=_pair(dilation),
        group=groups,
    )


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    vertical, horizontal = value
    return vertical, horizontal


def _sign_conv(layer: SignConv2d) -> LayerSpec:
    scale = _array(layer.scale()).reshape(-1)
    return SignConvSpec(
        signs=_array(layer.weight.sign()).astype(np.int8),
        scale=scale,
        bias=np.zeros_like(scale),
        geometry=conv_geometry(layer),
    )


def _binary_conv(layer: BinaryConv2d) -> LayerSpec:
    scale = _array(layer.scale()).reshape(-1)
    # x + shift >= 0 and x >= -shift are the same in IEEE arithmetic, rounding included.
    shift = np.zeros(layer.in_channels, np.float32) if layer.shift is None else _array(layer.shift)
    bias = np.zeros_like(scale) if layer.bias is None else _array(layer.bias)
    return BinaryConvSpec(
        signs=_array(layer.weight.sign()).astype(np.int8),
        scale=scale,
        bias=bias,
        geometry=conv_geometry(layer),
        threshold=-shift.reshape(-1),
        centered=layer.centered,
        zero_at_threshold=True,
    )


def _codebook_conv(layer: CodebookConv2d) -> LayerSpec:
    conv = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | layer.conv
    return CodebookConvSpec(
        **_codebook_fields(layer),
        geometry=_geometry(conv["stride"], conv["padding"], conv["dilation"], conv["groups"]),
    )


def _codebook_conv_transpose(layer: CodebookConvTranspose2d) -> LayerSpec | None:
    conv = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | layer.conv
    strides, dilations = _pair(conv["stride"]), _pair(conv["dilation"])
    apart = strides == tuple(layer.weight_shape[2:]) and _pair(conv["padding"]) == (0, 0)
    if not apart or dilations != (1, 1) or conv["groups"] != 1:
        return None
    return CodebookConvTransposeSpec(**_codebook_fields(layer))


def _codebook_linear(layer: CodebookLinear) -> LayerSpec:
    return CodebookLinearSpec(**_codebook_fields(layer))


def _codebook_fields(layer: CodebookConv2d | CodebookLinear) -> dict[str, Any]:
    transposed = isinstance(layer, CodebookConvTranspose2d)
    out_channels = layer.weight_shape[1 if transposed else 0]
    codebook = _array(layer.codebook)
    with np.errstate(over="ignore"):
        half = codebook.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), codebook):
        raise UnsupportedModel(
            "a codebook does not fit float16",
            got=f"centroids that change by up to {np.abs(half - codebook).max():.3g}",
            expected="centroids that float16 holds exactly",
            fix="Round the codebook to float16 before export, and evaluate the rounded model.",
        )
    bias = np.zeros(out_channels, np.float32) if layer.bias is None else _array(layer.bias)
    return {
        "codes": layer.codes.cpu().numpy().astype(np.uint16),
        "codebook": half,
        "weight_shape": tuple(layer.weight_shape),
        "scale": np.ones(out_channels, np.float32),
        "bias": bias,
    }


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return tensor.detach().cpu().float().numpy()


_ADAPTERS: dict[type[nn.Module], Callable[[Any], LayerSpec | None]] = {
    BinaryConv2d: _binary_conv,
    SignConv2d: _sign_conv,
    CodebookConv2d: _codebook_conv,
    CodebookConvTranspose2d: _codebook_conv_transpose,
    CodebookLinear: _codebook_linear,
}
