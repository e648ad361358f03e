"""Stand-ins for quantized layers that leave custom-op nodes in an exported graph.

A weight of exactly 0 (``torch.sign(0)`` is 0) has no bit. It is the mean of +1 and -1, so the
filters that hold zeros are computed twice, with the zeros as +1 and as -1, each at half scale:

    Y[o] = S[o]/2 * conv(X, W with 0 -> +1)[o] + B[o]  +  S[o]/2 * conv(X, W with 0 -> -1)[o]

Only the filters with zeros take part in the second convolution; one more filter of scale 0
answers for all the others, and a Gather puts the results in their places.

An activation that equals its threshold has no bit either. sign(x - th) is the mean of
where(x >= th, +1, -1) and where(x > th, +1, -1), and x > th is the opposite of -x >= -th:

    Y = S/2 * conv(X >= Th ? +1 : -1, W) + B  -  S/2 * conv(-X >= -Th ? +1 : -1, W)

Both share the words of W. NaN is -1 on both sides, so 0 in the end, as torch has it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.ops.nodes import NodeData, node_data
from bitexport.ops.table import DOMAIN, OP_VERSION
from bitexport.spec import (
    BinaryConvSpec,
    CodebookConvTransposeSpec,
    CodebookLinearSpec,
    ConvGeometry,
    LayerSpec,
    SignConvSpec,
)

__all__ = ["emitter"]


def emitter(spec: LayerSpec) -> nn.Module:
    """A module whose forward, under ``torch.onnx.export``, leaves the layer's nodes."""
    if isinstance(spec, BinaryConvSpec) and spec.centered:
        return _CenteredLayer(emitter(replace(spec, centered=False)))
    if isinstance(spec, BinaryConvSpec) and spec.zero_at_threshold:
        return _TernaryLayer(spec)
    if isinstance(spec, SignConvSpec) and spec.zero_weights:
        return _SplitLayer(spec)
    if isinstance(spec, CodebookConvTransposeSpec):
        return _TransposedLayer(spec)
    geometry = None if isinstance(spec, CodebookLinearSpec) else spec.geometry
    return _Node(node_data(spec), geometry)


class _Node(nn.Module):
    """One custom-op node; its packed tensors are buffers named as the op's inputs."""

    def __init__(self, node: NodeData, geometry: ConvGeometry | None) -> None:
        super().__init__()
        self.node = node
        self.geometry = geometry
        for name, array in node.tensors.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and self._is_linear():
            return self._emit(x.unsqueeze(-1).unsqueeze(-1)).flatten(1)
        return self._emit(x)

    def _is_linear(self) -> bool:
        """A convolution of one pixel, which vectors may go through as well."""
        wshape = self.node.attributes["wshape"]
        pixel = self.geometry is not None and self.geometry.pads == (0, 0, 0, 0)
        return pixel and isinstance(wshape, tuple) and wshape[2:] == (1, 1)

    def _emit(self, x: Tensor) -> Tensor:
        tensors = [x, *(self.get_buffer(name) for name in self.node.tensors)]
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.node.op.name}",
            tensors,
            {k: list(v) if isinstance(v, tuple) else v for k, v in self.node.attributes.items()},
            dtype=x.dtype,
            shape=self._output_shape(x),
            version=OP_VERSION,
        )

    def _output_shape(self, x: Tensor) -> list[int]:
        wshape = self.node.attributes["wshape"]
        if not isinstance(wshape, tuple):
            raise TypeError(f"wshape is {wshape!r}, not a tuple")
        if self.geometry is None:
            return [x.shape[0], wshape[0]]
        channels = wshape[1] * self.geometry.group
        if x.dim() != 4 or x.shape[1] != channels:
            raise UnsupportedModel(
                "a quantized convolution gets a wrong input",
                got=["N", *x.shape[1:]],
                expected=f"[N, {channels}, H, W]"
                + (f" or [N, {channels}]" if self._is_linear() else ""),
                fix="Check the architecture, or reshape in front of the layer.",
            )
        size = self.geometry.output_size((x.shape[2], x.shape[3]), (wshape[2], wshape[3]))
        return [x.shape[0], wshape[0], *size]


