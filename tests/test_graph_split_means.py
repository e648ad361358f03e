"""Means of whole samples are taken in two steps, and are as good as torch's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bitexport.graph import capture, lower
from bitexport.layers import BinaryConv2d

SHAPE = (64, 56, 56)


class Mean(nn.Module):
    def __init__(self, dim: tuple[int, ...], *, keepdim: bool) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim, keepdim=self.keepdim)


def means(model: nn.Module, shape=SHAPE):
    graph = capture(model.eval(), shape).graph
    lower(graph)
    return graph, [node.name for node in graph.graph if node.op_type == "ReduceMean"]


@pytest.mark.parametrize("keepdim", [True, False])
def test_sums_of_many_terms_keep_their_digits(keepdim):
    graph, steps = means(Mean((1, 2, 3), keepdim=keepdim))
    assert len(steps) == 2
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(2)) + 0.5
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    got = session.run(None, {"input": x.numpy()})[0]
    want = x.double().mean((1, 2, 3), keepdim=keepdim).numpy()
    assert got.shape == want.shape
    # ReduceMean over all at once is off by 1e-6 in ONNX Runtime 1.31.
    assert np.abs(got / want - 1).max() < 4e-7


def test_a_centered_layer_has_one_mean_of_two_steps():
    _, steps = means(
        nn.Sequential(BinaryConv2d(6, 4, 3, centered=True, scale_rule="learned")), (6, 8, 8)
    )
    assert len(steps) == 2


@pytest.mark.parametrize("dim", [(2, 3), (1,), (1, 2)])
def test_other_means_stay(dim):
    _, steps = means(Mean(dim, keepdim=True), (6, 8, 8))
    assert len(steps) == 1
