"""Read and write the constant inputs of a node, and replace a node's output."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.graph.names import free_name

__all__ = ["constant", "graph_of", "new_constant", "set_input_constant", "take_over_output"]


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The array of an initializer, or None for anything computed or fed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that the node stands in."""
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"node {node.name!r} stands in no graph")
    return node.graph


class _Names(Container[str | None]):
    """Those of a graph's initializers and of what its nodes compute."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def __contains__(self, name: object) -> bool:
        return name in self.graph.initializers or any(
            name == value.name for node in self.graph for value in node.outputs
        )


def new_constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """Register an initializer under ``name``, or under the next free numbered name."""
    unique = free_name(name, _Names(graph), ".")
    # ascontiguousarray gives a scalar one dimension.
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def set_input_constant(node: ir.Node, index: int, array: npt.NDArray[Any], suffix: str) -> ir.Value:
    """Give one input of a node a new constant, dropping the old one if nobody else uses it."""
    graph = graph_of(node)
    old = node.inputs[index] if index < len(node.inputs) else None
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, None)
    name = f"{node.name}.{suffix}"
    if old is not None and old.name in graph.initializers and not old.uses():
        name = old.name or name
        del graph.initializers[name]
    value = new_constant(graph, name, array)
    node.replace_input_with(index, value)
    return value


def take_over_output(node: ir.Node, replacement: ir.Value) -> None:
    """Remove a node; ``replacement`` takes over its output's name and readers."""
    graph, output = graph_of(node), node.outputs[0]
    name = output.name
    for index, value in enumerate(list(graph.outputs)):
        if value is output:
            graph.outputs[index] = replacement
    output.replace_all_uses_with(replacement)
    graph.remove(node, safe=True)
    replacement.name = name
