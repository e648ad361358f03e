"""Let a binary convolution hand on the signs that the next ones would take of its result.

    BinaryConv(X, .., Th, ..)      -> Y -> BinaryConv(Y, .., Th = t, ..)
        => BinaryConvSign(X, .., Th, .., Next = t) -> Signs -> BinaryConvOfSigns(Signs, ..)
    BinaryConvClip(.., Lo, Hi)     -> Y -> ...
        => the same, with Next = -inf where Lo >= t, +inf where Hi < t, else t
    .. -> BinaryConvClip(Y, ..)         => BinaryConvOfSignsClip(Signs, ..)
    BinaryConv(Y, ..) -> BinaryConv     => BinaryConvOfSignsSign between BinaryConvs

The comparison moves from the body of the one into the body of the other, so that a runtime without
kernels does as much as before. The kernels hand on a bit for each sign instead of a number
(``plugins/core/sign_planes.h``).

Exact: min and max are monotone, so that t <= min(max(y, Lo), Hi) asks either y itself or nothing.
So is the rounding of a float16 network's y: for t the smallest float32 number stands that rounds
to t or more.

All readers of Y must be such convolutions, with the same threshold, without groups; Y must have 32
channels, so that a word for them fits its place. Scales and biases must keep y finite, in its own
type: a Clip need not keep a NaN, and would bound an infinity, which is at or above Next = +inf.

``unchain_signs`` is the way back, to the same bits; of a Clip it leaves what the signs need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.records import Record
from bitexport.ops.bodies import function_for
from bitexport.ops.table import DOMAIN, OPS, op_named

__all__ = ["chain_signs", "has_chains", "unchain_signs", "unchained"]

_RULE = "chain-signs"
_FEWEST_CHANNELS = 32
_CHAINED = tuple(op.name for op in OPS if op.chained)
_ENDS = ("BinaryConv", "BinaryConvClip")
_ROUNDS_TO_INFINITY = 65520  # and what is above, as float16
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Link:
    """A value that is to be signs: what it is compared with, and its readers."""

    threshold: ir.Value
    readers: tuple[ir.Node, ...]


def chain_signs(model: ir.Model) -> list[Record]:
    """Form chains in place, of all that can be linked."""
    links: dict[ir.Value, _Link] = {}
    for node in model.graph:
        if _is_end(node) and (link := _link_behind(node)) is not None:
            links[node.outputs[0]] = link
    records = [
        Record(
            _RULE,
            (value.producer() or link.readers[0]).name or "",
            True,
            f"hands signs to {', '.join(repr(reader.name) for reader in link.readers)}",
        )
        for value, link in links.items()
    ]
    nexts = {value: _next(value, link.threshold) for value, link in links.items()}
    for node in [n for n in model.graph if _is_end(n)]:
        taken, made = node.inputs[0] in nexts, nexts.get(node.outputs[0])
        if not taken and made is None:
            continue
        values = _named_inputs(node)
        if taken:
            values["Signs"] = values.pop("X")
            del values["Th"]
        if made is not None:
            values = {k: v for k, v in values.items() if k not in ("Lo", "Hi")} | {"Next": made}
        suffix = "Sign" if made is not None else node.op_type.removeprefix("BinaryConv")
        replaced = _replace(node, f"BinaryConv{'OfSigns' if taken else ''}{suffix}", values)
        if made is not None:
            # Not the module's name: what stands here is not what the module computes.
            replaced.name = f"{node.name}/signs"
            nexts[replaced] = made
    return records


def has_chains(model: ir.Model) -> bool:
    """Whether some op takes or makes signs."""
    return any(_is_chained(node) for node in model.graph)


def unchained(model: ir.Model) -> ir.Model:
    """The model without chains: itself where it has none, else a copy.

    Raises:
        UnsupportedModel: Its chains do not hold together.
    """
    if not has_chains(model):
        return model
    copy = ir.from_proto(ir.to_proto(model))
    unchain_signs(copy)
    return copy


def unchain_signs(model: ir.Model) -> bool:
    """Put BinaryConv and BinaryConvClip in the place of all chains, in place.

    Returns:
        Whether there were any.

    Raises:
        UnsupportedModel: Signs are read by another op, handed out, or come from one.
    """
    nodes = [node for node in model.graph if _is_chained(node)]
    thresholds = {
        node.outputs[0]: _checked_next(node) for node in nodes if op_named(node.op_type).makes_signs
    }
    for node in nodes:
        values = _named_inputs(node)
        values.pop("Next", None)
        signs = values.pop("Signs", None)
        if signs is not None:
            if signs not in thresholds:
                raise _broken(node, "Signs that no node of a chain made")
            values |= {"X": signs, "Th": thresholds[signs]}
        end = "BinaryConvClip" if "Lo" in values else "BinaryConv"
        output = node.outputs[0]
        threshold = thresholds.get(output)
        replaced = _replace(node, end, values)
        if threshold is not None:
            thresholds[replaced] = threshold
    _exchange_functions(model, {node.op_type for node in nodes})
    return bool(nodes)


def _is_end(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in _ENDS


def _is_chained(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in _CHAINED


def _named_inputs(node: ir.Node) -> dict[str, ir.Value | None]:
    return dict(zip((x.name for x in op_named(node.op_type).inputs), node.inputs, strict=True))


def _link_behind(node: ir.Node) -> _Link | None:
    """What its result would be compared with, if all that read it are binary convolutions."""
    value, channels = node.outputs[0], node.attributes.get_ints("wshape", (0,))[0]
    readers = tuple(dict.fromkeys(use.node for use in value.uses()))
    if value.is_graph_output() or channels < _FEWEST_CHANNELS or not readers:
        return None
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    for each in (node, *readers):
        if (
            not _is_end(each)
            or each.graph is not node.graph
            or each.attributes.get_int("group", 1) != 1
        ):
            return None
    thresholds = [reader.inputs[2] for reader in readers]
    found = [constant(threshold) for threshold in thresholds]
    first = found[0]
    if first is None or any(other is None or not _same(first, other) for other in found):
        return None
    if any(value in reader.inputs[1:] for reader in readers) or thresholds[0] is None:
        return None
    if any(constant(bound) is None for bound in node.inputs[5:]) or not _is_finite(node):
        return None
    return _Link(thresholds[0], readers)


def _is_finite(node: ir.Node) -> bool:
    """Whether scale * accumulator + bias is, whatever the activations are."""
    scale, bias = constant(node.inputs[3]), constant(node.inputs[4])
    if scale is None or bias is None:
        return False
    most = np.float32(math.prod(node.attributes.get_ints("wshape")[1:]))
    with np.errstate(over="ignore"):
        largest = np.abs(scale) * most + np.abs(bias)
    halves = node.outputs[0].dtype == ir.DataType.FLOAT16
    return bool((largest < (_ROUNDS_TO_INFINITY if halves else np.inf)).all())


def _same(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _next(value: ir.Value, threshold: ir.Value) -> ir.Value:
    """The constant that y is to be compared with: the threshold's own, where that will do."""
    node, array = value.producer(), constant(threshold)
    if node is None or array is None:
        raise TypeError(f"{value.name!r} is no link")
    bound = array
    if value.dtype == ir.DataType.FLOAT16:
        bound = least_rounding_to(array)
    inputs = _named_inputs(node)
    if "Lo" in inputs:
        low, high = constant(inputs["Lo"]), constant(inputs["Hi"])
        if low is None or high is None:
            raise TypeError(f"the bounds of {node.name!r} are no constants")
        bound = np.where(low >= bound, -np.inf, np.where(high < bound, np.inf, bound))
    bound = bound.astype(np.float32)
    if _same(bound, array):
        return threshold
    return new_constant(graph_of(node), f"{node.name}.Next", bound)


