"""Channels, groups, strides, image sizes and batches that are no round numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bitexport
from bitexport.graph.read import read_onnx
from bitexport.layers import BinaryConv2d, CodebookConv2d, SignConv2d
from bitexport.runtimes import runtime_named

SEED = 17
RUNTIMES = ("ort", "ort-native")


def eighths(*shape: int) -> torch.Tensor:
    """Numbers whose products and sums are exact, so that no rounding decides a sign."""
    return torch.randint(-16, 17, shape) / 8


def binary(ci: int, co: int, kernel, **conv) -> nn.Module:
    norm = nn.BatchNorm2d(ci)
    norm.running_mean.fill_(1 / 128)  # between two sums of the stem
    return nn.Sequential(norm, BinaryConv2d(ci, co, kernel, **conv))


def codebook(ci: int, co: int, kernel: int, **conv) -> nn.Module:
    shape = (co, ci // conv.get("groups", 1), kernel, kernel)
    codes = torch.randint(7, (co, shape[1]))
    return CodebookConv2d(codes, torch.randn(7, kernel * kernel).half(), shape, **conv)


LAYERS = {
    "binary 1x1": lambda: binary(33, 31, 1),
    "binary 1x1 stride 2": lambda: binary(33, 31, 1, stride=2),
    "binary 3x3 stride 2": lambda: binary(33, 40, 3, stride=2, padding=1),
    "binary 3x5 stride 2x1": lambda: binary(33, 8, (3, 5), stride=(2, 1), padding=(0, 2)),
    "binary 5x5 dilated": lambda: binary(33, 9, 5, dilation=2, padding=4),
    "binary grouped": lambda: binary(33, 6, 3, groups=3, padding=1),
    "binary depthwise": lambda: binary(33, 33, 3, groups=33, padding=1, stride=2),
    "sign grouped": lambda: SignConv2d(33, 12, 3, groups=3, padding=1),
    "sign 1x1 stride 2": lambda: SignConv2d(33, 31, 1, stride=2),
    "codebook grouped": lambda: codebook(33, 6, 3, groups=3, stride=2, padding=1),
    "codebook 1x1": lambda: codebook(33, 5, 1),
}


class Between(nn.Module):
    """A layer of 33 channels between a dense stem and a head that sees every pixel."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 33, 1, bias=False)
        self.stem.weight.data = eighths(33, 3, 1, 1)
        self.layer = layer

    def forward(self, x):
        y = self.layer(self.stem(x))
        return torch.cat([y.mean((2, 3)), y.amax((2, 3)), y.flatten(2).std(2)], 1)


@pytest.mark.parametrize("size", [(11, 9), (14, 27)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_exports_exactly(tmp_path, name, size):
    torch.manual_seed(SEED)
    model = Between(LAYERS[name]()).eval()
    bitexport.export(model, torch.zeros(1, 3, *size), tmp_path / "m.onnx")
    _, data = read_onnx(tmp_path / "m.onnx")
    for runtime in map(runtime_named, RUNTIMES):
        if not runtime.availability().ok:
            continue
        runner = runtime.load(data)
        for batch in (1, 3, 65):
            images = eighths(batch, 3, *size)
            got = runner.run({"input": images.numpy()})["logits"]
            with torch.no_grad():
                want = model(images).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
