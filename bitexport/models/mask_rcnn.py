"""torchvision's Mask R-CNN (ResNet-50-FPN), as checkpoints of torchvision 0.3 know it.

He et al., "Mask R-CNN", ICCV 2017; Lin et al., "Feature Pyramid Networks for Object Detection",
CVPR 2017. torchvision 0.3 froze BatchNorm without an eps (``FrozenBatchNorm2d``) and gave the
layers other names than today's:

    backbone.fpn.inner_blocks.0      ->  backbone.fpn.inner_blocks.0.0     (layer_blocks too)
    rpn.head.conv                    ->  rpn.head.conv.0.0
    roi_heads.mask_head.mask_fcn1    ->  roi_heads.mask_head.0.0           (1 to 4)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchvision.models.detection import MaskRCNN

__all__ = [
    "DETECTION_NAMES",
    "FEATURE_NAMES",
    "SCORE_THRESHOLD",
    "Detector",
    "FeaturePyramid",
    "build_mask_rcnn",
    "current_key",
]

# The outputs of the pyramid, finest first; "pool" is every second pixel of "3".
FEATURE_NAMES = ("0", "1", "2", "3", "pool")
# What a detector returns, the best score first.
DETECTION_NAMES = ("boxes", "labels", "scores", "masks")
# torchvision's: weaker detections are dropped.
SCORE_THRESHOLD = 0.05

_FPN_BLOCK = re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(?!0\.)")
_MASK_BLOCK = re.compile(r"roi_heads\.mask_head\.mask_fcn([1-4])\.")
_RPN_CONV = "rpn.head.conv."


class FeaturePyramid(nn.Module):
    """The backbone by itself: ResNet-50 and its feature pyramid.

    Args:
        backbone: The ``backbone`` of a Mask R-CNN; its layers keep that name.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalized images [N, 3, H, W] -> feature maps [N, 256, H/4, W/4] to [.., H/64, W/64]."""
        return tuple(self.backbone(x).values())


class Detector(nn.Module):
    """The whole Mask R-CNN, for one image.

    Resizing, proposals, the heads and non-maximum suppression are torchvision's own.

    Args:
        model: A Mask R-CNN in evaluation mode; its layers keep their names.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.transform = model.transform
        self.backbone = model.backbone
        self.rpn = model.rpn
        self.roi_heads = model.roi_heads

    def forward(
        self, x: Tensor, score_threshold: float | Tensor = SCORE_THRESHOLD
    ) -> tuple[Tensor, ...]:
        """One RGB image [1, 3, H, W] of 0 to 1 -> what it shows, D things at most 100.

        Args:
            x: The image, of any size; torchvision resizes and normalizes it.
            score_threshold: Detections of lower scores are dropped.

        Returns:
            Boxes [D, 4] as (left, top, right, bottom) in pixels of the image, labels int64 [D],
            scores [D], and masks [D, 1, H, W] of 0 to 1.
        """
        # torchvision compares with whatever is here, so that a tensor stays an input of a trace.
        self.roi_heads.score_thresh = score_threshold
        images, _ = self.transform([x[0]])
        features = self.backbone(images.tensors)
        proposals, _ = self.rpn(images, features)
        found, _ = self.roi_heads(features, proposals, images.image_sizes)
        size = (x.shape[2], x.shape[3])
        (found,) = self.transform.postprocess(found, images.image_sizes, [size])
        return tuple(found[name] for name in DETECTION_NAMES)


def build_mask_rcnn(num_classes: int) -> MaskRCNN:
    """A Mask R-CNN in evaluation mode whose BatchNorms have no eps."""
    # Here, as it takes a second that other networks need not wait for.
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # As good as none, and exact; torch 2.11 does not trace an eps of 0.
            layer.eps = torch.finfo(torch.float32).tiny
    return model.eval()


def current_key(key: str) -> str:
    """The name that today's torchvision has for a key of torchvision 0.3."""
    key = _FPN_BLOCK.sub(r"\1.0.", key)
    key = _MASK_BLOCK.sub(lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.", key)
    if key.startswith(_RPN_CONV) and not key.startswith(f"{_RPN_CONV}0."):
        key = f"{_RPN_CONV}0.0.{key.removeprefix(_RPN_CONV)}"
    return key
