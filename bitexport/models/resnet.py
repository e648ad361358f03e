"""torchvision's ResNets by name, and which of them a set of keys belongs to.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

__all__ = ["RESNETS", "build_resnet", "resnet_of_keys"]

# Name -> torchvision's class of its blocks, and their number in each stage.
RESNETS: Mapping[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet18": ("BasicBlock", (2, 2, 2, 2)),
    "resnet34": ("BasicBlock", (3, 4, 6, 3)),
    "resnet50": ("Bottleneck", (3, 4, 6, 3)),
    "resnet101": ("Bottleneck", (3, 4, 23, 3)),
    "resnet152": ("Bottleneck", (3, 8, 36, 3)),
}
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.conv1\..+")


def build_resnet(arch: str, num_classes: int) -> ResNet:
    """A ResNet of the table, float [N, 3, H, W] -> logits [N, num_classes]."""
    # Here, as it takes a second that other networks need not wait for.
    from torchvision.models import resnet

    block, depths = RESNETS[arch]
    return resnet.ResNet(getattr(resnet, block), list(depths), num_classes=num_classes)


def resnet_of_keys(keys: Iterable[str]) -> str | None:
    """The ResNet whose blocks the keys name, or None."""
    names = list(keys)
    found = [m for m in map(_BLOCK.fullmatch, names) if m]
    depths = tuple(
        len({m.group(2) for m in found if m.group(1) == str(stage)}) for stage in (1, 2, 3, 4)
    )
    block = "Bottleneck" if any(".conv3." in key for key in names) else "BasicBlock"
    return next((arch for arch, known in RESNETS.items() if known == (block, depths)), None)
