"""The layers of the networks that are exported: what is timed, one by one and in a chain.

Only layers that become ops of ours are listed; the first convolution and the like stay dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitexport.ops.nodes import NodeData, node_data
from bitexport.ops.table import op_named
from bitexport.spec import (
    BinaryConvSpec,
    CodebookConvSpec,
    CodebookLinearSpec,
    ConvGeometry,
    SignConvSpec,
)

__all__ = ["NETWORKS", "LayerShape"]

SEED = 3


@dataclass(frozen=True)
class LayerShape:
    """One layer: ``size`` is the height and width of its input, 1 for a linear layer."""

    name: str
    op: str
    in_channels: int
    out_channels: int
    size: int
    kernel: int = 1
    stride: int = 1
    entries: int = 0
    depth: int = 0

    @property
    def pad(self) -> int:
        """Zeros on each side."""
        return self.kernel // 2

    @property
    def out_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.pad - self.kernel) // self.stride + 1

    @property
    def is_linear(self) -> bool:
        """Whether X is [N, Ci] instead of an image."""
        return self.op == "CodebookGemm"

    @property
    def is_binary(self) -> bool:
        """Whether activations have one bit."""
        return self.op.startswith("BinaryConv")

    @property
    def has_residual(self) -> bool:
        """Whether a tensor of the output's shape is added."""
        return self.op == "BinaryConvAdd"

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.out_channels * self.in_channels * self.kernel**2

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """X's shape."""
        shape = (batch, self.in_channels, self.size, self.size)
        return shape[:2] if self.is_linear else shape

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """Y's shape."""
        shape = (batch, self.out_channels, self.out_size, self.out_size)
        return shape[:2] if self.is_linear else shape

    def operations(self, batch: int) -> int:
        """Multiplications and additions, two for each weight and output pixel."""
        return 2 * batch * self.weights * self.out_size**2

    def node(self) -> NodeData:
        """The op's constants with random weights."""
        rng = np.random.default_rng(SEED)
        shape = (self.out_channels, self.in_channels, self.kernel, self.kernel)
        scale, bias = rng.normal(size=(2, self.out_channels)).astype(np.float32) * 0.05
        geometry = ConvGeometry((self.stride, self.stride), (self.pad,) * 4)
        if self.entries:
            row = self.weights // self.out_channels
            codes = rng.integers(self.entries, size=(self.out_channels, row // self.depth))
            codebook = rng.normal(size=(self.entries, self.depth)).astype(np.float16)
            packed = codes.astype(np.uint16)
            if self.is_linear:
                return node_data(CodebookLinearSpec(packed, codebook, shape[:2], scale, bias))
            return node_data(CodebookConvSpec(packed, codebook, shape, scale, bias, geometry))
        signs = rng.choice(np.array([-1, 1], np.int8), shape)
        if not self.is_binary:
            return node_data(SignConvSpec(signs, scale, bias, geometry))
        threshold = rng.normal(size=self.in_channels).astype(np.float32)
        node = node_data(BinaryConvSpec(signs, scale, bias, geometry, threshold))
        return NodeData(op_named(self.op), node.tensors, node.attributes)


def _bireal18() -> list[LayerShape]:
    """Bi-Real-18 at 224: sixteen binary 3x3 convolutions, each with its shortcut."""
    layers = []
    channels, size = 64, 56
    for stage, out_channels in enumerate((64, 128, 256, 512), start=1):
        for index in range(4):
            stride = 2 if stage > 1 and index == 0 else 1
            name = f"layer{stage}.{index}"
            layers.append(
                LayerShape(name, "BinaryConvAdd", channels, out_channels, size, 3, stride)
            )
            channels, size = out_channels, layers[-1].out_size
    return layers


def _wrn_20_10() -> list[LayerShape]:
    """WRN-20-10 at 32, 1-bit weights: the first convolution, 18 of the blocks, the last 1x1."""
    layers = [LayerShape("conv0", "SignConv", 3, 160, 32, 3)]
    channels, size = 160, 32
    for group, width in enumerate((160, 320, 640)):
        for index in range(6):
            stride = 2 if group > 0 and index == 0 else 1
            name = f"group{group}.{index}"
            layers.append(LayerShape(name, "SignConv", channels, width, size, 3, stride))
            channels, size = width, layers[-1].out_size
    return [*layers, LayerShape("conv_last", "SignConv", 640, 100, 8)]


def _pq_resnet50() -> list[LayerShape]:
    """Kill-the-bits ResNet-50, small blocks: 3x3 kernels of d=9, 1x1 of d=4, K=256; K=2048 last."""

    def conv(name: str, ins: int, outs: int, size: int, kernel: int, stride: int) -> LayerShape:
        depth = 9 if kernel == 3 else 4
        return LayerShape(name, "CodebookConv", ins, outs, size, kernel, stride, 256, depth)

    layers = []
    channels, size = 64, 56
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            name = f"layer{stage}.{index}"
            layers.append(conv(f"{name}.conv1", channels, width, size, 1, 1))
            layers.append(conv(f"{name}.conv2", width, width, size, 3, stride))
            layers.append(conv(f"{name}.conv3", width, 4 * width, layers[-1].out_size, 1, 1))
            if index == 0:
                layers.append(conv(f"{name}.downsample", channels, 4 * width, size, 1, stride))
            channels, size = 4 * width, layers[-1].out_size
    return [*layers, LayerShape("fc", "CodebookGemm", 2048, 1000, 1, entries=2048, depth=4)]


NETWORKS: dict[str, list[LayerShape]] = {
    "bireal18": _bireal18(),
    "wrn-20-10": _wrn_20_10(),
    "pq-resnet50": _pq_resnet50(),
}
