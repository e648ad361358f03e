"""The same layers with dense weights through torch: cuDNN and cuBLAS, and the exact result."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.gpu.networks import LayerShape
from bitexport.ops.nodes import NodeData, dense_weight

__all__ = ["float16_launch", "int8_launch", "reference", "tf32_launch"]

Launch = Callable[[int], None]

# torch._int_mm wants more than 16 rows, and columns in eights.
INT8_LEAST_ROWS = 17
INT8_MULTIPLE = 8


def reference(node: NodeData, x: torch.Tensor, r: torch.Tensor | None) -> torch.Tensor:
    """What the op table's formula says, in float64, of activations [N, C, H, W] or [N, C]."""
    constants = {k: torch.from_numpy(v.copy()).to(x.device) for k, v in node.tensors.items()}
    weight = torch.from_numpy(dense_weight(node.op, node.tensors, node.attributes["wshape"]))
    weight = weight.to(x.device).double()
    a = x.double()
    if "Th" in constants:
        a = torch.where(x.float() >= constants["Th"], 1.0, -1.0).double()
    if node.op.kind == "gemm":
        y = F.linear(a, weight)
    else:
        top, left, bottom, right = node.attributes["pads"]
        padded = F.pad(a, (left, right, top, bottom))
        strides, dilations = node.attributes["strides"], node.attributes["dilations"]
        y = F.conv2d(padded, weight, None, strides, 0, dilations, node.attributes["group"])
    y = y * constants["S"].double() + constants["B"].double()
    return y if r is None else y + r.double()


def float16_launch(layer: LayerShape, batch: int) -> Launch:
    """A float16 layer with its bias, channels last; and the addition where ours has one."""
    return _launch(layer, batch, torch.float16)


def tf32_launch(layer: LayerShape, batch: int) -> Launch:
    """The same in float32, whose products torch may compute in TF32."""
    return _launch(layer, batch, torch.float32)


def int8_launch(layer: LayerShape, batch: int) -> Launch | None:
    """An int8 matrix product of the layer's size; None where cuBLAS takes none.

    torch has no int8 convolution for GPUs: this is what one could cost at best, without im2col.
    """
    rows = batch * layer.out_size**2
    inner = layer.in_channels * layer.kernel**2
    fits = inner % INT8_MULTIPLE == 0 and layer.out_channels % INT8_MULTIPLE == 0
    if rows < INT8_LEAST_ROWS or not fits:
        return None
    a = torch.randint(-8, 8, (rows, inner), dtype=torch.int8)
    b = torch.randint(-8, 8, (layer.out_channels, inner), dtype=torch.int8).t()
    return lambda _stream: torch._int_mm(a, b)


def _launch(layer: LayerShape, batch: int, dtype: torch.dtype) -> Launch:
    x = torch.randn(layer.input_shape(batch), dtype=dtype)
    shape = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
    weight = torch.randn(shape, dtype=dtype) * 0.05
    bias = torch.randn(layer.out_channels, dtype=dtype)
    if layer.is_linear:
        flat = weight.flatten(1)
        return lambda _stream: F.linear(x, flat, bias)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last)
    r = torch.randn(layer.output_shape(batch), dtype=dtype)
    r = r.contiguous(memory_format=torch.channels_last)

    def launch(_stream: int) -> None:
        y = F.conv2d(x, weight, bias, layer.stride, layer.pad)
        if layer.has_residual:
            y.add_(r)

    return launch
