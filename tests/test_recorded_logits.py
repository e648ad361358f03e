"""Networks with binary activations, against what the authors' code computed from the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import bitexport
from bitexport import ExportOptions
from bitexport.comparison import relative_l2


@pytest.mark.parametrize(
    ("fixture", "family", "arch", "size", "binary_layers"),
    [
        ("bireal_1111", "bireal", "birealnet-1-1-1-1", 64, 4),
        ("react_1111", "reactnet", "reactnet-1-1-1-1", 64, 4),
        ("siman_resnet20", "siman", "resnet20", 32, 18),
        ("rbnn_resnet20", "rbnn", "resnet20", 32, 18),
    ],
)
def test_recorded_logits(
    fixture: str,
    family: str,
    arch: str,
    size: int,
    binary_layers: int,
    shared: Path,
    tmp_path: Path,
) -> None:
    folder = shared / "fixtures" / fixture
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with np.load(folder / "io.npz") as recorded:
        inputs, want = recorded["input"], recorded["logits"]
    model = bitexport.load(folder / "checkpoint.pth.tar")
    assert (model.family, model.arch, model.binary_activations) == (family, arch, True)
    with torch.inference_mode():
        assert relative_l2(model.module(torch.from_numpy(inputs)).numpy(), want) <= 1e-5
    report = bitexport.export(
        folder / "checkpoint.pth.tar",
        path=tmp_path / "model.onnx",
        options=ExportOptions(input_size=(size, size)),
    )
    logits = onnxruntime.InferenceSession(report.output).run(None, {"input": inputs})[0]
    assert relative_l2(logits, want) <= 1e-3
    assert np.array_equal(logits.argmax(axis=1), want.argmax(axis=1))
    assert sum(layer.op.startswith("BinaryConv") for layer in report.layers) == binary_layers
