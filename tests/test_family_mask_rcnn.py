"""kill-the-bits' Mask R-CNN: a file as upstream writes it, and its dense twin in torchvision.

The file has random codes. Its reference is torchvision's own detector with the weights put
together here, block by block, and a BatchNorm that multiplies and adds and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import run
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

import bitexport
from bitexport.comparison import Tolerance, compare_outputs, relative_l2
from bitexport.errors import InputError

SEED = 3
CLASSES = 5
# Upstream keeps these as they are.
DENSE = {
    "backbone.body.conv1",
    "rpn.head.cls_logits",
    "rpn.head.bbox_pred",
    "roi_heads.mask_predictor.mask_fcn_logits",
}
BACKBONE = "maskrcnn_resnet50_fpn_backbone"
MAPS = ("0", "1", "2", "3", "pool")


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


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
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
    path = tmp_path_factory.mktemp("mask") / "mask_r_cnn.pth"
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


def bytes_of_part(path: Path, prefix: str) -> int:
    """Size of upstream's file with the layers below ``prefix`` only."""
    state = torch.load(path, weights_only=True)
    part = {k: v for k, v in state.items() if k.startswith(prefix)}
    part["biases"] = {k: v for k, v in state["biases"].items() if k.startswith(prefix)}
    file = path.with_name("part.pth")
    torch.save(part, file, _use_new_zipfile_serialization=False)
    return file.stat().st_size


@pytest.fixture(scope="module")
def backbone(sample: Sample) -> tuple[Path, dict]:
    output = sample.file.with_name("backbone.onnx")
    options = ("--arch", BACKBONE, "--input-size", "96x128", "--json")
    outcome = run("onnx", sample.file, "-o", output, *options)
    assert outcome.code == 0, outcome.err
    return output, outcome.json


def test_the_backbone_is_exact(sample: Sample, backbone: tuple[Path, dict]) -> None:
    path, report = backbone
    assert (report["family"], report["arch"]) == ("kill-the-bits", BACKBONE)
    assert report["verify"]["ok"] and report["verify"]["rel_l2"] <= 1e-4
    session = onnxruntime.InferenceSession(path)
    assert tuple(output.name for output in session.get_outputs()) == MAPS
    x = torch.randn(3, 3, 96, 128)
    with torch.inference_mode():
        want = sample.dense.backbone(x)
    got = session.run(list(MAPS), {"input": x.numpy()})
    for name, value in zip(MAPS, got, strict=True):
        assert relative_l2(value, want[name].numpy()) <= 1e-5, name


def test_the_backbone_is_as_small_as_its_codes(sample: Sample, backbone: tuple[Path, dict]) -> None:
    path, report = backbone
    layers = {row["name"]: row for row in report["layers"]}
    quantized = {name for name in sample.quantized if name in map(old_name, layers)}
    assert len(quantized) == len(layers) - 1 == 60
    assert [name for name, row in layers.items() if row["dense_reason"]] == ["backbone.body.conv1"]
    assert path.stat().st_size <= 1.03 * bytes_of_part(sample.file, "backbone")


def test_the_backbone_verifies_and_shows_its_layers(
    sample: Sample, backbone: tuple[Path, dict]
) -> None:
    path, _ = backbone
    outcome = run("verify", path, sample.file, "--json")
    assert outcome.code == 0 and outcome.json["rel_l2"] <= 1e-4
    names = {row["name"] for row in run("inspect", path, "--json").json["layers"]}
    assert {"backbone.fpn.inner_blocks.0.0", "backbone.body.layer4.2.conv3"} <= names


@pytest.mark.parametrize("spoilt", [1.01, float("nan")])
def test_the_worst_feature_map_counts(spoilt: float) -> None:
    expected = {name: np.ones((1, 2, 3, 3), np.float32) for name in MAPS}
    got = expected | {"2": expected["2"] * np.float32(spoilt)}
    tolerance = Tolerance.for_model(binary_activations=False, float16=False)
    assert compare_outputs(expected, expected, tolerance).ok
    worst = compare_outputs(got, expected, tolerance)
    assert not worst.ok and not worst.rel_l2 < 0.009


def test_a_missing_feature_map_is_an_error() -> None:
    maps = {name: np.ones((1, 2, 3, 3), np.float32) for name in MAPS}
    tolerance = Tolerance.for_model(binary_activations=False, float16=False)
    with pytest.raises(InputError, match="outputs cannot be compared"):
        compare_outputs({"0": maps["0"]}, maps, tolerance)


def test_packing_is_refused(sample: Sample, tmp_path: Path) -> None:
    outcome = run("pack", sample.file, "-o", tmp_path / "packed.pth")
    assert outcome.code == 4 and "packed already" in outcome.err


def test_the_loaded_layers_have_upstreams_names(sample: Sample) -> None:
    names = dict(bitexport.load(sample.file).module.named_modules())
    assert type(names["backbone.fpn.layer_blocks.3.0"]).__name__ == "CodebookConv2d"
