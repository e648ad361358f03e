"""Checkpoints that the authors' own code wrote, against the logits that it computed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

import bitexport
from bitexport import ExportOptions, ExportReport
from bitexport.comparison import relative_l2
from bitexport.runtimes import EngineOptions
from bitexport.runtimes.tensorrt_rtx import TensorRTRTX


@dataclass(frozen=True)
class Case:
    checkpoint: str
    recorded: str
    logits: str
    family: str
    arch: str
    ops: dict[str, int]
    rel_l2: float
    # Largest size of the .onnx as a multiple of the upstream file; None where upstream's is
    # float32 and the ratio says nothing.
    size_ratio: float | None


KTB = {"CodebookConv": 19, "CodebookGemm": 1}
CASES = {
    "kill-the-bits small blocks": Case(
        "checkpoints/resnet18_small_blocks.pth",
        "fixtures/ktb/ktb_resnet18_io.npz",
        "logits_small_blocks",
        "kill-the-bits",
        "resnet18",
        KTB,
        1e-4,
        1.03,
    ),
    "kill-the-bits large blocks": Case(
        "checkpoints/resnet18_large_blocks.pth",
        "fixtures/ktb/ktb_resnet18_io.npz",
        "logits_large_blocks",
        "kill-the-bits",
        "resnet18",
        KTB,
        1e-4,
        1.03,
    ),
    "1-bit WRN": Case(
        "fixtures/wrn20_1_bin/checkpoint.pth.tar",
        "fixtures/wrn20_1_bin/io.npz",
        "logits",
        "wide-resnet",
        "wrn-20-1",
        {"SignConv": 18},
        1e-5,
        None,
    ),
    "packed 1-bit WRN": Case(
        "fixtures/wrn20_1_bin_packed/wrn20-1-1bit-packed.pth.tar",
        "fixtures/wrn20_1_bin_packed/io.npz",
        "logits",
        "wide-resnet",
        "wrn-20-1",
        {"SignConv": 18},
        1e-5,
        1.25,
    ),
    "1-bit WRN with zero weights": Case(
        "fixtures/wrn20_1_bin_zeros/checkpoint.pth.tar",
        "fixtures/wrn20_1_bin_zeros/io.npz",
        "logits",
        "wide-resnet",
        "wrn-20-1",
        {"SignConv": 36},
        1e-5,
        None,
    ),
}


@dataclass(frozen=True)
class Exported:
    case: Case
    report: ExportReport
    path: Path
    images: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def exported(request, shared, tmp_path_factory) -> Exported:
    case: Case = request.param
    path = tmp_path_factory.mktemp("real") / "model.onnx"
    report = bitexport.export(shared / case.checkpoint, path=path)
    with np.load(shared / case.recorded) as recorded:
        return Exported(case, report, path, recorded["input"], recorded[case.logits])


def test_torch_reference_gives_the_recorded_logits(exported, shared):
    model = bitexport.load(shared / exported.case.checkpoint)
    with torch.inference_mode():
        logits = model.module(torch.from_numpy(exported.images)).numpy()
    assert relative_l2(logits, exported.logits) <= 1e-6


def test_stock_onnx_runtime_gives_the_recorded_logits(exported):
    session = onnxruntime.InferenceSession(exported.path)
    logits = session.run(None, {"input": exported.images})[0]
    assert relative_l2(logits, exported.logits) <= exported.case.rel_l2
    top5 = np.argsort(-logits, axis=1)[:, :5]
    assert np.array_equal(top5, np.argsort(-exported.logits, axis=1)[:, :5])
    one_by_one = [session.run(None, {"input": x[None]})[0][0] for x in exported.images]
    np.testing.assert_allclose(one_by_one, logits, rtol=1e-3, atol=1e-4)


def test_reference_evaluator_gives_the_recorded_logits(exported):
    evaluator = ReferenceEvaluator(onnx.load(exported.path))
    logits = evaluator.run(None, {"input": exported.images[:2]})[0]
    assert relative_l2(logits, exported.logits[:2]) <= exported.case.rel_l2


def test_file_is_sound_detected_and_small(exported, shared):
    model = onnx.load(exported.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    ops = Counter(node.op_type for node in model.graph.node if node.domain == "bitexport")
    assert dict(ops) == exported.case.ops
    assert {function.name for function in model.functions} == set(ops)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert (exported.report.family, exported.report.arch) == (
        exported.case.family,
        exported.case.arch,
    )
    assert exported.path.stat().st_size == exported.report.bytes
    if exported.case.size_ratio is not None:
        upstream = (shared / exported.case.checkpoint).stat().st_size
        assert exported.report.bytes <= exported.case.size_ratio * upstream


@pytest.mark.rtx
@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tensorrt_rtx_builds_an_engine(case, float16, shared, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    path = tmp_path / "model.onnx"
    options = ExportOptions(float16=float16, verify=False)
    report = bitexport.export(shared / case.checkpoint, path=path, options=options)
    engine = TensorRTRTX().build(path.read_bytes(), EngineOptions(1, 2, 4))
    # Engines hold codes and words as they are in the file, and a few KiB a layer.
    # 1.4 takes 1 % more for the largest network than 1.7.
    older = tuple(map(int, TensorRTRTX().version().split(".")[:2])) < (1, 7)
    assert len(engine.data) < report.bytes + (6.6e6 if older else 6.5e6)


def test_float16_keeps_the_predictions(shared, tmp_path):
    case = CASES["kill-the-bits small blocks"]
    path = tmp_path / "model.onnx"
    bitexport.export(shared / case.checkpoint, path=path, options=ExportOptions(float16=True))
    with np.load(shared / case.recorded) as recorded:
        images, want = recorded["input"], recorded[case.logits]
    logits = onnxruntime.InferenceSession(path).run(None, {"input": images})[0]
    assert relative_l2(logits, want) <= 2e-3
    assert np.array_equal(logits.argmax(axis=1), want.argmax(axis=1))


@pytest.mark.parametrize("policy", ["plus-one", "refuse"])
def test_zero_weight_policies(policy, shared, tmp_path):
    checkpoint = shared / "fixtures/wrn20_1_bin_zeros/checkpoint.pth.tar"
    path, options = tmp_path / "model.onnx", ExportOptions(zero_weights=policy)
    if policy == "refuse":
        with pytest.raises(bitexport.BitexportError, match="exactly 0") as caught:
            bitexport.export(checkpoint, path=path, options=options)
        assert caught.value.exit_code == 4
        assert not path.exists()
        return
    report = bitexport.export(checkpoint, path=path, options=options)
    assert sum(report.zero_weights.values()) == 5793
    assert not report.verify.ok
    assert report.verify.max_abs_diff > 0.1
