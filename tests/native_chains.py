"""Models of binary convolutions one behind the other, which hand signs on once chained."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from native_nodes import SEED
from single_node import expected, with_epilogue

from bitexport.graph.passes.attach_functions import attach_functions
from bitexport.ops.nodes import NodeData, node_data
from bitexport.spec import BinaryConvSpec, ConvGeometry

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


class Layer(NamedTuple):
    """One convolution of a model."""

    out_channels: int
    kernel: tuple[int, int] = (3, 3)
    geometry: ConvGeometry = ConvGeometry(pads=(1, 1, 1, 1))
    op: str = "BinaryConv"


def layer_nodes(channels: int, layers: list[Layer], *, exact: bool = False) -> list[NodeData]:
    """Random layers; ``exact`` ones have integers as results and numbers between as thresholds."""
    rng = np.random.default_rng(SEED)
    nodes = []
    for i, (out_channels, kernel, geometry, op) in enumerate(layers):
        signs = rng.choice(
            np.array([-1, 1], np.int8), (out_channels, channels // geometry.group, *kernel)
        )
        scale, bias = rng.normal(size=(2, out_channels)).astype(np.float32)
        if exact:
            scale, bias = np.sign(scale), np.rint(10 * bias)
        spread = 1.0 if i == 0 else np.sqrt(channels * np.prod(kernel))
        threshold = (spread * rng.normal(size=channels)).astype(np.float32)
        if exact and i > 0:
            threshold = np.rint(threshold).astype(np.float32)
        node = with_epilogue(
            op, node_data(BinaryConvSpec(signs, scale, bias, geometry, threshold)), SEED + i
        )
        if op.endswith("Clip"):
            # Some thresholds of the next layer lie beyond, some between, some on the bounds.
            bounds = {"Lo": np.float32(-spread), "Hi": np.float32(np.rint(spread))}
            tensors = {k: np.full((1, 1, 1, 1), v, np.float32) for k, v in bounds.items()}
            node = replace(node, tensors={**node.tensors, **tensors})
        nodes.append(node)
        channels = out_channels
    return nodes


def model_of_layers(nodes: list[NodeData], elem: ir.DataType = FLOAT) -> ir.Model:
    """All of them one behind the other, none chained: X -> Y, of type ``elem``."""
    x = ir.Value(name="X", shape=ir.Shape(["N", None, None, None]), type=ir.TensorType(elem))
    value, made, constants = x, [], []
    for i, node in enumerate(nodes):
        tensors = {
            name: ir.tensor(np.ascontiguousarray(array), name=f"layer{i}.{name}")
            for name, array in node.tensors.items()
        }
        values = {
            name: ir.Value(
                name=tensor.name,
                shape=tensor.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            for name, tensor in tensors.items()
        }
        constants += values.values()
        custom = ir.node(
            node.op.name,
            [value, *(values[declared.name] for declared in node.op.inputs[1:])],
            {k: list(v) if isinstance(v, tuple) else v for k, v in node.attributes.items()},
            domain="bitexport",
            name=f"layer{i}",
        )
        value = custom.outputs[0]
        value.name, value.type = f"y{i}", ir.TensorType(elem)
        made.append(custom)
    value.name, value.shape = "Y", ir.Shape(["N", None, None, None])
    opsets = {"": 18, "bitexport": 1}
    graph = ir.Graph(
        [x], [value], nodes=made, initializers=constants, opset_imports=opsets, name="layers"
    )
    model = ir.Model(graph, ir_version=8)
    attach_functions(model)
    return model


def serialized(model: ir.Model) -> bytes:
    """The model with the bodies of the ops that it has now."""
    model.functions.clear()
    attach_functions(model)
    return ir.to_proto(model).SerializeToString()


def computed(nodes: list[NodeData], x: np.ndarray) -> np.ndarray:
    """What the op table's formulas say, in float64."""
    for node in nodes:
        x = expected(node, x)
    return x
