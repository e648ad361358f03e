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


def with_epilogue(op: str, node: NodeData, seed: int) -> NodeData:
    """A BinaryConv's data as that of an op with a residual, an activation, or both.

    Slopes are negative, between 0 and 1, and above 1; the bounds cut off both ends.
    """
    channels = node.attributes["wshape"][0]
    rng = np.random.default_rng(seed)
    slope, shift = rng.uniform(-1, 2, (2, 1, channels, 1, 1)).astype(np.float32)
    low, high = (np.full((1, 1, 1, 1), bound, np.float32) for bound in (-2, 1.5))
    following = rng.normal(size=(1, channels, 1, 1)).astype(np.float32)
    extra = {"Slope": slope, "Shift": shift, "Lo": low, "Hi": high, "Next": following}
    names = {declared.name for declared in op_named(op).inputs}
    tensors = {k: v for k, v in (node.tensors | extra).items() if k in names}
    return NodeData(op_named(op), tensors, node.attributes)


def takes_residual(node: NodeData) -> bool:
    return any(declared.name == "R" for declared in node.op.inputs)


def model_of(
    node: NodeData,
    rank: int,
    *,
    elem: ir.DataType = ir.DataType.FLOAT,
    steep: bool = True,
    dtype: ir.DataType | None = None,
) -> onnx.ModelProto:
    """A model whose inputs are the op's activations and whose output is Y, all of type ``elem``."""
    inputs = {
        name: ir.Value(name=name, shape=ir.Shape([None] * rank), type=ir.TensorType(elem))
        for name in ("X", "Signs", "R")
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
    function = function_for(node.op, steep=steep, dtype=dtype)
    return ir.to_proto(ir.Model(graph, ir_version=8, functions=[function]))


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
    if r is not None:
        y = y + torch.from_numpy(r).double()
    if "Slope" in tensors:
        y = torch.where(y >= 0, y, tensors["Slope"].double() * y) + tensors["Shift"].double()
    if "Lo" in tensors:
        y = y.clamp(tensors["Lo"].item(), tensors["Hi"].item())
    if "Next" in tensors:
        y = torch.where(y >= tensors["Next"], 1.0, -1.0)
    return y.numpy()
