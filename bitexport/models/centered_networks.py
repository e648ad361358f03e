"""The networks that SiMaN and RBNN have in common, by their plans.

    resnet:  image -> conv1, bn1, act [, max-pool] -> layer1 .. layerN -> pool -> bn2 -> logits
    vgg:     image -> conv0, bn0, act -> 5 x (conv [, max-pool], bn, act) -> logits

Only the blocks' convolutions have 1-bit weights. The scale of a convolution in front of a
max-pool may be negative, so the two do not commute. Upstream lmbxmu/RBNN and lmbxmu/SiMaN,
``models_cifar/{resnet,resnet2,vgg}.py`` and ``models_imagenet/resnet.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, cast

from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.models.centered_blocks import (
    Activation,
    ResidualBlock,
    Shortcut,
    activation,
    centered_conv,
    pooled_features,
)

__all__ = [
    "CIFAR_RESNETS",
    "CenteredResNet",
    "NetworkPlan",
    "ResNetPlan",
    "VggPlan",
    "VggSmall",
    "build_network",
]

_VGG_WIDTHS = (128, 128, 256, 256, 512, 512)
_VGG_POOLED = (1, 3, 5)
_VGG_FEATURES = 512 * 4 * 4


@dataclass(frozen=True)
class ResNetPlan:
    """What distinguishes one residual network from another.

    Attributes:
        depths: Blocks of each stage.
        widths: Channels of each stage; the stem has the first stage's.
        nonlinearity: Inside the blocks.
        shortcut: Where a block changes size or channels; see :class:`ResidualBlock`.
        per_conv: One shortcut around each convolution instead of one around two.
        stem: ``"cifar"``: 3x3; ``"imagenet"``: 7x7 with stride 2, max-pool 3x3 with stride 2.
        stem_nonlinearity: After the stem's BatchNorm.
        pool: Window and stride of the last average pool; None takes the feature map's width.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    nonlinearity: Activation
    shortcut: Shortcut
    per_conv: bool
    stem: Literal["cifar", "imagenet"] = "cifar"
    stem_nonlinearity: Activation = "none"
    pool: tuple[int, int] | None = None

    @property
    def head(self) -> str:
        """Name of the linear layer."""
        return "fc" if self.stem == "imagenet" else "linear"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) in training."""
        return (3, 224, 224) if self.stem == "imagenet" else (3, 32, 32)


@dataclass(frozen=True)
class VggPlan:
    """VGG-small; ``nonlinearity`` follows each BatchNorm."""

    head: ClassVar[str] = "fc"
    input_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    nonlinearity: Activation


NetworkPlan: TypeAlias = ResNetPlan | VggPlan

_RESNET18 = ResNetPlan(
    depths=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    nonlinearity="hardtanh",
    shortcut="binary",
    per_conv=False,
    pool=(4, 4),
)
# models_cifar/resnet2.py, the same file in both repositories.
CIFAR_RESNETS: Mapping[str, ResNetPlan] = {
    "resnet18": _RESNET18,
    "resnet18A": replace(_RESNET18, widths=(32, 32, 64, 128)),
    "resnet18B": replace(_RESNET18, widths=(32, 64, 128, 256)),
    "resnet18C": replace(_RESNET18, widths=(64, 64, 128, 256)),
    "resnet34": replace(_RESNET18, depths=(3, 4, 6, 3)),
}


def build_network(
    plan: NetworkPlan, num_classes: int, *, binary_activations: bool = True
) -> nn.Module:
    """The network of a plan, freshly initialized."""
    if isinstance(plan, VggPlan):
        return VggSmall(plan, num_classes, binary_activations=binary_activations)
    return CenteredResNet(plan, num_classes, binary_activations=binary_activations)


class CenteredResNet(nn.Module):
    """Residual network of centered 1-bit convolutions.

    Args:
        plan: Its layout.
        num_classes: Length of the logits.
        binary_activations: False for 1-bit weights with real activations.
    """

    def __init__(
        self, plan: ResNetPlan, num_classes: int, *, binary_activations: bool = True
    ) -> None:
        super().__init__()
        self.plan = plan
        channels, features = plan.widths[0], plan.widths[-1]
        if plan.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(channels)
        self.nonlinear = activation(plan.stem_nonlinearity, channels)
        for index, width in enumerate(plan.widths):
            stage = _stage(plan, index, channels, binary_activations)
            self.add_module(f"layer{index + 1}", stage)
            channels = width
        self.bn2 = nn.BatchNorm1d(features)
        self.add_module(plan.head, nn.Linear(features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> logits, float [N, num_classes]."""
        h = self.maxpool(self.nonlinear(self.bn1(self.conv1(x))))
        for index in range(len(self.plan.depths)):
            h = self.get_submodule(f"layer{index + 1}")(h)
        window, stride = self.plan.pool or (h.shape[3], h.shape[3])
        features = self.bn2(pooled_features(h, window, stride))
        return cast(Tensor, self.get_submodule(self.plan.head)(features))


class VggSmall(nn.Module):
    """VGG-small for images of 32x32 pixels: six convolutions, the last five with 1-bit weights.

    Args:
        plan: Its nonlinearity.
        num_classes: Length of the logits.
        binary_activations: False for 1-bit weights with real activations.
    """

    def __init__(self, plan: VggPlan, num_classes: int, *, binary_activations: bool = True) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, _VGG_WIDTHS[0], 3, padding=1, bias=False)
        for index, width in enumerate(_VGG_WIDTHS):
            if index:
                before = _VGG_WIDTHS[index - 1]
                conv = centered_conv(before, width, 3, binary_activations=binary_activations)
                self.add_module(f"conv{index}", conv)
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
            self.add_module(f"nonlinear{index}", activation(plan.nonlinearity, width))
        self.pooling = nn.MaxPool2d(2, stride=2)
        self.fc = nn.Linear(_VGG_FEATURES, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, 32, 32] -> logits, float [N, num_classes]."""
        h = x
        for index in range(len(_VGG_WIDTHS)):
            h = self.get_submodule(f"conv{index}")(h)
            if index in _VGG_POOLED:
                h = self.pooling(h)
            h = self.get_submodule(f"nonlinear{index}")(self.get_submodule(f"bn{index}")(h))
        if tuple(h.shape[2:]) != (4, 4):
            raise UnsupportedModel(
                "the input size does not fit the network's linear layer",
                got=f"{h.shape[2]}x{h.shape[3]} pixels before it",
                expected="4x4 pixels, from images of 32x32",
                fix="Use the input size that the network was trained with.",
            )
        return cast(Tensor, self.fc(h.flatten(1)))


def _stage(
    plan: ResNetPlan, index: int, in_channels: int, binary_activations: bool
) -> nn.Sequential:
    """The blocks of one stage; the first halves the image in all stages but the first."""
    width = plan.widths[index]
    return nn.Sequential(
        *(
            ResidualBlock(
                width if block else in_channels,
                width,
                2 if index and not block else 1,
                nonlinearity=plan.nonlinearity,
                shortcut=plan.shortcut,
                shortcut_name="downsample" if plan.stem == "imagenet" else "shortcut",
                per_conv=plan.per_conv,
                binary_activations=binary_activations,
            )
            for block in range(plan.depths[index])
        )
    )
