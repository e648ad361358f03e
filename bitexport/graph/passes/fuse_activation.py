"""Let a binary convolution apply the activation behind it.

    BinaryConv(..)        -> PRelu(a) [-> Add(c [1, C, 1, 1])]
        => BinaryConvPRelu(.., Slope = a, Shift = c or 0)
    BinaryConv(..)        -> Clip(lo, hi)   =>   BinaryConvClip(.., Lo, Hi)
    BinaryConv(..)        -> Relu           =>   BinaryConvClip(.., 0, inf)
    BinaryConvAdd(.., R)  -> ...            =>   BinaryConvAddPRelu, BinaryConvAddClip

ReActNet's RPReLU is the first with the shift (the one before it is in B by now), SiMaN's PReLU the
first without, RBNN's hard tanh is Clip(-1, 1). The operations and their order stay, so that the
sums are the same to the last bit. It declines where another node reads the sum before its
activation, and where a slope, shift or bound is computed or differs from pixel to pixel.

``split_activation`` is the way back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN, op_named

__all__ = ["fuse_activation", "split_activation"]

_RULE = "fuse-activation"
_PLAIN = ("BinaryConv", "BinaryConvAdd")
Float32Array = npt.NDArray[np.float32]


def fuse_activation(model: ir.Model) -> list[Record]:
    """Fuse in place."""
    records = []
    for node in list(model.graph):
        if node.domain or node.op_type not in ("PRelu", "Clip", "Relu"):
            continue
        conv = None if node.inputs[0] is None else node.inputs[0].producer()
        if conv is not None and conv.domain == DOMAIN and conv.op_type in _PLAIN:
            records.append(_fuse(conv, node))
    return records


def _fuse(conv: ir.Node, activation: ir.Node) -> Record:
    layer = conv.name or ""
    if not _read_once(conv):
        return Record(_RULE, layer, False, f"other nodes read its sum before {activation.name!r}")
    channels = conv.attributes.get_ints("wshape")[0]
    last = activation
    if activation.op_type == "PRelu":
        slope = _per_channel(activation.inputs[1], channels)
        if slope is None:
            return Record(_RULE, layer, False, f"{activation.name!r} has not one slope a channel")
        shift, last = _shift_behind(activation, channels)
        suffix, constants = "PRelu", {"Slope": slope, "Shift": shift}
    else:
        bounds = _bounds(activation)
        if bounds is None:
            return Record(_RULE, layer, False, f"{activation.name!r} has no constant bounds")
        suffix = "Clip"
        constants = {name: np.full((1, 1, 1, 1), b, np.float32) for name, b in bounds.items()}
    graph = graph_of(conv)
    fused = ir.node(
        conv.op_type + suffix,
        [*conv.inputs, *(new_constant(graph, f"{layer}.{k}", v) for k, v in constants.items())],
        domain=DOMAIN,
        name=layer,
        attributes=dict(conv.attributes),
    )
    output = conv.outputs[0]
    fused.outputs[0].type, fused.outputs[0].shape = output.type, output.shape
    graph.insert_before(last, [fused])
    detail = f"applies {activation.op_type} {activation.name!r} itself"
    if last is not activation:
        detail += f", and adds the shift of {last.name!r}"
    take_over_output(last, fused.outputs[0])
    if last is not activation:
        graph.remove(activation, safe=True)
    graph.remove(conv, safe=True)
    return Record(_RULE, layer, True, detail)


def _read_once(node: ir.Node) -> bool:
    output = node.outputs[0]
    return len(output.uses()) == 1 and not output.is_graph_output()


def _per_channel(value: ir.Value | None, channels: int) -> Float32Array | None:
    """A constant as float32 [1, C, 1, 1]; None where it is computed or of another shape."""
    array = constant(value)
    if array is None or array.dtype != np.float32:
        return None
    try:
        return np.array(np.broadcast_to(array, (1, channels, 1, 1)))
    except ValueError:
        return None


def _shift_behind(prelu: ir.Node, channels: int) -> tuple[Float32Array, ir.Node]:
    """What is added per channel behind a PReLU, and the last of the two nodes."""
    nothing = np.zeros((1, channels, 1, 1), np.float32)
    if not _read_once(prelu):
        return nothing, prelu
    add = next(iter(prelu.outputs[0].uses())).node
    if add.op_type != "Add" or add.domain:
        return nothing, prelu
    for value in add.inputs:
        shift = _per_channel(value, channels)
        if shift is not None:
            return shift, add
    return nothing, prelu


def _bounds(node: ir.Node) -> dict[str, float] | None:
    """Lo and Hi of a Clip or a Relu; None where one is computed, or above the other."""
    bounds = {"Lo": -np.inf, "Hi": np.inf}
    if node.op_type == "Relu":
        return {**bounds, "Lo": 0.0}
    for name, value in zip(bounds, node.inputs[1:], strict=False):
        if value is None:
            continue
        array = constant(value)
        if array is None or array.size != 1:
            return None
        bounds[name] = float(array.reshape(()))
    return bounds if bounds["Lo"] <= bounds["Hi"] else None


def split_activation(model: ir.Model) -> bool:
    """Put what ``fuse_activation`` fused back behind the convolutions, in place.

    Returns:
        Whether there was any.
    """
    found = [n for n in model.graph if n.domain == DOMAIN and n.op_type.endswith(("PRelu", "Clip"))]
    for node in found:
        _split(node)
    return bool(found)


def _split(node: ir.Node) -> None:
    op, graph, layer = op_named(node.op_type), graph_of(node), node.name or ""
    values = dict(zip((x.name for x in op.inputs), node.inputs, strict=True))
    count = len(node.inputs) - 2
    conv = ir.node(
        "BinaryConvAdd" if "R" in values else "BinaryConv",
        list(node.inputs[:count]),
        domain=DOMAIN,
        name=layer,
        attributes=dict(node.attributes),
    )
    conv.outputs[0].name = f"{layer}/sum"
    added = [conv]
    for op_type, operands in _behind(graph, layer, values):
        new = ir.node(op_type, [added[-1].outputs[0], *operands], name=f"{layer}/{op_type}")
        new.outputs[0].name = new.name
        added.append(new)
    for new in added:
        new.outputs[0].type, new.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    graph.insert_before(node, added)
    take_over_output(node, added[-1].outputs[0])


def _behind(
    graph: ir.Graph, layer: str, values: dict[str, ir.Value | None]
) -> list[tuple[str, list[ir.Value | None]]]:
    """The standard operators of an activation: op_type, and the inputs after the first."""
    if "Slope" in values:
        shift = constant(values["Shift"])
        prelu = ("PRelu", [values["Slope"]])
        return (
            [prelu]
            if shift is not None and not shift.any()
            else [prelu, ("Add", [values["Shift"]])]
        )
    low, high = constant(values["Lo"]), constant(values["Hi"])
    if low is None or high is None:
        raise TypeError(f"the bounds of {layer!r} are no constants")
    if low.item() == 0 and high.item() == np.inf:
        return [("Relu", [])]
    bounds = {"Lo": low, "Hi": high}
    return [
        ("Clip", [new_constant(graph, f"{layer}.{k}", b.reshape(())) for k, b in bounds.items()])
    ]
