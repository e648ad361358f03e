"""SiMaN's and RBNN's networks written a second time, as functions of a state dict.

Written from the papers' formulas with upstream's key names, without the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bitexport.checkpoint import Checkpoint

CLASSES = 7
RESNET18_WIDTHS = {
    "resnet18": (64, 128, 256, 512),
    "resnet18A": (32, 32, 64, 128),
    "resnet18B": (32, 64, 128, 256),
    "resnet18C": (64, 64, 128, 256),
    "resnet34": (64, 128, 256, 512),
}
VGG = ((1, 128, 128), (2, 128, 256), (3, 256, 256), (4, 256, 512), (5, 512, 512))

Centering = Literal["sample", "none", "batch"]


class StateMaker:
    """Random tensors under upstream's names; scales and BatchNorm weights of both signs."""

    def __init__(self, binary_fields: Callable[[torch.Generator, str, Tensor], dict[str, Tensor]]):
        self.generator = torch.Generator().manual_seed(5)
        self.state: dict[str, Tensor] = {}
        self._binary_fields = binary_fields

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def dense(self, name: str, out_channels: int, in_channels: int, size: int) -> None:
        weight = self.normal(out_channels, in_channels, size, size)
        self.state[f"{name}.weight"] = weight / weight[0].numel() ** 0.5

    def binary(self, name: str, out_channels: int, in_channels: int, size: int = 3) -> None:
        self.dense(name, out_channels, in_channels, size)
        weight = self.state[f"{name}.weight"]
        scale = weight[0].numel() ** -0.5
        self.state[f"{name}.alpha"] = self.normal(out_channels, 1, 1) * scale
        self.state |= self._binary_fields(self.generator, name, weight)

    def batch_norm(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = self.normal(channels)
        self.state[f"{name}.bias"] = self.normal(channels) * 0.5
        self.state[f"{name}.running_mean"] = self.normal(channels) * 0.3
        self.state[f"{name}.running_var"] = self.uniform(0.5, 2, channels)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def prelu(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = self.uniform(-0.3, 0.6, channels)

    def linear(self, name: str, features: int) -> None:
        self.state[f"{name}.weight"] = self.normal(CLASSES, features) / features**0.5
        self.state[f"{name}.bias"] = self.normal(CLASSES)

    def resnet20(self, *, prelu: bool) -> None:
        self._stem(16, 3)
        for name, before, width in _blocks((3, 3, 3), (16, 32, 64)):
            self._block(name, before, width, prelu=prelu)
        self._head("linear", 64)

    def resnet18(self, arch: str) -> None:
        widths, depths = RESNET18_WIDTHS[arch], (2, 2, 2, 2)
        depths = (3, 4, 6, 3) if arch == "resnet34" else depths
        self._stem(widths[0], 3)
        for name, before, width in _blocks(depths, widths):
            self._block(name, before, width, prelu=False)
            if _strided(name):
                self.binary(f"{name}.shortcut.0", width, before, 1)
                self.batch_norm(f"{name}.shortcut.1", width)
        self._head("linear", widths[-1])

    def imagenet(self, depths: tuple[int, ...], *, prelu: bool) -> None:
        self._stem(64, 7)
        for name, before, width in _blocks(depths, RESNET18_WIDTHS["resnet18"]):
            self._block(name, before, width, prelu=prelu)
            if _strided(name):
                self.dense(f"{name}.downsample.0", width, before, 1)
                self.batch_norm(f"{name}.downsample.1", width)
        self._head("fc", 512)

    def vgg_small(self, *, prelu: bool) -> None:
        self.dense("conv0", 128, 3, 3)
        self.batch_norm("bn0", 128)
        for index, before, width in VGG:
            self.binary(f"conv{index}", width, before)
            self.batch_norm(f"bn{index}", width)
        if prelu:
            for index, _, width in ((0, 0, 128), *VGG):
                self.prelu(f"nonlinear{index}", width)
        self.linear("fc", 512 * 16)

    def _stem(self, width: int, size: int) -> None:
        self.dense("conv1", width, 3, size)
        self.batch_norm("bn1", width)

    def _head(self, name: str, features: int) -> None:
        self.batch_norm("bn2", features)
        self.linear(name, features)

    def _block(self, name: str, before: int, width: int, *, prelu: bool) -> None:
        self.binary(f"{name}.conv1", width, before)
        self.binary(f"{name}.conv2", width, width)
        for index in (1, 2):
            self.batch_norm(f"{name}.bn{index}", width)
            if prelu:
                self.prelu(f"{name}.nonlinear{index}", width)


@dataclass(frozen=True)
class Reference:
    """Forward passes of the networks.

    Attributes:
        state: Upstream's state dict.
        signs: Layer -> signs of its weight, [Co, Ci, kh, kw].
        real: Real, normalized activations instead of signs.
        centering: What is subtracted before the sign; anything but "sample" is a mistake.
    """

    state: Mapping[str, Tensor]
    signs: Callable[[str], Tensor]
    real: bool = False
    centering: Centering = "sample"

    def resnet20(self, x: Tensor, *, prelu: bool, per_conv: bool) -> Tensor:
        h = self._bn("bn1", self._dense("conv1", x, 1))
        h = h.relu() if prelu else h.clamp(-1, 1)
        for name, before, width in _blocks((3, 3, 3), (16, 32, 64)):
            shortcut = h
            if before != width:
                sides = torch.zeros(len(h), width // 4, h.shape[2] // 2, h.shape[3] // 2)
                shortcut = torch.cat([sides, h[:, :, ::2, ::2], sides], dim=1)
            h = self._block(name, h, shortcut, prelu=prelu, per_conv=per_conv)
        return self._head("linear", h.mean((2, 3)))

    def resnet18(self, x: Tensor, arch: str) -> Tensor:
        depths = (3, 4, 6, 3) if arch == "resnet34" else (2, 2, 2, 2)
        h = self._bn("bn1", self._dense("conv1", x, 1))
        for name, _, _ in _blocks(depths, RESNET18_WIDTHS[arch]):
            shortcut = h
            if _strided(name):
                shortcut = self._bn(f"{name}.shortcut.1", self._conv(f"{name}.shortcut.0", h, 2))
            h = self._block(name, h, shortcut, prelu=False, per_conv=False)
        return self._head("linear", h.mean((2, 3)))

    def imagenet(self, x: Tensor, depths: tuple[int, ...], *, prelu: bool) -> Tensor:
        h = self._bn("bn1", self._dense("conv1", x, 2))
        h = F.max_pool2d(h.relu() if prelu else h.clamp(-1, 1), 3, 2, 1)
        for name, _, _ in _blocks(depths, RESNET18_WIDTHS["resnet18"]):
            shortcut = h
            if _strided(name):
                down = self._dense(f"{name}.downsample.0", h, 2)
                shortcut = self._bn(f"{name}.downsample.1", down)
            h = self._block(name, h, shortcut, prelu=prelu, per_conv=True)
        assert h.shape[2:] == (7, 7)
        return self._head("fc", h.mean((2, 3)))

    def vgg_small(self, x: Tensor, *, prelu: bool) -> Tensor:
        h = self._act("nonlinear0", self._bn("bn0", self._dense("conv0", x, 1)), prelu=prelu)
        for index, _, _ in VGG:
            h = self._conv(f"conv{index}", h, 1)
            if index % 2:
                h = F.max_pool2d(h, 2)
            h = self._act(f"nonlinear{index}", self._bn(f"bn{index}", h), prelu=prelu)
        return F.linear(h.flatten(1), self.state["fc.weight"], self.state["fc.bias"])

    def _block(
        self, name: str, x: Tensor, shortcut: Tensor, *, prelu: bool, per_conv: bool
    ) -> Tensor:
        h = self._bn(f"{name}.bn1", self._conv(f"{name}.conv1", x, 2 if _strided(name) else 1))
        if per_conv:
            h = self._act(f"{name}.nonlinear1", h + shortcut, prelu=prelu)
            shortcut = h
        else:
            h = self._act(f"{name}.nonlinear1", h, prelu=prelu)
        h = self._bn(f"{name}.bn2", self._conv(f"{name}.conv2", h, 1)) + shortcut
        return self._act(f"{name}.nonlinear2", h, prelu=prelu)

    def _conv(self, name: str, x: Tensor, stride: int) -> Tensor:
        dims = {"sample": (1, 2, 3), "batch": (0, 1, 2, 3), "none": None}[self.centering]
        centered = x if dims is None else x - x.mean(dims, keepdim=True)
        a = centered / centered.std((1, 2, 3), keepdim=True) if self.real else centered.sign()
        signs = self.signs(name)
        sums = F.conv2d(a, signs, stride=stride, padding=signs.shape[-1] // 2)
        return sums * self.state[f"{name}.alpha"]

    def _dense(self, name: str, x: Tensor, stride: int) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def _bn(self, name: str, x: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{n}"] for n in names), eps=1e-5)

    def _act(self, name: str, x: Tensor, *, prelu: bool) -> Tensor:
        return F.prelu(x, self.state[f"{name}.weight"]) if prelu else x.clamp(-1, 1)

    def _head(self, name: str, features: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.linear(self._bn("bn2", features), weight, bias)


def images(size: int, samples: int = 2) -> Tensor:
    """Images whose samples differ in mean, so that the mean over the batch is another one."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, 3, size, size, generator=generator) + torch.arange(samples).reshape(
        -1, 1, 1, 1
    )


def checkpoint_of(state: Mapping[str, Tensor], **metadata: str) -> Checkpoint:
    """A file that holds ``state``."""
    return Checkpoint(Path("net.pth.tar"), "torch zip", dict(state), metadata, 0, "")


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def _blocks(depths: tuple[int, ...], widths: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """(name, Ci, Co) of each block."""
    found, before = [], widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        for block in range(depth):
            found.append((f"layer{stage}.{block}", before, width))
            before = width
    return found


def _strided(name: str) -> bool:
    return name.endswith(".0") and not name.startswith("layer1.")
