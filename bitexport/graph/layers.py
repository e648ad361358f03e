"""Read the layers back out of a graph: what each weight is stored as, and how large it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitexport.graph.constants import constant
from bitexport.graph.passes.narrow_weights import levels_of
from bitexport.ops.nodes import dense_weight
from bitexport.ops.table import DOMAIN, op_named

__all__ = ["LayerInfo", "layers_of"]

_DENSE_OPS = ("Conv", "Gemm", "MatMul")
# A layer of these may be split for its zeros, which is twice the work but not another layer.
_SPLIT_OPS = ("SignConv", "BinaryConv", "BinaryConvAdd", "BinaryConvOfSigns")


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

    Nodes of one torch module count as one layer: the parts of a sign layer that was split for its
    zero weights, those of a transposed convolution, and a module that is called several times.

    Raises:
        UnsupportedModel: A packed weight breaks the op's schema.
    """
    groups: dict[Hashable, list[ir.Node]] = {}
    for node in model.graph:
        if _is_layer(node):
            groups.setdefault(_layer_key(node), []).append(node)
    return [_layer_info(members) for members in groups.values()]


def _layer_key(node: ir.Node) -> Hashable:
    """What the nodes of one layer have in common; a node without a name is a layer of its own."""
    module = _module(node) or id(node)
    return module if node.domain == DOMAIN else (module, id(_stored(node.inputs[1])))


def _module(node: ir.Node) -> str:
    """Path of the torch module that a node of ours belongs to."""
    return (node.name or "").split("/")[0]


def _is_layer(node: ir.Node) -> bool:
    if node.domain == DOMAIN:
        return True
    return node.domain == "" and node.op_type in _DENSE_OPS and _stored(node.inputs[1]) is not None


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a value, of a weight of 8 bits its codes."""
    return next(iter(_constants(value)), None)


def _constants(value: ir.Value | None) -> tuple[ir.Value, ...]:
    """The initializers behind a value, looking through a Cast and what 8 bits are read by."""
    if value is None:
        return ()
    if constant(value) is not None:
        return (value,)
    if (levels := levels_of(value)) is not None:
        return (levels.codes, levels.step)
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast":
        return _constants(producer.inputs[0])
    return ()


def _layer_info(nodes: list[ir.Node]) -> LayerInfo:
    first = nodes[0]
    name = _module(first) if first.domain == DOMAIN or len(nodes) > 1 else first.name
    # Two nodes of one layer may share a constant.
    stored = _distinct(v for node in nodes for x in node.inputs for v in _constants(x))
    if first.domain == DOMAIN:
        # The split for zero weights puts the whole layer beside a part of it.
        first = max(nodes, key=lambda node: node.attributes.get_ints("wshape")[0])
        shape = tuple(first.attributes.get_ints("wshape"))
        index = op_named(first.op_type).weight_input
        words = _distinct(v for node in nodes for v in _packed(node, "W", "Codes", "CB"))
        weight_bytes = sum(map(_nbytes, words))
        _check_packed(first, shape, index)
        # The parts of a transposed convolution have a codebook each, and stand side by side.
        parts = len(_distinct(v for node in nodes for v in _packed(node, "CB")))
        shape = (shape[0] * max(1, parts), *shape[1:])
    else:
        weight = _stored(first.inputs[1])
        shape = _dense_shape(first)
        weight_bytes = _nbytes(weight)
    return LayerInfo(
        name=name or first.op_type,
        op=first.op_type,
        weight_shape=shape,
        stored_bytes=sum(map(_nbytes, stored)),
        bits_per_weight=8 * weight_bytes / max(1, int(np.prod(shape))),
        macs=_macs(first, shape) if first.op_type in _SPLIT_OPS else _all_macs(nodes),
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


def _packed(node: ir.Node, *names: str) -> list[ir.Value | None]:
    """The packed inputs of a node of ours that have one of these names."""
    declared = op_named(node.op_type).inputs
    return [v for v, x in zip(node.inputs, declared, strict=True) if x.name in names]


def _all_macs(nodes: list[ir.Node]) -> int | None:
    """Of the parts of a layer, or of all its calls."""
    counts = [
        _macs(n, tuple(n.attributes.get_ints("wshape")) if n.domain == DOMAIN else _dense_shape(n))
        for n in nodes
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


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
