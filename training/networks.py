"""The architectures by name, and their checkpoints' layout: what a family's reader reads.

Networks are those of ``bitexport.models``. A name may carry a plan of its own, as the families
write it: ``wrn-14-1``, ``birealnet-1-1-1-1``. ``width`` narrows the networks whose readers take
the width from the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from bitexport.errors import InputError
from bitexport.models.bireal import BiRealNet
from bitexport.models.bireal50 import BiRealNet50
from bitexport.models.centered_networks import NetworkPlan, build_network
from bitexport.models.rbnn import RBNN_NETWORKS
from bitexport.models.reactnet import REACTNET_A, ReActNetA, reactnet_resnet
from bitexport.models.resnet import RESNETS, build_resnet
from bitexport.models.siman import SIMAN_NETWORKS
from bitexport.models.wide_resnet import WideResNet
from bitexport.models.xnor_net import AlexNet, AlexNetWidths, LeNet5, NetworkInNetwork

__all__ = ["Architecture", "build"]

Shape = tuple[int, int, int]

_WRN = re.compile(r"wrn-(\d{1,3})-(\d{1,3})")
_PLAN = re.compile(r"(birealnet50|birealnet|reactnet)((?:-\d{1,2}){4})")
_STEM = 64
_NAMED = {
    "birealnet18": "birealnet-4-4-4-4",
    "birealnet34": "birealnet-6-8-12-6",
    "birealnet50": "birealnet50-3-4-6-3",
    "reactnet18": "reactnet-4-4-4-4",
    "reactnet34": "reactnet-6-8-12-6",
}
_NIN_WIDTHS = (192, 160, 96, 192, 192, 192, 192, 192)


@dataclass(frozen=True)
class Architecture:
    """A network, as a recipe names it.

    Attributes:
        family: Name of the family that reads its checkpoints.
        arch: Name within the family.
        width: Channels of the stem; None takes the paper's.
    """

    family: str
    arch: str
    width: int | None = None


def build(
    architecture: Architecture,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    binary: bool = True,
) -> nn.Module:
    """A freshly initialized network.

    Args:
        architecture: Which one.
        num_classes: Length of the logits.
        input_shape: (C, H, W); AlexNet's linear layers depend on it.
        binary: False leaves the 1-bit layers of a Wide ResNet out; the other networks' become
            real by their estimators.

    Raises:
        InputError: There is no such network.
    """
    builder = _BUILDERS.get(architecture.family)
    model = None if builder is None else builder(architecture, num_classes, input_shape, binary)
    if model is None:
        raise InputError(
            "unknown architecture",
            got=f"{architecture.family} {architecture.arch}",
            expected=f"an architecture of {' or '.join(_BUILDERS)}",
            fix="Correct `family` and `arch` in the recipe.",
        )
    return model


def _wide_resnet(a: Architecture, classes: int, shape: Shape, binary: bool) -> nn.Module | None:
    match = _WRN.fullmatch(a.arch)
    del shape
    if match is None:
        return None
    return WideResNet(int(match.group(1)), int(match.group(2)), classes, binarize=binary)


def _residual(a: Architecture, classes: int, shape: Shape, binary: bool) -> nn.Module | None:
    del shape, binary
    if a.arch == "reactnet-a":
        narrow = (a.width or REACTNET_A[0]) / REACTNET_A[0]
        return ReActNetA([int(narrow * channels) for channels in REACTNET_A], classes)
    match = _PLAN.fullmatch(_NAMED.get(a.arch, a.arch))
    if match is None:
        return None
    blocks = [int(n) for n in match.group(2).split("-")[1:]]
    networks: Mapping[str, Callable[..., nn.Module]] = {
        "birealnet": BiRealNet,
        "birealnet50": BiRealNet50,
        "reactnet": reactnet_resnet,
    }
    return networks[match.group(1)](blocks, classes, width=a.width or _STEM)


def _xnor_net(a: Architecture, classes: int, shape: Shape, binary: bool) -> nn.Module | None:
    del binary
    if a.arch == "nin":
        narrow = (a.width or _NIN_WIDTHS[0]) / _NIN_WIDTHS[0]
        return NetworkInNetwork(classes, tuple(int(narrow * n) for n in _NIN_WIDTHS))
    if a.arch == "lenet5":
        return LeNet5(classes)
    return AlexNet(classes, _alexnet_widths(a, shape)) if a.arch == "alexnet" else None


def _alexnet_widths(a: Architecture, shape: Shape) -> AlexNetWidths:
    paper = AlexNetWidths()
    narrow = (a.width or paper.features[0]) / paper.features[0]
    side = (shape[1] - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    first, second, third, fourth, fifth = (int(narrow * n) for n in paper.features)
    return AlexNetWidths(
        features=(first, second, third, fourth, fifth),
        hidden=(int(narrow * paper.hidden[0]), int(narrow * paper.hidden[1])),
        positions=side * side,
    )


def _planned(networks: Mapping[str, NetworkPlan]) -> Callable[..., nn.Module | None]:
    def builder(a: Architecture, classes: int, shape: Shape, binary: bool) -> nn.Module | None:
        del shape, binary
        return build_network(networks[a.arch], classes) if a.arch in networks else None

    return builder


def _resnet(a: Architecture, classes: int, shape: Shape, binary: bool) -> nn.Module | None:
    del shape, binary
    return build_resnet(a.arch, classes) if a.arch in RESNETS else None


_BUILDERS: Mapping[str, Callable[..., nn.Module | None]] = {
    "wide-resnet": _wide_resnet,
    "bireal": _residual,
    "reactnet": _residual,
    "xnor-net": _xnor_net,
    "siman": _planned(SIMAN_NETWORKS),
    "rbnn": _planned(RBNN_NETWORKS),
    "resnet": _resnet,
}
