"""kill-the-bits' whole Mask R-CNN, from the same file as its backbone.

The reference is torchvision's own detector with dense weights, which knows nothing of codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from command_line import run
from mask_rcnn_sample import DENSE, Sample, mask_rcnn_sample, old_name
from torch import Tensor, nn

import bitexport
from bitexport.comparison import Tolerance, compare_detections
from bitexport.export_options import ExportOptions
from bitexport.layers import CodebookConvTranspose2d
from bitexport.models.mask_rcnn import SCORE_THRESHOLD

NAMES = ("boxes", "labels", "scores", "masks")
TOLERANCE = Tolerance.for_model(binary_activations=False, float16=False)
# torchvision neither enlarges nor shrinks such an image, and it is small.
SIZE = "32x1333"
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Detector:
    path: Path
    report: dict[str, Any]
    session: onnxruntime.InferenceSession

    def detect(self, image: Tensor, threshold: float) -> Arrays:
        given = {"input": image.numpy(), "score_threshold": np.array(threshold, np.float32)}
        return dict(zip(NAMES, self.session.run(list(NAMES), given), strict=True))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return mask_rcnn_sample(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def detector(sample: Sample) -> Detector:
    """Exported with nothing but the file's name, and an image that takes less time."""
    path = sample.file.with_name("detector.onnx")
    outcome = run("onnx", sample.file, "-o", path, "--input-size", SIZE, "--json")
    assert outcome.code == 0 and "error" not in outcome.err, outcome.err
    return Detector(path, outcome.json, onnxruntime.InferenceSession(path))


def test_a_checkpoint_is_exported_as_a_whole(detector: Detector) -> None:
    report, verified = detector.report, detector.report["verify"]
    assert (report["family"], report["arch"]) == ("kill-the-bits", "maskrcnn_resnet50_fpn")
    assert verified["ok"] and verified["rel_l2"] <= 1e-4 and verified["samples"] >= 10
    assert tuple(output.name for output in detector.session.get_outputs()) == NAMES
    (image,) = detector.session.get_inputs()
    assert (image.name, image.shape) == ("input", [1, 3, "height", "width"])


def test_torchvision_detects_the_same(sample: Sample, detector: Detector) -> None:
    """In an upright image, of another size, which is enlarged first."""
    torch.manual_seed(0)
    size, threshold = (700, 40), 0.22
    image = torch.rand(1, 3, *size)
    sample.dense.roi_heads.score_thresh = threshold
    with torch.inference_mode():
        (want,) = sample.dense([image[0]])
    got = detector.detect(image, threshold)
    assert len(want["scores"]) >= 10
    assert got["masks"].shape[1:] == (1, *size)
    comparison = compare_detections(got, {k: want[k].numpy() for k in NAMES}, TOLERANCE)
    assert comparison.ok and comparison.rel_l2 <= 1e-4, comparison


def test_it_is_as_small_as_its_codes(sample: Sample, detector: Detector) -> None:
    layers = {row["name"]: row for row in detector.report["layers"]}
    assert {old_name(name) for name in layers} == DENSE | sample.quantized - batch_norms(sample)
    assert {old_name(n) for n, row in layers.items() if row["dense_reason"]} == DENSE
    assert all(layers[name]["bits_per_weight"] == 16 for name in layers if old_name(name) in DENSE)
    assert layers["roi_heads.box_head.fc6"]["bits_per_weight"] < 2.01
    assert layers["roi_heads.mask_predictor.conv5_mask"]["weights"] == 256 * 256 * 2 * 2
    assert detector.path.stat().st_size <= 1.03 * sample.file.stat().st_size


def batch_norms(sample: Sample) -> set[str]:
    return {name for name in sample.quantized if ".bn" in name or name.endswith("downsample.1")}


def test_the_file_is_sound_and_has_its_threshold(detector: Detector) -> None:
    model = onnx.load(detector.path)
    onnx.checker.check_model(model)
    names = [node.name for node in model.graph.node if node.name]
    assert len(set(names)) == len(names)
    (threshold,) = detector.session.get_overridable_initializers()
    assert threshold.name == "score_threshold"
    (default,) = [t for t in model.graph.initializer if t.name == "score_threshold"]
    assert onnx.numpy_helper.to_array(default) == np.float32(SCORE_THRESHOLD)


