"""One custom op alone in a model, and what it must compute, in float64 torch."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F

from bitexport.ops.bodies import function_for
from bitexport.ops.nodes import NodeData, dense_weight
from bitexport.ops.table import op_named


def with_residual(node: NodeData) -> NodeData:
    """A BinaryConv's data as a BinaryConvAdd's."""
    return NodeData(op_named("BinaryConvAdd"), node.tensors, node.attributes)


def model_of(
    node: NodeData, rank: int, *, elem: ir.DataType = ir.DataType.FLOAT
) -> onnx.ModelProto:
    """A model whose inputs are the op's activations and whose output is Y, all of type ``elem``."""
    inputs = {
        name: ir.Value(name=name, shape=ir.Shape([None] * rank), type=ir.TensorType(elem))
        for name in ("X", "R")
        if any(declared.name == name for declared in node.op.inputs)
    }
    constants = {
        name: ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.tensor(array).dtype),
            const_value=ir.tensor(np.ascontiguousarray(array), name=name),
        )
        for name, array in node.tensors.items()
    }
    values = inputs | constants
    custom = ir.node(
        node.op.name,
        [values[declared.name] for declared in node.op.inputs],
        {k: list(v) if isinstance(v, tuple) else v for k, v in node.attributes.items()},
        domain="bitexport",
    )
    output = custom.outputs[0]
    output.name, output.type, output.shape = "Y", ir.TensorType(elem), ir.Shape([None] * rank)
    graph = ir.Graph(
        list(inputs.values()),
        [output],
        nodes=[custom],
        initializers=list(constants.values()),
        opset_imports={"": 18, "bitexport": 1},
        name="single",
    )
    return ir.to_proto(ir.Model(graph, ir_version=8, functions=[function_for(node.op)]))


def expected(node: NodeData, x: np.ndarray, r: np.ndarray | None = None) -> np.ndarray:
    """What the op table's formula says, in float64."""
    tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in node.tensors.items()}
    weight = torch.from_numpy(dense_weight(node.op, node.tensors, node.attributes["wshape"]))
    a = torch.from_numpy(x)
    if "Th" in tensors:
        a = torch.where(a.float() >= tensors["Th"], 1.0, -1.0)
    if node.op.kind == "gemm":
        y = F.linear(a.double(), weight.double())
    else:
        top, left, bottom, right = node.attributes["pads"]
        y = F.conv2d(
            F.pad(a.double(), (left, right, top, bottom)),
            weight.double(),
            stride=node.attributes["strides"],
            dilation=node.attributes["dilations"],
            groups=node.attributes["group"],
        )
    y = y * tensors["S"].double() + tensors["B"].double()
    return (y if r is None else y + torch.from_numpy(r).double()).numpy()
