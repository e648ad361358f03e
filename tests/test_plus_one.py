"""Zero weights packed as +1 excuse no other difference from the torch reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import bitexport
from bitexport import ExportOptions
from bitexport.errors import ComparisonFailure
from bitexport.layers import SignConv2d, ones_for_zeros, spec_of

PLUS_ONE = ExportOptions(zero_weights="plus-one")


class Louder(SignConv2d):
    """Its forward is not what its spec says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def network(layer: type[SignConv2d]) -> nn.Module:
    torch.manual_seed(6)
    model = nn.Sequential(layer(3, 8, 3), nn.ReLU(), SignConv2d(8, 4, 3, scale_rule="filter-mean"))
    with torch.no_grad():
        for conv in (model[0], model[2]):
            conv.weight[0, 0] = 0
    return nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_the_zeros_are_reported(tmp_path: Path) -> None:
    report = bitexport.export(
        network(SignConv2d), torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=PLUS_ONE
    )
    assert report.verify is not None and not report.verify.ok
    assert set(report.zero_weights.values()) == {9}


def test_another_difference_is_not_excused(tmp_path: Path) -> None:
    with pytest.raises(ComparisonFailure):
        bitexport.export(
            network(Louder), torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=PLUS_ONE
        )
    assert not (tmp_path / "m.onnx").exists()


def test_only_zeros_change_in_the_twin() -> None:
    model = network(SignConv2d)
    twin = ones_for_zeros(model)
    assert twin is not None
    for before, after in zip(model[0][::2], twin[0][::2], strict=True):
        assert torch.equal(
            after.weight.sign(), torch.where(before.weight == 0, 1, before.weight.sign())
        )
        assert torch.equal(after.scale(), before.scale())
    assert not any(getattr(spec_of(layer), "zero_weights", 0) for layer in twin.modules())


def test_no_twin_without_zeros() -> None:
    assert ones_for_zeros(nn.Sequential(SignConv2d(3, 4, 3), nn.ReLU())) is None