def test_verify_reads_the_file_and_finds_a_wrong_one(sample: Sample, detector: Detector) -> None:
    inputs = sample.file.with_name("image.npz")
    np.savez(inputs, input=np.random.default_rng(1).random((1, 3, 1333, 32), dtype=np.float32))
    outcome = run("verify", detector.path, sample.file, "--inputs", inputs, "--json")
    assert outcome.code == 0 and outcome.json["rel_l2"] <= 1e-4, outcome.err
    model = onnx.load(detector.path)
    (layer,) = [n for n in model.graph.node if n.name == "backbone.body.layer4.2.conv3"]
    (scale,) = [t for t in model.graph.initializer if t.name == layer.input[3]]
    scale.raw_data = (np.float32(1.05) * onnx.numpy_helper.to_array(scale)).tobytes()
    wrong = detector.path.with_name("wrong.onnx")
    onnx.save(model, wrong)
    outcome = run("verify", wrong, sample.file, "--inputs", inputs)
    assert outcome.code == 3 and "first at 'backbone.body.layer4.2" in outcome.err


def test_inspect_shows_the_bytes_and_why_layers_are_dense(detector: Detector) -> None:
    outcome = run("inspect", detector.path)
    assert "mask_fcn_logits stayed dense: the checkpoint holds" in outcome.out
    assert "work of 74 layers that depends on the image" in outcome.out
    record = run("inspect", detector.path, "--json").json
    assert len(record["layers"]) == 74
    assert sum(kind["bytes"] for kind in record["kinds"]) == detector.path.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("trt", "-o", "model.engine"), 4, "--arch maskrcnn_resnet50_fpn_backbone"),
        (("bench",), 2, "not an image classifier"),
        (("triton", "-o", "repository"), 2, "not an image classifier"),
    ],
)
def test_what_takes_classifiers_only_says_so(
    detector: Detector,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(arguments[0], detector.path, *arguments[1:])
    assert outcome.code == code and reason in outcome.err
    assert outcome.err.count("\n") == 1 and not [*tmp_path.iterdir()]


def test_rounded_dense_weights_move_detections_a_little(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "rounded.onnx"
    outcome = run(
        "onnx", sample.file, "-o", path, "--input-size", SIZE, "--dense-weights", "int8", "--json"
    )  # fmt: skip
    assert outcome.code == 0 and outcome.json["verify"]["ok"], outcome.err
    bits = {x["name"]: x["bits_per_weight"] for x in outcome.json["layers"] if x["dense_reason"]}
    assert len(bits) == 4 and set(bits.values()) == {8}
    # Those found again are the same things, not just of the same label.
    rounding = outcome.json["rounding"]
    assert rounding["samples"] >= 10 and rounding["top1_agreement"] > 0.5
    assert 1e-4 < rounding["rel_l2"] < 0.1


def test_float16_is_refused(sample: Sample, tmp_path: Path) -> None:
    outcome = run("onnx", sample.file, "-o", tmp_path / "half.onnx", "--fp16")
    assert outcome.code == 4 and "cannot be computed in float16" in outcome.err


@pytest.mark.parametrize("block", [1, 2, 4, 8, 24])
def test_a_transposed_convolution_is_its_parts(block: int) -> None:
    """For any block size: within a kernel, a kernel, and over several output channels."""
    layer = transposed(block)
    spec = bitexport.layers.spec_of(layer)
    x = torch.randn(3, 5, 4, 7)
    parts = [
        F.conv2d(x, torch.from_numpy(p.weight()).float(), torch.from_numpy(p.bias))
        for p in spec.parts()
    ]
    y = torch.cat(parts, 1)[:, torch.from_numpy(spec.depth_order())]
    pixels = y.reshape(3, 2, 2, 6, 4, 7).permute(0, 3, 4, 1, 5, 2).reshape(3, 6, 8, 14)
    torch.testing.assert_close(pixels, layer(x))


def transposed(block: int) -> CodebookConvTranspose2d:
    torch.manual_seed(block)
    codes, codebook = torch.randint(9, (5, 24 // block)), torch.randn(9, block).half()
    return CodebookConvTranspose2d(codes, codebook, (5, 6, 2, 2), torch.randn(6), stride=2)


def test_ones_own_network_may_have_a_transposed_convolution(tmp_path: Path) -> None:
    network = nn.Sequential(transposed(8), nn.BatchNorm2d(6), nn.ReLU(), transposed_overlapping())
    report = bitexport.export(
        network, torch.randn(1, 5, 6, 8), tmp_path / "model.onnx", options=ExportOptions()
    )
    assert report.verify is not None and report.verify.ok
    (layer,) = report.layers
    assert (layer.op, layer.weights) == ("CodebookConv", 5 * 6 * 4)


def transposed_overlapping() -> CodebookConvTranspose2d:
    """No op computes it: it stays dense."""
    codes, codebook = torch.randint(9, (6, 4)), torch.randn(9, 9).half()
    layer = CodebookConvTranspose2d(codes, codebook, (6, 4, 3, 3), stride=2)
    assert bitexport.layers.spec_of(layer) is None
    return layer
