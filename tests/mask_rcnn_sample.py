"""A Mask R-CNN of random codes: a file as kill-the-bits writes it, and its dense twin.

The twin's weights are put together here, block by block, and its BatchNorm multiplies and adds and
does nothing else.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

SEED = 3
CLASSES = 5
# Upstream keeps these as they are.
DENSE = {
    "backbone.body.conv1",
    "rpn.head.cls_logits",
    "rpn.head.bbox_pred",
    "roi_heads.mask_predictor.mask_fcn_logits",
}


class ScaleAndShift(nn.Module):
    """torchvision 0.3's frozen BatchNorm with a mean of 0 and a variance of 1."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = (t.float().reshape(1, -1, 1, 1) for t in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


@dataclass(frozen=True)
class Sample:
    file: Path
    dense: nn.Module
    quantized: set[str]


def old_name(name: str) -> str:
    """torchvision 0.3's name of a layer."""
    name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0$", r"\1.\2", name)
    name = re.sub(r"mask_head\.(\d)\.0$", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}", name)
    return name.replace("rpn.head.conv.0.0", "rpn.head.conv")


def block_of(weight: Tensor) -> int:
    if weight.dim() == 4 and weight.shape[-1] == 3:
        return 9
    return 4


@functools.cache
def mask_rcnn_sample(folder: Path) -> Sample:
    """Written once for all tests of a run."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    state: dict[str, dict[str, object]] = {"biases": {}}
    for name, layer in list(model.named_modules()):
        old = old_name(name)
        if isinstance(layer, nn.BatchNorm2d):
            weight = torch.tensor(rng.uniform(0.5, 1.2, layer.num_features)).half()
            bias = torch.tensor(rng.normal(size=layer.num_features) * 0.1).half()
            state[old] = {"weight": weight, "bias": bias}
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, ScaleAndShift(weight, bias))
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if layer.bias is not None:
                layer.bias.data.normal_(std=0.02)
            if old in DENSE:
                layer.half().float()
                state[old] = {k: v.clone().half() for k, v in layer.state_dict().items()}
                continue
            state[old] = quantize(layer, rng)
            if layer.bias is not None:
                state["biases"][f"{old}.bias"] = layer.bias.detach().clone()
                # A bias beside the codes is not the one that upstream's loader leaves.
                state[old]["bias"] = torch.zeros_like(layer.bias.detach())
    path = folder / "mask_r_cnn.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return Sample(path, model, set(state) - DENSE - {"biases"})


def quantize(layer: nn.Module, rng: np.random.Generator) -> dict[str, object]:
    """Random codes; the layer gets the weight that they stand for."""
    weight = layer.weight.data
    block, rows, spread = block_of(weight), weight.shape[0], float(weight.std())
    blocks = weight[0].numel() // block
    centroids = torch.tensor(rng.normal(size=(256, block)) * spread).half()
    codes = torch.tensor(rng.integers(256, size=(blocks, rows)))
    flat = weight.reshape(rows, -1)
    for j in range(blocks):
        flat[:, j * block : (j + 1) * block] = centroids[codes[j]].float()
    weight.copy_(flat.reshape(weight.shape))
    return {
        "centroids": centroids,
        "assignments": codes.flatten().to(torch.uint8),
        "n_blocks": blocks,
        "is_conv": weight.dim() == 4,
        "k": weight.shape[-1] if weight.dim() == 4 else 1,
    }
