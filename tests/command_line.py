"""The real command line in a test, and small checkpoints of every kind to feed it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from bitexport.cli import main
from bitexport.models.wide_resnet import WideResNet

State = dict[str, torch.Tensor]
Layers = dict[str, dict[str, Any]]

CLASSES = 10
DIVERSE = 300  # centroids: more than a byte can count
# The weights of a WRN-8-1: [Co, Ci, kh, kw].
WRN_SHAPES = {
    "conv0": (16, 3, 3, 3),
    "group0.block0.conv0": (16, 16, 3, 3),
    "group0.block0.conv1": (16, 16, 3, 3),
    "group1.block0.conv0": (32, 16, 3, 3),
    "group1.block0.conv1": (32, 32, 3, 3),
    "group2.block0.conv0": (64, 32, 3, 3),
    "group2.block0.conv1": (64, 64, 3, 3),
    "conv_last": (10, 64, 1, 1),
}
WRN_STATISTICS = 2 * (16 * 3 + 32 * 2 + 64 * 2) + 4 * 10  # mean and variance; bn_last is affine


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @functools.cached_property
    def json(self) -> dict[str, Any]:
        """Stdout, which must be one JSON object and nothing else."""
        record = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        assert isinstance(record, dict)
        return record


def run(*arguments: str | Path) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["bitexport", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def run_process(*arguments: str | Path, cwd: Path, **environment: str) -> Outcome:
    """Run a command in a process of its own, where native code shares stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "bitexport", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


def wrn(seed: int = 0) -> WideResNet:
    """A WRN-8-1 whose BatchNorms have seen data."""
    torch.manual_seed(seed)
    module = WideResNet(8, 1, CLASSES)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                layer.weight.data.normal_()
                layer.bias.data.normal_()
    return module.eval()


@functools.cache
def _wrn_state(seed: int) -> State:
    """Under upstream's names: a convolution's weight has no ``.weight``."""
    own = wrn(seed).state_dict()
    return {k.removesuffix(".weight") if "conv" in k else k: v for k, v in own.items()}


def wrn_state(seed: int = 0) -> State:
    return {key: value.clone() for key, value in _wrn_state(seed).items()}


def packed_state(seed: int = 0) -> State:
    """As upstream's evaluate_packed.py wants it: np.packbits along the input channels."""
    return {
        key: torch.from_numpy(np.packbits(value.numpy() > 0, axis=1)) if ".conv" in key else value
        for key, value in wrn_state(seed).items()
    }


def save_wrn(path: Path, state: Mapping[str, torch.Tensor] | None = None) -> Path:
    """A training checkpoint, as DataParallel leaves it."""
    state = wrn_state() if state is None else state
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    return path


@functools.cache
def _codebook_state() -> dict[str, Any]:
    torch.manual_seed(0)
    with torch.device("meta"):
        module = resnet18(num_classes=CLASSES)
    state: dict[str, Any] = {}
    for name, layer in module.named_modules():
        if name == "conv1":
            state["conv1.weight"] = (0.1 * torch.randn(64, 3, 7, 7)).half()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            state[name] = _quantized(layer, DIVERSE if name == "layer3.1.conv2" else 16)
        elif isinstance(layer, nn.BatchNorm2d):
            channels = layer.num_features
            # As large as the shortcut's part, so that every layer matters for the logits.
            state[name] = {
                "weight": torch.randn(channels).half(),
                "bias": (0.1 * torch.randn(channels)).half(),
            }
    return {**state, "fc_bias": {"bias": torch.randn(CLASSES)}}


def _quantized(layer: nn.Conv2d | nn.Linear, centroids: int) -> dict[str, Any]:
    is_conv = isinstance(layer, nn.Conv2d)
    d = 9 if layer.weight.shape[2:].numel() == 9 else 4
    blocks = layer.weight[0].numel() // d
    deviation = layer.weight[0].numel() ** -0.5
    return {
        "centroids": (deviation * torch.randn(centroids, d)).half(),
        "assignments": torch.randint(centroids, (blocks * layer.weight.shape[0],)).to(
            torch.uint8 if centroids <= 256 else torch.int16
        ),
        "n_blocks": blocks,
        "is_conv": is_conv,
        "k": 3 if d == 9 else 1,
    }


def codebook_state() -> dict[str, Any]:
    """A ResNet-18 as kill-the-bits saves it: {layer: {centroids, assignments, ...}}."""
    return {k: dict(v) if isinstance(v, dict) else v for k, v in _codebook_state().items()}


def save_codebooks(path: Path, state: Mapping[str, Any] | None = None) -> Path:
    torch.save(dict(codebook_state() if state is None else state), path)
    return path


def logits(model: Path | bytes, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The model in stock ONNX Runtime."""
    data = model.read_bytes() if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (result,) = session.run(["logits"], {"input": images})
    return result  # type: ignore[no-any-return]


def random_images(samples: int, height: int, width: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((samples, 3, height, width), dtype=np.float32)


def relative_error(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


KINDS: dict[str, Callable[[Path], Path]] = {
    "trained": save_wrn,
    "packed": lambda path: save_wrn(path, packed_state()),
    "codebooks": save_codebooks,
}


@dataclass(frozen=True)
class Export:
    """A checkpoint and its way through the command line."""

    checkpoint: Path
    output: Path
    outcome: Outcome

    @functools.cached_property
    def layers(self) -> Layers:
        return {layer["name"]: layer for layer in self.outcome.json["layers"]}


def export_kind(folder: Path, kind: str) -> Export:
    checkpoint = KINDS[kind](folder / f"{kind}.pth.tar")
    output = folder / f"{kind}.onnx"
    arguments = [checkpoint, "-o", output, "--input-size", "32", "--json"]
    return Export(checkpoint, output, run("onnx", *arguments))
