"""XNOR-Net's block, BatchNorm -> sign -> scaled binary convolution, in a ResNet.

Rastegari et al., "XNOR-Net", ECCV 2016, section 4.2 evaluates ResNet-18. Their PyTorch port has no
ResNet; those that others built from its ``BinConv2d`` put it in the place of every convolution of
He et al.'s network but the first, with no ReLU where the shortcut is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bitexport.layers import BinaryConv2d

__all__ = ["BinaryUnit", "XnorResNet", "XnorResNetLayout"]

_EPS = 1e-4


@dataclass(frozen=True)
class XnorResNetLayout:
    """What differs between the ports, as far as a file shows it.

    Attributes:
        blocks: Blocks of each of the four stages.
        width: Channels of the stem; the stages have 1, 2, 4 and 8 times as many.
        bottleneck: Blocks of 1x1, 3x3, 1x1 and four times the channels instead of two 3x3.
        stem_kernel: Side of the first kernel. 7 strides and pools as for ImageNet, 3 does not.
        stem_bias: The first convolution has a bias.
        bias: The binary convolutions have biases.
        last_norm: BatchNorm and ReLU stand before the classifier too. Such ports pool before
            the first BatchNorm, and have an eps of 1e-4 in both.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    bottleneck: bool = False
    stem_kernel: int = 7
    stem_bias: bool = False
    bias: bool = False
    last_norm: bool = False


class BinaryUnit(nn.Module):
    """BatchNorm -> sign -> scaled binary convolution, padded to keep the size at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels, eps=_EPS)
        self.conv = BinaryConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        return cast(Tensor, self.conv(self.bn(x)))


class _Block(nn.Module):
    """ReLU(last(... ReLU(first(x))) + shortcut(x))."""

    def __init__(self, ci: int, width: int, stride: int, layout: XnorResNetLayout) -> None:
        super().__init__()
        co = 4 * width if layout.bottleneck else width
        kernels = (1, 3, 1) if layout.bottleneck else (3, 3)
        channels = (ci, *[width] * (len(kernels) - 1), co)
        # torchvision's bottleneck strides in its 3x3 convolution, as the ports do.
        striding = 1 if layout.bottleneck else 0
        self.units = len(kernels)
        for i, kernel in enumerate(kernels):
            step = stride if i == striding else 1
            unit = BinaryUnit(channels[i], channels[i + 1], kernel, step, bias=layout.bias)
            self.add_module(f"conv{i + 1}", unit)
        changes = stride != 1 or ci != co
        self.downsample = BinaryUnit(ci, co, 1, stride, bias=layout.bias) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        y = x
        for i in range(1, self.units + 1):
            y = self.get_submodule(f"conv{i}")(y)
            y = torch.relu(y) if i < self.units else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class XnorResNet(nn.Module):
    """A ResNet of XNOR-Net blocks.

    Args:
        num_classes: Length of the logits.
        layout: Which of the ports.
    """

    def __init__(self, num_classes: int, layout: XnorResNetLayout | None = None) -> None:
        super().__init__()
        self.layout = layout = layout or XnorResNetLayout()
        width, imagenet = layout.width, layout.stem_kernel > 3
        self.conv1 = nn.Conv2d(
            3,
            width,
            layout.stem_kernel,
            stride=2 if imagenet else 1,
            padding=layout.stem_kernel // 2,
            bias=layout.stem_bias,
        )
        self.bn1 = nn.BatchNorm2d(width, eps=_EPS if layout.last_norm else 1e-5)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else nn.Identity()
        channels = width
        for stage, blocks in enumerate(layout.blocks):
            made = []
            for i in range(blocks):
                stride = 2 if stage and not i else 1
                made.append(_Block(channels, width << stage, stride, layout))
                channels = (width << stage) * (4 if layout.bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.bn2 = nn.BatchNorm1d(channels, eps=_EPS) if layout.last_norm else None
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> logits, float [N, num_classes]."""
        x = self.conv1(x)
        if self.layout.last_norm:
            x = torch.relu(self.bn1(self.maxpool(x)))
        else:
            x = self.maxpool(torch.relu(self.bn1(x)))
        for stage in range(1, len(self.layout.blocks) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        x = x.mean((2, 3))
        if self.bn2 is not None:
            x = torch.relu(self.bn2(x))
        return cast(Tensor, self.fc(x))
