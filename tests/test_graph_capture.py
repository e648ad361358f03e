"""Every quantized layer of a network becomes an op of ours, wherever it stands."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

import bitexport
from bitexport.layers import BinaryConv2d, CodebookLinear, SignConv2d

SHAPE = (3, 8, 8)


class Shared(nn.Module):
    """One layer under three names, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = BinaryConv2d(8, 8, 3, padding=1)
        self.second = self.first
        self.third = nn.Sequential(nn.BatchNorm2d(8), self.first)
        # A sum of exactly 0 has no sign to agree on.
        nn.init.normal_(self.third[0].bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.third[0](self.first(self.stem(x)))
        return self.third(self.second(y)).mean((2, 3))


def op_types(module: nn.Module, path) -> list[str]:
    report = bitexport.export(module, torch.zeros(1, *SHAPE), path)
    assert report.verify is not None and report.verify.ok
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "bitexport"]


@pytest.mark.parametrize("layer", [SignConv2d, BinaryConv2d])
def test_a_network_of_one_layer(layer, tmp_path):
    torch.manual_seed(0)
    assert op_types(layer(3, 4, 3), tmp_path / "m.onnx") == [layer.__name__.removesuffix("2d")]


def test_a_layer_of_several_names(tmp_path):
    torch.manual_seed(1)
    assert op_types(Shared(), tmp_path / "m.onnx") == ["BinaryConv"] * 3


class Known(nn.Module):
    """A layer that is known as a whole, with another one that is known inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Sequential(SignConv2d(3, 4, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_known_layer_inside_a_known_layer_goes_with_it(tmp_path):
    def to_spec(layer: Known):
        return bitexport.layers.spec_of(layer.inner[0][0])

    bitexport.register_layer(Known, to_spec)
    torch.manual_seed(2)
    codes = torch.randint(0, 4, (5, 4))
    head = CodebookLinear(codes, torch.randn(4, 1).half(), (5, 4))
    pooled = nn.Sequential(Known(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    assert op_types(pooled, tmp_path / "m.onnx") == ["SignConv", "CodebookGemm"]
