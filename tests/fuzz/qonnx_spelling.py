"""The many ways to write one QONNX graph down: order, names, and where constants stand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from test_qonnx import DOMAIN

_DOMAINS = ("onnx.brevitas", "finn.custom_op.general")
_ODD = (
    "input", "logits", "x.W", "x.S", "x.B", "x.Th", "x/Mul", "x/Reshape", "x.scale", "x.shift",
    "x.weight", "x.bias", "x.shape", "0", "a b", "ü", "/", "//", "x/W.S", "x.value", "x.zero",
    "input/float16", "logits/float16", "logits.inner", "input.inner", "x/float32", "x/Max",
)  # fmt: skip


def spelled(draw: Any, image: tuple[int, ...], outputs: list[str]) -> onnx.ModelProto:
    """The drawn nodes and constants as a model.

    Args:
        draw: A ``Network``.
        image: Shape of one sample of the input.
        outputs: Names of values.
    """
    rng, nodes, tensors = draw.rng, list(draw.nodes), list(draw.constants)
    if rng.random() < 0.3:
        nodes = _in_another_order(rng, nodes)
    _name_nodes(rng, nodes)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [draw.batch, *image])]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    if rng.random() < 0.15:
        tensors, before = _as_nodes(rng, tensors)
        nodes = before + nodes
    elif rng.random() < 0.1:
        inputs += [
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors
        ]
    graph = helper.make_graph(
        nodes, rng.choice(("net", "torch-jit-export", "a/b")), inputs, given, tensors
    )
    if rng.random() < 0.3:
        _rename_values(rng, graph)
    used = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid(d, draw.version) for d in sorted(used | {DOMAIN})]
    imports.insert(rng.randint(0, 1), helper.make_opsetid("", draw.opset))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _in_another_order(rng: random.Random, nodes: list[NodeProto]) -> list[NodeProto]:
    """A random one in which each node stands behind what it reads."""
    left, made = list(nodes), []
    pending = {name for node in nodes for name in node.output}
    while left:
        ready = [node for node in left if not pending.intersection(node.input)]
        node = rng.choice(ready)
        left.remove(node)
        made.append(node)
        pending.difference_update(node.output)
    return made


def _name_nodes(rng: random.Random, nodes: list[NodeProto]) -> None:
    way = rng.random()
    for i, node in enumerate(nodes):
        if way < 0.15:
            node.name = ""
        elif way < 0.25:
            node.name = rng.choice(("", "x", node.name))
        elif way < 0.4:
            node.name = f"/{rng.choice(('a', 'a/b', 'x'))}/{node.op_type}"
        elif way < 0.5:
            node.name = rng.choice((*_ODD, node.name))
        elif way < 0.6:
            node.name = f"{node.op_type}_{i}"


def _as_nodes(
    rng: random.Random, tensors: list[TensorProto]
) -> tuple[list[TensorProto], list[NodeProto]]:
    """Some of the constants as Constant nodes."""
    kept, nodes = [], []
    for tensor in tensors:
        if rng.random() < 0.5:
            kept.append(tensor)
            continue
        nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    return kept, nodes


def _rename_values(rng: random.Random, graph: onnx.GraphProto) -> None:
    """Some values and constants by odd names, each by its own; the input included."""
    names = [v.name for v in graph.input] + [t.name for t in graph.initializer]
    names += [name for node in graph.node for name in node.output]
    names = list(dict.fromkeys(names))
    nodes = [node.name for node in graph.node if node.name]
    odd = list(dict.fromkeys([*_ODD, *nodes, *(f"{n}.{s}" for n in nodes for s in "WSB")]))
    odd = [name for name in odd if name not in names]
    count = min(len(names), len(odd), rng.randint(1, 8))
    told = dict(zip(rng.sample(names, count), rng.sample(odd, count), strict=True))
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = told.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [told.get(name, name) for name in node.input]
        node.output[:] = [told.get(name, name) for name in node.output]


def images(model: onnx.ModelProto) -> np.ndarray:
    """Multiples of 1/8, exact zeros among them, for the model's input: three where it takes any."""
    given = {tensor.name for tensor in model.graph.initializer}
    (value,) = (v for v in model.graph.input if v.name not in given)
    shape = [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim]
    return np.random.default_rng(3).integers(-16, 17, shape).astype(np.float32) / 8