class _CenteredLayer(nn.Module):
    """A binary layer behind the subtraction of each sample's mean."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        # Called without __call__, so that all nodes belong to this module for the exporter.
        centered = x - x.mean(dim=tuple(range(1, x.dim())), keepdim=True)
        return cast(Tensor, self.inner.forward(centered))


class _TernaryLayer(nn.Module):
    """A binary layer that keeps activations at the threshold 0, as two layers and their sum."""

    def __init__(self, spec: BinaryConvSpec) -> None:
        super().__init__()
        half = replace(spec, scale=np.float32(0.5) * spec.scale, zero_at_threshold=False)
        self.above = emitter(half)
        self.below = emitter(
            replace(half, threshold=-spec.threshold, scale=-half.scale, bias=spec.bias * 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        # Called without __call__, so that all nodes belong to this module for the exporter.
        return cast(Tensor, self.above.forward(x) + self.below.forward(-x))


class _SplitLayer(nn.Module):
    """A sign layer with zero weights, as two sign layers and their sum."""

    def __init__(self, spec: SignConvSpec) -> None:
        super().__init__()
        plus, minus, source = _split_zeros(spec)
        self.plus = _Node(node_data(plus), plus.geometry)
        self.minus = _Node(node_data(minus), minus.geometry)
        self.source: Tensor | None
        self.register_buffer("source", None if source is None else torch.from_numpy(source))

    def forward(self, x: Tensor) -> Tensor:
        # Called without __call__, so that all nodes belong to this module for the exporter.
        correction = self.minus.forward(x)
        if self.source is not None:
            correction = correction.index_select(1, self.source)
        return self.plus.forward(x) + correction


class _TransposedLayer(nn.Module):
    """A transposed convolution as 1x1 convolutions, whose channels become pixels."""

    def __init__(self, spec: CodebookConvTransposeSpec) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_Node(node_data(p), p.geometry) for p in spec.parts())
        self.pixels = (spec.weight_shape[2], spec.weight_shape[3])
        self.order: Tensor
        self.register_buffer("order", torch.from_numpy(spec.depth_order()))

    def forward(self, x: Tensor) -> Tensor:
        # Called without __call__, so that all nodes belong to this module for the exporter.
        y = torch.cat([cast(Tensor, part.forward(x)) for part in self.parts], dim=1)
        y = torch.unflatten(y.index_select(1, self.order), 1, (*self.pixels, -1))
        return y.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def _split_zeros(
    spec: SignConvSpec,
) -> tuple[SignConvSpec, SignConvSpec, np.ndarray[tuple[int], np.dtype[np.int64]] | None]:
    """The layer with zeros as +1, the part of it with zeros as -1, and each channel's place in it.

    The place is None where every filter, in order, takes part.
    """
    has_zero = (spec.signs == 0).any(axis=(1, 2, 3))
    half = np.where(has_zero, spec.scale / 2, spec.scale).astype(np.float32)
    plus = replace(spec, signs=np.where(spec.signs == 0, 1, spec.signs).astype(np.int8), scale=half)
    minus_signs = np.where(spec.signs == 0, -1, spec.signs).astype(np.int8)
    # A grouped convolution needs the same number of filters in each group: keep them all there.
    if has_zero.all() or spec.geometry.group > 1:
        scale = np.where(has_zero, half, 0).astype(np.float32)
        return plus, replace(spec, signs=minus_signs, scale=scale, bias=scale * 0), None
    rows = np.append(np.flatnonzero(has_zero), np.flatnonzero(~has_zero)[:1])
    scale = np.append(half[rows[:-1]], 0).astype(np.float32)
    minus = replace(spec, signs=minus_signs[rows], scale=scale, bias=scale * 0)
    source = np.where(has_zero, np.cumsum(has_zero) - 1, len(rows) - 1).astype(np.int64)
    return plus, minus, source
