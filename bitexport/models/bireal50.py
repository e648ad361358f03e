"""Bi-Real Net 50: binary bottlenecks with a second stream of shortcuts.

Liu et al., "Bi-Real Net: Binarizing Deep Network Towards Real-Network Performance", IJCV 2020. Two
streams run through the blocks: x1 of the narrow middle, x2 of the wide outputs.

    out1 = BN(conv1x1(sign x2)) + x1         x1 through a real 1x1 convolution where a stage begins
    out2 = BN(conv3x3(sign out1)) + out1     out1 pooled where the image is halved
    out3 = BN(conv1x1(sign out2)) + x2       x2 pooled, through a real 1x1 and BN where needed

The first block starts the streams: its conv1 is real, sees a leaky clip of x2, and adds no x1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bitexport.models.bireal import pooled_shortcut, sign_activated_conv

__all__ = ["BiRealNet50", "leaky_clip"]

_EXPANSION = 4
_LEAK = 0.1


def leaky_clip(x: Tensor) -> Tensor:
    """X within [-1, 1], continued with slope 0.1 outside."""
    inside = x.clamp(-1, 1)
    return inside + _LEAK * (x - inside)


class _Bottleneck(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, first: bool, binary: bool
    ) -> None:
        super().__init__()
        middle = out_channels // _EXPANSION
        self.first = first
        if first:
            self.conv1: nn.Module = nn.Conv2d(in_channels, middle, 1, bias=False)
        else:
            self.conv1 = sign_activated_conv(in_channels, middle, 1, binary_weights=binary)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = sign_activated_conv(middle, middle, 3, stride=stride, binary_weights=binary)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = sign_activated_conv(middle, out_channels, 1, binary_weights=binary)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.pooling = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()
        self.down_conv1x1: nn.Module | None = None
        self.downsample: nn.Module | None = None
        if in_channels != out_channels:
            self.downsample = pooled_shortcut(in_channels, out_channels, stride)
            if not first:
                self.down_conv1x1 = nn.Conv2d(in_channels // _EXPANSION, middle, 1, bias=False)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        out1 = self.bn1(self.conv1(leaky_clip(x2) if self.first else x2))
        if not self.first:
            out1 = out1 + (x1 if self.down_conv1x1 is None else self.down_conv1x1(x1))
        out2 = self.bn2(self.conv2(out1)) + self.pooling(out1)
        wide = x2 if self.downsample is None else self.downsample(x2)
        return out2, self.bn3(self.conv3(out2)) + wide


class BiRealNet50(nn.Module):
    """Bi-Real Net 50 (blocks 3, 4, 6, 3) or of any other depth.

    Args:
        blocks: Blocks in each of the four stages.
        num_classes: Length of the logits.
        width: Channels of the stem; the stages put out 4, 8, 16 and 32 times as many.
        binary_weights: False keeps real weights behind the sign activations.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        width: int = 64,
        binary_weights: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layers = nn.ModuleList()
        before = width
        for stage, count in enumerate(blocks):
            after = width * _EXPANSION << stage
            for index in range(count):
                stride = 2 if stage and index == 0 else 1
                first = not stage and not index
                self.layers.append(
                    _Bottleneck(before, after, stride, first=first, binary=binary_weights)
                )
                before = after
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> logits, float [N, num_classes]."""
        x1 = x2 = self.maxpool(self.bn1(self.conv1(x)))
        for block in self.layers:
            x1, x2 = block(x1, x2)
        return cast(Tensor, self.fc(torch.flatten(self.avgpool(x2), 1)))
