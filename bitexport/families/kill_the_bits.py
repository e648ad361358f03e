"""kill-the-bits: ResNets and Mask R-CNN whose weights are a codebook and codes.

Stock et al., "And the Bit Goes Down", ICLR 2020; upstream facebookresearch/kill-the-bits,
``src/inference.py``. Each quantized layer holds ``centroids`` float16 [K, d], ``assignments``
[blocks * Co] with the output channel running fastest, ``n_blocks``, ``is_conv`` and ``k`` (the
kernel's size):

    weight.flatten(1)[co, j*d:(j+1)*d] = centroids[assignments[j * Co + co]]

BatchNorm layers carry float16 weight and bias only: running mean 0, variance 1, eps 1e-5. The
bias of ``fc`` is a key of its own, ``fc_bias``.

Mask R-CNN (the branch ``mask_r_cnn``, for torchvision 0.3) has the same records. ``biases`` is a
dict from a parameter's full name to its values, for the quantized layers; the dense ones carry
their own: ``backbone.body.conv1``, ``rpn.head.cls_logits``, ``rpn.head.bbox_pred`` and
``roi_heads.mask_predictor.mask_fcn_logits``. BatchNorm is torchvision 0.3's frozen one, without
an eps.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint, Scalar
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.codebook_layers import (
    CODES_SUFFIX,
    dense_tensors,
    quantized_layers,
    replace_layer,
)
from bitexport.families.state import assign_state
from bitexport.models.mask_rcnn import (
    DETECTION_NAMES,
    FEATURE_NAMES,
    Detector,
    FeaturePyramid,
    build_mask_rcnn,
    current_key,
)
from bitexport.models.resnet import RESNETS, build_resnet, resnet_of_keys

__all__ = ["KillTheBitsFamily"]

_DENSE_REASON = "the checkpoint holds this layer unquantized"
_IMAGENET_SHAPE = (3, 224, 224)
# A 4:3 image as torchvision's detectors resize and pad it.
_COCO_SHAPE = (3, 800, 1088)
# torchvision's detectors resize images to sides between these.
_DETECTOR_SHAPE = (3, 800, 1333)
_DETECTOR = "maskrcnn_resnet50_fpn"
_BACKBONE = "maskrcnn_resnet50_fpn_backbone"
_ARCHS = (*RESNETS, _DETECTOR, _BACKBONE)
_BIASES = "biases."
_BACKBONE_NOTE = (
    "the file holds a whole Mask R-CNN; this is its backbone with the feature pyramid, for images "
    "that are normalized and resized already"
)
_DETECTOR_MARK = "roi_heads."
_CLASS_BIAS = "roi_heads.box_predictor.cls_score.bias"
# Batch statistics are folded into weight and bias upstream; codebook layers come complete.
_MAY_MISS = ("running_mean", "running_var", ".codes", ".codebook")


class KillTheBitsFamily:
    """Product-quantized torchvision ResNets, and Mask R-CNN."""

    name = "kill-the-bits"
    title = "kill-the-bits (product quantization)"
    paper = "https://arxiv.org/abs/1907.05686"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The torchvision ResNet whose blocks the file has, or Mask R-CNN."""
        values = checkpoint.values
        if not any(key.endswith(CODES_SUFFIX) for key in values):
            return None
        if any(key.startswith(_DETECTOR_MARK) for key in values):
            return _DETECTOR
        return resnet_of_keys(values)

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network with codebook layers in place of the quantized ones."""
        _check_options(arch, options)
        if arch not in RESNETS:
            return self._build_mask_rcnn(checkpoint, arch)
        module = build_resnet(arch, _num_classes(checkpoint, _fc_bias(checkpoint)))
        _fill(module, checkpoint)
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=_IMAGENET_SHAPE,
            dense_reasons=_dense_reasons(module),
        )

    def _build_mask_rcnn(self, checkpoint: Checkpoint, arch: str) -> LoadedModel:
        checkpoint = replace(checkpoint, values=_current_values(checkpoint))
        detector = build_mask_rcnn(_num_classes(checkpoint, _CLASS_BIAS))
        _fill(detector, checkpoint)
        if arch == _DETECTOR:
            whole = Detector(detector).eval()
            return LoadedModel(
                module=whole,
                family=self.name,
                arch=arch,
                input_shape=_DETECTOR_SHAPE,
                outputs=DETECTION_NAMES,
                dense_reasons=_dense_reasons(whole),
            )
        module = FeaturePyramid(detector.backbone).eval()
        return LoadedModel(
            module=module,
            family=self.name,
            arch=arch,
            input_shape=_COCO_SHAPE,
            outputs=FEATURE_NAMES,
            dense_reasons=_dense_reasons(module),
            notes=(_BACKBONE_NOTE,),
        )


def _fill(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Put codebook layers and dense tensors where they belong, in place."""
    quantized = quantized_layers(checkpoint)
    for name in quantized:
        replace_layer(module, name, checkpoint)
    state = dense_tensors(checkpoint, quantized)
    if "fc_bias.bias" in state:
        state["fc.bias"] = state.pop("fc_bias.bias")
    assign_state(module, state, optional=_MAY_MISS)


def _current_values(checkpoint: Checkpoint) -> dict[str, Tensor | Scalar]:
    """The values of a Mask R-CNN file under today's keys, the biases beside their weights."""
    values: dict[str, Tensor | Scalar] = {}
    # Upstream applies the biases last, so they win.
    for key, value in sorted(checkpoint.values.items(), key=lambda x: x[0].startswith(_BIASES)):
        values[current_key(key.removeprefix(_BIASES))] = value
    return values


def _dense_reasons(module: nn.Module) -> dict[str, str]:
    dense = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return {n: _DENSE_REASON for n, layer in module.named_modules() if isinstance(layer, dense)}


def _fc_bias(checkpoint: Checkpoint) -> str:
    return "fc.bias" if "fc.bias" in checkpoint.values else "fc_bias.bias"


def _check_options(arch: str, options: LoadOptions) -> None:
    if arch not in _ARCHS:
        raise UnsupportedModel(
            "unknown kill-the-bits architecture",
            got=arch,
            expected=" or ".join(_ARCHS),
            fix="Correct --arch, or leave it out to have it detected.",
        )
    if "binary" in (options.weights, options.activations) or options.weights == "float":
        raise UnsupportedModel(
            "product-quantized weights are neither binary nor float",
            got=f"--weights {options.weights} --activations {options.activations}",
            expected="auto",
            fix="Leave the options out.",
        )


def _num_classes(checkpoint: Checkpoint, key: str) -> int:
    bias = checkpoint.tensor(key)
    if bias.dim() != 1:
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(bias.shape),
            expected="one dimension",
            fix="Check the file.",
        )
    return int(bias.shape[0])