def least_rounding_to(threshold: Float32Array) -> Float32Array:
    """The smallest float32 numbers that, rounded to float16, are no less than ``threshold``.

    A number between two neighbours rounds to the nearer one, and from their middle to the one whose
    last bit is 0. Beyond the largest, 65504, is 65536, which counts as infinity.
    """
    with np.errstate(over="ignore"):
        above = threshold.astype(np.float16)
        above = np.where(above < threshold, np.nextafter(above, np.float16(np.inf)), above)
        below = np.nextafter(above, np.float16(-np.inf))
    ends = [np.clip(half.astype(np.float64), -65536, 65536) for half in (above, below)]
    middle = ((ends[0] + ends[1]) / 2).astype(np.float32)
    even = above.view(np.uint16) % 2 == 0
    bound = np.where(even, middle, np.nextafter(middle, np.float32(np.inf)))
    kept = np.isnan(threshold) | (threshold == -np.inf)
    result: Float32Array = np.where(kept, threshold, bound).astype(np.float32)
    return result


def _replace(node: ir.Node, op_type: str, values: Mapping[str, ir.Value | None]) -> ir.Value:
    """Put another op with these inputs in a node's place; returns its output."""
    new = ir.node(
        op_type,
        [values[declared.name] for declared in op_named(op_type).inputs],
        domain=DOMAIN,
        name=node.name,
        attributes=dict(node.attributes),
    )
    output, old = new.outputs[0], node.outputs[0]
    output.type, output.shape = old.type, old.shape
    graph_of(node).insert_before(node, [new])
    take_over_output(node, output)
    return output


def _checked_next(node: ir.Node) -> ir.Value:
    """What a node compares its result with for its readers, which must be of the chain."""
    output, threshold = node.outputs[0], node.inputs[-1]
    uses = output.uses()
    readers = [use.node for use in uses if _is_chained(use.node) and use.idx == 0]
    own = all(op_named(reader.op_type).takes_signs for reader in readers)
    if output.is_graph_output() or len(readers) < len(uses) or not own:
        raise _broken(node, "an output that other ops read")
    if threshold is None:
        raise _broken(node, "no Next")
    return threshold


def _broken(node: ir.Node, got: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{node.op_type} {node.name!r} is no link of a chain",
        got=got,
        expected="signs that go from one op of a chain to others",
        fix="Export the model again with `bitexport onnx`.",
    )


def _exchange_functions(model: ir.Model, chained: set[str]) -> None:
    """Bodies for the ops that are there now, none for those that were."""
    for op_type in chained:
        model.functions.pop((DOMAIN, op_type, ""), None)
    if not chained:
        return
    for op_type in _ENDS:
        function = function_for(op_named(op_type))
        if any(n.op_type == op_type and n.domain == DOMAIN for n in model.graph):
            model.functions.setdefault(function.identifier(), function)
