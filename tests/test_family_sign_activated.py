"""Bi-Real Net and ReActNet: recorded logits, and a restatement where there is no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sign_activated_reference import (
    SEED,
    State,
    bottleneck,
    bottleneck_state,
    mobile,
    mobile_state,
    resnet,
    resnet_state,
)

import bitexport
from bitexport import ExportOptions, LoadOptions
from bitexport.comparison import relative_l2

MOBILE = (8, 16, 32, 32, 64)


@dataclass(frozen=True)
class Network:
    state: Callable[[], State]
    restated: Callable[[State, torch.Tensor], torch.Tensor]
    family: str
    arch: str
    options: LoadOptions = field(default_factory=LoadOptions)
    binary_layers: int = 0


NETWORKS = {
    "Bi-Real, flat weights": Network(
        lambda: resnet_state((1, 2, 1, 1)),
        lambda s, x: resnet(s, x, (1, 2, 1, 1)),
        "bireal",
        "birealnet-1-2-1-1",
        binary_layers=5,
    ),
    "Bi-Real 18": Network(
        lambda: resnet_state((4, 4, 4, 4), width=8),
        lambda s, x: resnet(s, x, (4, 4, 4, 4), width=8),
        "bireal",
        "birealnet18",
        binary_layers=16,
    ),
    "Bi-Real 50's bottlenecks": Network(
        lambda: bottleneck_state((2, 1, 2, 1)),
        lambda s, x: bottleneck(s, x, (2, 1, 2, 1)),
        "bireal",
        "birealnet50-2-1-2-1",
        binary_layers=17,
    ),
    "ReAct ResNet": Network(
        lambda: resnet_state((2, 1, 1, 1), react=True, flat=False),
        lambda s, x: resnet(s, x, (2, 1, 1, 1), react=True),
        "reactnet",
        "reactnet-2-1-1-1",
        binary_layers=5,
    ),
    "ReAct ResNet, step 1": Network(
        lambda: resnet_state((1, 1, 1, 1), react=True, flat=False),
        lambda s, x: resnet(s, x, (1, 1, 1, 1), react=True, real_weights=True),
        "reactnet",
        "reactnet-1-1-1-1",
        LoadOptions(weights="float"),
    ),
    "ReActNet-A": Network(
        lambda: mobile_state(MOBILE),
        lambda s, x: mobile(s, x, MOBILE),
        "reactnet",
        "reactnet-mobilenet",
        binary_layers=8,
    ),
    "ReActNet-A, step 1": Network(
        lambda: mobile_state(MOBILE, flat=False),
        lambda s, x: mobile(s, x, MOBILE, real_weights=True),
        "reactnet",
        "reactnet-mobilenet",
    ),
}


def images() -> torch.Tensor:
    return torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(SEED))


def save(state: State, path: Path) -> Path:
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_loads_and_exports_as_restated(network: Network, tmp_path: Path) -> None:
    state = network.state()
    path = save(state, tmp_path / "checkpoint.pth.tar")
    want = network.restated(state, images()).numpy()
    model = bitexport.load(path, network.options)
    assert (model.family, model.arch) == (network.family, network.arch)
    with torch.inference_mode():
        assert relative_l2(model.module(images()).numpy(), want) <= 1e-5
    output = tmp_path / "model.onnx"
    options = ExportOptions(load=network.options, input_size=(64, 64))
    report = bitexport.export(path, path=output, options=options)
    ops = [layer.op for layer in report.layers]
    assert sum(op.startswith("BinaryConv") for op in ops) == network.binary_layers
    assert set(report.dense_reasons) == {layer.name for layer in report.layers if layer.dense}
    logits = onnxruntime.InferenceSession(output).run(None, {"input": images().numpy()})[0]
    close = [relative_l2(a, b) <= 1e-3 for a, b in zip(logits, want, strict=True)]
    assert np.mean(close) >= 0.8


def test_the_restatement_notices_a_missing_shortcut() -> None:
    state = resnet_state((1, 1, 1, 1))
    right = resnet(state, images(), (1, 1, 1, 1)).numpy()
    wrong = resnet(state, images(), (1, 1, 1, 1), shortcut=False).numpy()
    assert relative_l2(wrong, right) > 0.1


def test_residuals_shifts_and_activations_are_fused(tmp_path: Path) -> None:
    state = resnet_state((1, 1, 1, 1), react=True, flat=False)
    path = save(state, tmp_path / "checkpoint.pth.tar")
    options = ExportOptions(input_size=(64, 64))
    report = bitexport.export(path, path=tmp_path / "model.onnx", options=options)
    assert [layer.op for layer in report.layers].count("BinaryConvAddPRelu") == 4
    for rule in ("fold-channel-shift", "fuse-activation"):
        records = [r for r in report.records if r.rule == rule]
        assert len(records) == 4
        assert all(record.applied for record in records)


DAMAGES = {
    "missing BatchNorm": (lambda s: s.pop("layer2.0.bn1.weight"), "lacks"),
    "flat weight too short": (
        lambda s: s.update({"layer1.0.binary_conv.weights": torch.ones(5, 1)}),
        "wrong shape",
    ),
    "NaN": (lambda s: s["layer1.0.binary_conv.weights"].fill_(torch.nan), "not finite"),
    "head without dimensions": (lambda s: s.update({"fc.weight": torch.ones(())}), "wrong shape"),
    "stem of two dimensions": (
        lambda s: s.update({"conv1.weight": torch.ones(3, 3)}),
        "wrong shape",
    ),
}


@pytest.mark.parametrize(("change", "match"), DAMAGES.values(), ids=DAMAGES)
def test_refuses_a_damaged_state(
    change: Callable[[State], object], match: str, tmp_path: Path
) -> None:
    state = resnet_state((1, 1, 1, 1))
    change(state)
    with pytest.raises(bitexport.BitexportError, match=match) as caught:
        bitexport.load(save(state, tmp_path / "checkpoint.pth.tar"))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "options", [LoadOptions(arch="birealnet-1-1-1-0"), LoadOptions(activations="float")]
)
def test_refuses_what_the_family_is_not(options: LoadOptions, tmp_path: Path) -> None:
    path = save(resnet_state((1, 1, 1, 1)), tmp_path / "checkpoint.pth.tar")
    with pytest.raises(bitexport.BitexportError) as caught:
        bitexport.load(path, options)
    assert caught.value.exit_code == 4
