"""Bi-Real Net: binary ResNets with a shortcut around every single convolution.

Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs with Improved Representational
Capability and Advanced Training Algorithm", ECCV 2018, section 3.1. The stem, the shortcuts'
convolutions and the classifier are real.

    stem:     conv7x7/2 -> BN -> max pool
    block:    BN(binary conv(sign x)) + shortcut(x)
    shortcut: x, or average pool 2x2 -> conv1x1 -> BN where the shape changes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from bitexport.layers import BinaryConv2d, SignInputConv2d

__all__ = ["BiRealBlock", "BiRealNet", "pooled_shortcut", "sign_activated_conv"]

Block = Callable[[int, int, int, bool], nn.Module]


class BiRealBlock(nn.Module):
    """One binary convolution and its shortcut.

    Args:
        in_channels: Ci.
        out_channels: Co.
        stride: 1, or 2 to halve the image.
        binary_weights: False keeps real weights behind the sign activations.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, binary_weights: bool = True
    ) -> None:
        super().__init__()
        self.binary_conv = sign_activated_conv(
            in_channels, out_channels, 3, stride=stride, binary_weights=binary_weights
        )
        self.bn1 = nn.BatchNorm2d(out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.downsample = pooled_shortcut(in_channels, out_channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.bn1(self.binary_conv(x)) + shortcut)


class BiRealNet(nn.Module):
    """Bi-Real Net 18 (blocks 4, 4, 4, 4), 34 (6, 8, 12, 6) or of any other depth.

    Args:
        blocks: Blocks in each of the four stages.
        num_classes: Length of the logits.
        width: Channels of the stem; the stages have 1, 2, 4 and 8 times as many.
        block: Makes a block of (in_channels, out_channels, stride, binary_weights).
        binary_weights: Handed to the blocks.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        width: int = 64,
        block: Block = BiRealBlock,
        binary_weights: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = [width, *(width << stage for stage in range(4))]
        for stage, (before, after) in enumerate(pairwise(channels)):
            inputs = [before] + [after] * (blocks[stage] - 1)
            strides = [1 if stage == 0 else 2] + [1] * (blocks[stage] - 1)
            layers = [
                block(i, after, s, binary_weights) for i, s in zip(inputs, strides, strict=True)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> logits, float [N, num_classes]."""
        h = self.maxpool(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3, 4):
            h = self.get_submodule(f"layer{stage}")(h)
        return cast(Tensor, self.fc(self.avgpool(h).flatten(1)))


def pooled_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Average pool -> real 1x1 convolution -> BatchNorm."""
    return nn.Sequential(
        nn.AvgPool2d(stride, stride),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def sign_activated_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    shifted: bool = False,
    binary_weights: bool = True,
) -> nn.Module:
    """A convolution that keeps the image's size but for its stride, on sign activations."""
    padding = kernel_size // 2
    if binary_weights:
        return BinaryConv2d(
            in_channels, out_channels, kernel_size, shifted=shifted, stride=stride, padding=padding
        )
    return SignInputConv2d(
        in_channels, out_channels, kernel_size, shifted=shifted, stride=stride, padding=padding
    )
