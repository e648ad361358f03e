"""Write quantizers that no op of ours took over as standard operators.

    BipolarQuant(X, s)     =>   Where(X >= 0, +1, -1) * s
    Quant(X, s, z, bits)   =>   (Round(Clip(X / s + z, low, high)) - z) * s
    Quant(X, s, z, 1)      =>   (Where(X / s + z >= 0, +1, -1) - z) * s      if signed
    Trunc(X, s, z, ...)    =>   (Round(Clip(Round(X / s + z) / d, low, high)) - z') * s'

The last rounding may be another one. Those that round the size of a number become

    Sign(X) * Floor(Abs(X) + 0.5)   =>   Floor(X + 0.5)      if low >= 0

or with Ceil, with another shift or without. A quantizer of a constant becomes the constant that it
computes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.names import free_name
from bitexport.graph.quantizers import (
    DOMAINS,
    IntegerGrid,
    Truncation,
    bipolar_scale,
    integer_grid,
    is_quantizer,
    truncation,
)
from bitexport.graph.rounding import rounded

__all__ = ["expand_quantizers"]

Float32Array = npt.NDArray[np.float32]


def expand_quantizers(model: ir.Model) -> None:
    """Rewrite in place.

    Raises:
        UnsupportedModel: A quantizer of another kind.
    """
    taken = {value.name for node in model.graph for value in node.outputs}
    for node in list(model.graph):
        if is_quantizer(node):
            _expand(node, taken)
    for domain in DOMAINS:
        model.graph.opset_imports.pop(domain, None)


def _expand(node: ir.Node, taken: set[str | None]) -> None:
    bipolar = node.op_type == "BipolarQuant" or bipolar_scale(node) is not None
    does = None if bipolar else truncation(node) if node.op_type == "Trunc" else integer_grid(node)
    count = len(node.inputs) if isinstance(does, Truncation) else 4
    if len(node.inputs) != (2 if node.op_type == "BipolarQuant" else count) or None in node.inputs:
        raise UnsupportedModel(
            f"quantizer {node.name!r} is malformed",
            got=f"{node.op_type} with {len(node.inputs)} inputs",
            expected="X and scale for BipolarQuant; zero point and bit width too for Quant",
            fix="Export the network again.",
        )
    arrays = [constant(value) for value in node.inputs[: 2 if bipolar else 3]]
    graph = graph_of(node)
    if all(array is not None for array in arrays):
        given = [array for array in arrays if array is not None]
        with np.errstate(all="ignore"):
            value = _computed(node, given, does)
        take_over_output(node, new_constant(graph, f"{node.name}.value", value))
        return
    steps = _Steps(node)
    if does is None:
        _write_bipolar(steps)
    elif isinstance(does, Truncation):
        _write_truncation(steps, does)
    else:
        _write_grid(steps, does)
    for new in steps.nodes:
        boolean = new.op_type == "GreaterOrEqual"
        new.outputs[0].type = ir.TensorType(ir.DataType.BOOL) if boolean else node.outputs[0].type
        new.outputs[0].shape = node.outputs[0].shape
        # Shapes are read off by the names of the file's own values.
        new.outputs[0].name = free_name(new.name or "", taken)
        taken.add(new.outputs[0].name)
    graph.insert_before(node, steps.nodes)
    take_over_output(node, steps.nodes[-1].outputs[0])


def _computed(
    node: ir.Node, arrays: list[Float32Array], does: IntegerGrid | Truncation | None
) -> Float32Array:
    x, scale = arrays[:2]
    if does is None:
        return np.asarray(np.where(x >= 0, scale, -scale), np.float32)
    zero = arrays[2]
    integers = x / scale + zero
    if isinstance(does, Truncation):
        after = constant(node.inputs[does.scale])
        scale = scale if after is None else after
        zero = zero if does.zero is None else does.zero
        integers = np.round(integers) / does.divisor
        grid = does.grid
    else:
        grid = does
    return np.asarray((_on_grid(integers, grid) - zero) * scale, np.float32)


def _on_grid(x: Float32Array, grid: IntegerGrid) -> Float32Array:
    if grid.rounding is None:
        return np.where(x >= 0, grid.high, grid.low).astype(np.float32)
    return rounded(np.clip(x, grid.low, grid.high).astype(np.float32), grid.rounding)


class _Steps:
    """Nodes that take the place of a quantizer, each of which reads the one before.

    Args:
        node: The quantizer.

    Attributes:
        nodes: So far.
        value: What the last one gives; before them, what the quantizer reads.
    """

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.nodes: list[ir.Node] = []
        self.value = node.inputs[0]

    def then(self, op_type: str, *others: ir.Value | None) -> ir.Value:
        """Append a node; what it gives."""
        new = ir.node(op_type, [self.value, *others], name=f"{self.node.name}/{op_type}")
        self.nodes.append(new)
        self.value = new.outputs[0]
        return new.outputs[0]

    def constant(self, suffix: str, array: npt.ArrayLike) -> ir.Value:
        """A new one of float32."""
        name = f"{self.node.name}.{suffix}"
        return new_constant(graph_of(self.node), name, np.array(array, np.float32))


def _write_bipolar(steps: _Steps) -> None:
    _write_signs(steps)
    steps.then("Mul", steps.node.inputs[1])


def _write_signs(steps: _Steps) -> None:
    steps.then("GreaterOrEqual", steps.constant("zero", 0))
    steps.then("Where", steps.constant("plus", 1), steps.constant("minus", -1))


def _write_shift(steps: _Steps) -> bool:
    """X / s + z. Gives whether z is 0, and not written."""
    _, scale, zero = steps.node.inputs[:3]
    steps.then("Div", scale)
    offset = constant(zero)
    if offset is not None and not offset.any():
        return True
    steps.then("Add", zero)
    return False


def _write_grid(steps: _Steps, grid: IntegerGrid) -> None:
    _, scale, zero = steps.node.inputs[:3]
    centered = _write_shift(steps)
    if grid.rounding is None:
        _write_signs(steps)
    else:
        _write_rounding(steps, grid)
    if not centered:
        steps.then("Sub", zero)
    steps.then("Mul", scale)


def _write_truncation(steps: _Steps, does: Truncation) -> None:
    zero = steps.node.inputs[2]
    centered = _write_shift(steps)
    steps.then("Round")
    if (does.divisor != 1).any():
        steps.then("Div", steps.constant("divisor", does.divisor))
    _write_rounding(steps, does.grid)
    if not centered:
        steps.then("Sub", zero if does.zero is None else steps.constant("after", does.zero))
    steps.then("Mul", steps.node.inputs[does.scale])


def _write_rounding(steps: _Steps, grid: IntegerGrid) -> None:
    rounding = grid.rounding
    if rounding is None:
        raise TypeError(f"quantizer {steps.node.name!r} takes signs, and does not round")
    if np.isfinite([grid.low, grid.high]).all():
        steps.then("Clip", steps.constant("low", grid.low), steps.constant("high", grid.high))
    before = steps.value
    signed = rounding.of_size and grid.low < 0
    if signed:
        steps.then("Abs")
    if rounding.shift:
        steps.then("Add", steps.constant("shift", rounding.shift))
    size = steps.then(rounding.operator)
    if signed:
        steps.value = before
        steps.then("Sign")
        steps.then("Mul", size)
