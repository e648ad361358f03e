"""Read the layers back out of a graph: what each weight is stored as, and how large it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx_ir as ir

from bitexport.graph.constants import constant
from bitexport.ops.nodes import dense_weight
from bitexport.ops.table import DOMAIN, op_named

__all__ = ["LayerInfo", "layers_of"]

_DENSE_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerInfo:
    """One layer with a weight.

    Attributes:
        name: Path of the torch module.
        op: op_type of its node.
        weight_shape: Shape of the weight that the layer stands for.
        stored_bytes: Bytes of all constants of the layer's nodes.
        bits_per_weight: Stored bits a weight, without scales and biases.
        macs: Multiply-accumulates for one sample, or None if the output's shape is unknown.
        binary_activations: The multiplications are on bits.
    """

    name: str
    op: str
    weight_shape: tuple[int, ...]
    stored_bytes: int
    bits_per_weight: float
    macs: int | None
    binary_activations: bool

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.weight_shape))

    @property
    def dense(self) -> bool:
        """Whether the weight is stored as plain numbers."""
        return self.op in _DENSE_OPS


def layers_of(model: ir.Model) -> list[LayerInfo]:
    """The layers of a graph in its order; value shapes should have been inferred.

    Nodes of one torch module (a sign layer that was split for its zero weights) count as one.

    Raises:
        UnsupportedModel: A packed weight breaks the op's schema.
    """
    nodes = [n for n in model.graph if _is_layer(n)]
    # groupby compares neighbours only: a foreign node is a group of its own.
    grouped = groupby(nodes, key=lambda n: _module(n) if n.domain == DOMAIN else id(n))
    return [_layer_info(members) for members in ([*group] for _, group in grouped)]


def _module(node: ir.Node) -> str:
    """Path of the torch module that a node of ours belongs to."""
    return (node.name or "").split("/")[0]


def _is_layer(node: ir.Node) -> bool:
    if node.domain == DOMAIN:
        return True
    return node.domain == "" and node.op_type in _DENSE_OPS and _stored(node.inputs[1]) is not None


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a value, looking through a Cast."""
    if constant(value) is not None:
        return value
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Cast":
        return _stored(producer.inputs[0])
    return None


def _layer_info(nodes: list[ir.Node]) -> LayerInfo:
    first = nodes[0]
    name = _module(first) if first.domain == DOMAIN else first.name or first.op_type
    # Two nodes of one layer may share a constant.
    stored = _distinct(v for node in nodes for v in map(_stored, node.inputs))
    if first.domain == DOMAIN:
        # The split for zero weights puts the whole layer beside a part of it.
        first = max(nodes, key=lambda node: node.attributes.get_ints("wshape")[0])
        shape = tuple(first.attributes.get_ints("wshape"))
        index = op_named(first.op_type).weight_input
        packed = ("W", "Codes", "CB")
        names = [op_named(n.op_type).inputs for n in nodes]
        words = _distinct(
            v
            for node, inputs in zip(nodes, names, strict=True)
            for v, declared in zip(node.inputs, inputs, strict=True)
            if declared.name in packed
        )
        weight_bytes = sum(map(_nbytes, words))
        _check_packed(first, shape, index)
    else:
        weight = _stored(first.inputs[1])
        shape = _dense_shape(first)
        weight_bytes = _nbytes(weight)
    return LayerInfo(
        name=name,
        op=first.op_type,
        weight_shape=shape,
        stored_bytes=sum(map(_nbytes, stored)),
        bits_per_weight=8 * weight_bytes / max(1, int(np.prod(shape))),
        macs=_macs(first, shape),
        binary_activations=first.op_type.startswith("BinaryConv"),
    )


def _distinct(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return list(dict.fromkeys(v for v in values if v is not None))


def _check_packed(node: ir.Node, shape: tuple[int, ...], weight_input: int) -> None:
    """Raise where the words and the shape of the weight disagree."""
    op = op_named(node.op_type)
    arrays = {
        declared.name: array
        for declared, value in zip(op.inputs, node.inputs, strict=True)
        if (array := constant(value)) is not None
    }
    if op.inputs[weight_input].name in arrays:
        dense_weight(op, arrays, shape)


def _dense_shape(node: ir.Node) -> tuple[int, ...]:
    weight = _stored(node.inputs[1])
    array = constant(weight)
    return () if array is None else tuple(int(n) for n in array.shape)


def _nbytes(value: ir.Value | None) -> int:
    return 0 if value is None or value.const_value is None else int(value.const_value.nbytes)


def _macs(node: ir.Node, shape: tuple[int, ...]) -> int | None:
    per_output = int(np.prod(shape[1:]))
    if node.op_type in ("Gemm", "MatMul", "CodebookGemm"):
        return int(np.prod(shape))
    output = node.outputs[0].shape
    if output is None or not all(isinstance(n, int) for n in output[1:]):
        return None
    return _product(output[1:]) * per_output


def _product(dims: Iterable[object]) -> int:
    return int(np.prod([n for n in dims if isinstance(n, int)]))
