"""Folding BatchNorm: algebra for every sign of gamma, and honest reasons for declining."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from bitexport.graph import capture, lower
from bitexport.graph.passes.fold_batch_norm import fold_batch_norm
from bitexport.layers import BinaryConv2d, CodebookConv2d, CodebookLinear, SignConv2d

SEED = 3
SHAPE = (5, 9, 8)


def batch_norm(channels: int, *, gamma: str = "mixed", eps: float = 1e-5) -> nn.BatchNorm2d:
    """A BatchNorm in evaluation with statistics far from the identity, one variance tiny."""
    generator = torch.Generator().manual_seed(SEED)
    layer = nn.BatchNorm2d(channels, eps=eps)
    with torch.no_grad():
        layer.running_mean.copy_(torch.randn(channels, generator=generator))
        layer.running_var.copy_(torch.rand(channels, generator=generator) + 0.1)
        layer.running_var[0] = 1e-7
        layer.bias.copy_(torch.randn(channels, generator=generator))
        if gamma == "mixed":
            layer.weight.copy_(torch.randn(channels, generator=generator))
            layer.weight[1] = 0
        else:
            layer.weight.fill_(float(gamma))
    return layer


def quantized(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    torch.manual_seed(SEED)
    if kind == "SignConv":
        return SignConv2d(in_channels, out_channels, 3, padding=1)
    if kind == "BinaryConv":
        return BinaryConv2d(in_channels, out_channels, 3, padding=1)
    if kind == "Conv":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    codes = torch.randint(20, (out_channels, in_channels))
    codebook = torch.randn(20, 9).half().float()
    return CodebookConv2d(codes, codebook, (out_channels, in_channels, 3, 3), padding=1)


def lowered(model: nn.Module):
    captured = capture(model.eval(), SHAPE)
    report = lower(captured.graph)
    return captured.graph, report


def check_equal(model: nn.Module, graph: ir.Model, tolerance: float = 1e-5) -> None:
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(SEED + 1))
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double()).numpy()
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    got = session.run(None, {"input": x.numpy()})[0]
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)


def op_types(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize("gamma", ["mixed", "-1.5", "0"])
@pytest.mark.parametrize("kind", ["SignConv", "BinaryConv", "CodebookConv", "Conv"])
def test_folds_into_what_stands_before(kind, gamma):
    model = nn.Sequential(quantized(kind, 5, 7), batch_norm(7, gamma=gamma))
    graph, report = lowered(model)
    assert [op for op in op_types(graph) if op != "Cast"] == [kind]
    (record,) = [r for r in report.records if r.rule == "fold-batch-norm"]
    assert record.applied
    assert record.layer == "1"
    check_equal(model, graph)


def test_eps_counts():
    """With a variance of 1e-7, an eps of 1e-3 is another network."""
    model = nn.Sequential(quantized("SignConv", 5, 7), batch_norm(7, eps=1e-3))
    graph, _ = lowered(model)
    check_equal(model, graph)
    model[1].eps = 1e-5
    with pytest.raises(AssertionError):
        check_equal(model, graph)


def test_scale_rules_and_batch_norm_end_up_in_scale_and_bias():
    layer, norm = quantized("SignConv", 5, 7), batch_norm(7)
    graph, _ = lowered(nn.Sequential(layer, norm))
    (node,) = graph.graph
    scale, bias = (node.inputs[i].const_value.numpy().reshape(-1) for i in (2, 3))
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    he = np.sqrt(2 / (5 * 9))
    np.testing.assert_allclose(scale, factor * he, rtol=1e-6)
    np.testing.assert_allclose(
        bias, (norm.bias - torch.tensor(factor) * norm.running_mean).detach().numpy(), rtol=1e-5
    )


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = batch_norm(5)
        self.conv = quantized("SignConv", 5, 7)

    def forward(self, x):
        return self.conv(torch.relu(self.norm(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = quantized("SignConv", 5, 5)
        self.norm = batch_norm(5)

    def forward(self, x):
        return self.norm(self.conv(x) + x)


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = quantized("SignConv", 5, 5)
        self.norm = batch_norm(5)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (PreActivation(), "it normalizes the graph's input"),
        (Residual(), "its input comes from Add"),
        (ReadTwice(), "other nodes read SignConv 'conv' too"),
    ],
    ids=["pre-activation", "after a residual sum", "read twice"],
)
def test_declines_with_a_reason_and_leaves_one_affine(model, reason):
    graph, report = lowered(model)
    (record,) = [r for r in report.records if r.rule == "fold-batch-norm"]
    assert not record.applied
    assert reason in record.detail
    assert op_types(graph).count("Mul") == 1
    assert "BatchNormalization" not in op_types(graph)
    check_equal(model, graph)


def test_keeps_a_float16_weight_apart_unless_computing_in_float16():
    conv = nn.Conv2d(5, 64, 3, bias=False)
    with torch.no_grad():
        conv.weight.copy_(conv.weight.half().float())
    model = nn.Sequential(conv, batch_norm(64))
    graph, report = lowered(model)
    assert op_types(graph) == ["Cast", "Conv", "Mul", "Add"]
    assert "float16 holds the weight" in report.records[0].detail
    check_equal(model, graph)


def test_folds_into_both_parts_of_a_layer_with_zero_weights():
    layer = quantized("SignConv", 5, 7)
    with torch.no_grad():
        layer.weight[2, 1, 0, 0] = 0
        layer.weight[4] = 0
    model = nn.Sequential(layer, batch_norm(7))
    graph, report = lowered(model)
    assert op_types(graph) == ["SignConv", "Gather", "SignConv", "Add"]
    assert all(r.applied for r in report.records)
    check_equal(model, graph)


def test_folds_into_every_filter_of_an_all_zero_layer():
    layer = quantized("SignConv", 5, 7)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(layer, batch_norm(7))
    graph, _ = lowered(model)
    assert op_types(graph) == ["SignConv", "SignConv", "Add"]
    check_equal(model, graph)


def test_codebook_linear_keeps_its_bias():
    torch.manual_seed(SEED)
    codes = torch.randint(300, (6, 5))
    head = CodebookLinear(codes, torch.randn(300, 1).half(), (6, 5), bias=torch.randn(6))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    graph, _ = lowered(model)
    assert op_types(graph)[-2:] == ["Reshape", "CodebookGemm"]
    check_equal(model, graph)


def gemm_model(attributes: dict, *, bias: str) -> onnx.ModelProto:
    """Gemm -> BatchNorm -> logits, as a foreign file may have it: flatten(x) [N, 360] -> [N, 6]."""
    rng = np.random.default_rng(SEED)
    weight = rng.standard_normal((6, 360) if attributes.get("transB") else (360, 6)) / 19
    norm = (rng.standard_normal((3, 6)), rng.random((1, 6)) + 0.5)
    arrays = {"W": weight, "C": rng.standard_normal(6)}
    arrays |= dict(zip("gbmv", np.concatenate(norm), strict=True))
    nodes = [helper.make_node("Flatten", ["input"], ["x"])]
    inputs = ["x", "W"] + ([] if bias == "none" else ["C" if bias == "constant" else "Y"])
    if bias == "computed":
        nodes.append(helper.make_node("ReduceMean", ["x"], ["Y"], axes=[1], keepdims=1))
    nodes += [
        helper.make_node("Gemm", inputs, ["y"], name="gemm", **attributes),
        helper.make_node("BatchNormalization", ["y", *"gbmv"], ["logits"], name="norm"),
    ]
    kinds = (("input", ["N", *SHAPE]), ("logits", ["N", 6]))
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in kinds]
    constants = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bias", ["none", "constant", "computed"])
@pytest.mark.parametrize("attributes", [{"beta": 0.5, "alpha": 2.0}, {"transB": 1, "beta": 0.0}])
def test_a_foreign_gemm_with_factors(attributes, bias):
    model = gemm_model(attributes, bias=bias)
    x = np.random.default_rng(1).standard_normal((3, *SHAPE), np.float32)
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": x})
    graph = ir.from_proto(model)
    (record,) = fold_batch_norm(graph, keep_float16=False)
    assert record.applied == (bias != "computed")
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"input": x})[0], want, rtol=1e-4, atol=1e-5)
