"""Store the weight of a dense layer in 8 bits where it has no more than 256 levels.

    W float32 -> Conv     =>     W uint8 -> Cast -> Sub(128) -> Mul(step) -> Conv

with one step for each output channel, so that W = step * q, q = -128 .. 127: what symmetric
quantization gives (Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", 2018, section 2.2), before and after a BatchNorm is folded. Nothing is rounded: a weight
whose rows are not made so, up to float32's own rounding, stays as it is. Every runtime computes the
three nodes when it loads the model. The bytes are unsigned, as TensorRT keeps int8 for its own
quantization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.graph.constants import constant, graph_of, new_constant
from bitexport.graph.records import Record

__all__ = ["Levels", "fits_levels", "levels_of", "narrow_weights", "widen_weights"]

FloatArray = npt.NDArray[np.float32]
_RULE = "narrow-weights"
_MOST = 128  # steps
_MIDDLE = 128  # the byte of a weight of 0
# What W = fl(g * fl(q * s)), its largest and their quotient are rounded by, each to 24 bits.
_ROUNDING = 2.0**-21
# Steps of smaller weights would be too small for float32 to hold in 24 bits.
_LEAST = 2.0**-118
# Three nodes with their names take about 300 bytes.
_MIN_SAVING = 512
_SAMPLE = 16  # weights of a row, which rule out most of the steps it could have


@dataclass(frozen=True)
class Levels:
    """A weight as ``narrow_weights`` stores it.

    Attributes:
        codes: Its initializer, uint8, of the weight's shape.
        step: Its initializer, float32, of a shape that broadcasts.
        nodes: Cast, Sub and Mul.
    """

    codes: ir.Value
    step: ir.Value
    nodes: tuple[ir.Node, ir.Node, ir.Node]

    def weight(self) -> FloatArray:
        """What the nodes compute."""
        codes, step = constant(self.codes), constant(self.step)
        if codes is None or step is None:
            raise TypeError(f"{self.codes.name!r} is no constant")
        weight: FloatArray = (codes.astype(np.float32) - np.float32(_MIDDLE)) * step
        return weight


def levels_of(value: ir.Value | None) -> Levels | None:
    """What ``narrow_weights``, or somebody else, made of a value; None for any other value.

    The nodes compute nothing else: only the value itself is read, and within the graph.
    """
    mul = _producer(value, "Mul")
    sub = None if mul is None else _producer(mul.inputs[0], "Sub")
    cast = None if sub is None else _producer(sub.inputs[0], "Cast")
    if value is None or mul is None or sub is None or cast is None:
        return None
    if value.is_graph_output() or not (_read_once(cast) and _read_once(sub)):
        return None
    codes, step = cast.inputs[0], mul.inputs[1]
    array, middle, steps = constant(codes), constant(sub.inputs[1]), constant(step)
    if codes is None or step is None or array is None or middle is None or steps is None:
        return None
    types = array.dtype == np.uint8 and middle.dtype == steps.dtype == np.float32
    scalar = middle.shape == () and middle == _MIDDLE
    fits = steps.ndim == array.ndim and all(
        n in (1, m) for n, m in zip(steps.shape, array.shape, strict=True)
    )
    return Levels(codes, step, (cast, sub, mul)) if types and scalar and fits else None


def narrow_weights(model: ir.Model) -> list[Record]:
    """Narrow the weights of dense layers in place; one record for each that was."""
    records = []
    for name, value in list(model.graph.initializers.items()):
        array, axis = constant(value), _channel_axis(value)
        if array is None or axis is None:
            continue
        steps = _steps(array, axis)
        if steps is not None:
            _narrow(model.graph, name, value, axis, steps)
            records.append(Record(_RULE, name, True, "8 bits hold all it has"))
    return records


def widen_weights(model: ir.Model) -> None:
    """Put float32 weights back, in place."""
    for output in [value for node in model.graph for value in node.outputs]:
        levels = levels_of(output)
        if levels is None:
            continue
        name = levels.codes.name or ""
        weight = new_constant(model.graph, f"{name}/float32", levels.weight())
        output.replace_all_uses_with(weight)
        graph_of(levels.nodes[0]).remove(levels.nodes, safe=True)


def fits_levels(weight: npt.NDArray[Any], axis: int) -> bool:
    """Whether ``narrow_weights`` would store a weight in 8 bits.

    Args:
        weight: As a dense layer has it.
        axis: Of the output channels.
    """
    return _steps(weight, axis) is not None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and not node.domain and node.op_type == op_type else None


def _read_once(node: ir.Node) -> bool:
    output = node.outputs[0]
    return len(output.uses()) == 1 and not output.is_graph_output()


def _channel_axis(value: ir.Value) -> int | None:
    """The axis of a weight's output channels; None for what is no dense layer's weight."""
    if value.is_graph_output():
        return None
    axes = {_axis_in(use.node, use.idx, value) for use in value.uses()}
    return axes.pop() if len(axes) == 1 else None


def _axis_in(node: ir.Node, index: int, value: ir.Value) -> int | None:
    if node.domain or index != 1 or value.shape is None:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type == "MatMul" and len(value.shape) == 2:
        return 1
    return None


def _narrow(graph: ir.Graph, name: str, value: ir.Value, axis: int, steps: FloatArray) -> None:
    array = constant(value)
    if array is None:
        raise TypeError(f"initializer {name!r} has no value")
    shape = [1] * array.ndim
    shape[axis] = len(steps)
    step = steps.reshape(shape)
    codes = _codes(array, step) + _MIDDLE
    del graph.initializers[name]
    value.name = f"{name}/float32"
    stored = new_constant(graph, name, codes.astype(np.uint8))
    middle = new_constant(graph, "middle", np.array(_MIDDLE, np.float32))
    factor = new_constant(graph, f"{name}.step", step)
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
    sub = ir.node("Sub", [cast.outputs[0], middle], name=f"{name}/Sub")
    mul = ir.node("Mul", [sub.outputs[0], factor], name=f"{name}/Mul")
    for node in (cast, sub, mul):
        node.outputs[0].name = node.name
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.insert_before(next(iter(graph)), [cast, sub, mul])
    value.replace_all_uses_with(mul.outputs[0])


def _steps(array: npt.NDArray[Any], axis: int) -> FloatArray | None:
    """The step of each output channel, float32 [C]; None where 256 levels do not hold a weight."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) if array.size else array
    saving = array.nbytes - array.size - 4 * len(rows)
    if array.dtype != np.float32 or saving < _MIN_SAVING or not np.isfinite(rows).all():
        return None
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
    if not largest.any() or ((largest > 0) & (largest < _LEAST)).any():
        return None
    # The largest, as those of a pruned row may all be 0 elsewhere.
    sample = np.partition(np.abs(rows), max(0, rows.shape[1] - _SAMPLE), axis=1)[:, -_SAMPLE:]
    counts = np.where(largest == 0, 1, 0)  # of the steps in the largest weight; 0 is none yet
    for count in range(1, _MOST + 1):
        units = largest / count
        chosen = np.flatnonzero(counts == 0)
        chosen = chosen[_are_multiples(sample[chosen], units[chosen])]
        chosen = chosen[_are_multiples(rows[chosen], units[chosen])]
        counts[chosen] = count
    if (counts == 0).any():
        return None
    # 128 steps there are downwards only, and a BatchNorm may have turned the weights round. Half a
    # step tells 128 from 127, as rounding may keep the largest both ways from being equal.
    reached = largest * (1 - 0.5 / _MOST)
    turned = (counts == _MOST) & (rows.max(axis=1) > reached)
    if (turned & (-rows.min(axis=1) > reached)).any():
        return None
    return _closest(rows, largest, np.where(turned, -counts, counts))


def _are_multiples(rows: FloatArray, units: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """For each row whether all its numbers are whole units, up to rounding."""
    quotients = np.abs(rows) / units[:, None]
    whole = np.rint(quotients)
    return np.asarray((np.abs(quotients - whole) <= whole * _ROUNDING).all(axis=1))


def _closest(
    rows: FloatArray,
    largest: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
) -> FloatArray:
    """Of the float32 numbers next to largest / count, those that give most weights bit for bit."""
    middle = (largest / counts).astype(np.float32)
    choices = [
        middle,
        np.nextafter(middle, np.float32(-np.inf)),
        np.nextafter(middle, np.float32(np.inf)),
    ]
    codes = _codes(rows, middle[:, None])
    right = [(codes * step[:, None] == rows).sum(axis=1) for step in choices]
    step: FloatArray = np.choose(np.argmax(right, axis=0), choices).astype(np.float32)
    return step


def _codes(array: FloatArray, step: FloatArray) -> FloatArray:
    """How many steps each weight is, -128 .. 127, in float32."""
    codes: FloatArray = np.rint(np.divide(array, step, out=np.zeros_like(array), where=array != 0))
    return codes
