"""Write quantizers that no op of ours took over as standard operators.

    BipolarQuant(X, s)     =>   Where(X >= 0, +1, -1) * s
    Quant(X, s, z, bits)   =>   (Round(Clip(X / s + z, low, high)) - z) * s
    Quant(X, s, z, 1)      =>   (Where(X / s + z >= 0, +1, -1) - z) * s      if signed

A quantizer of a constant becomes the constant that it computes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.names import free_name
from bitexport.graph.quantizers import (
    DOMAINS,
    IntegerGrid,
    bipolar_scale,
    integer_grid,
    is_quantizer,
)

__all__ = ["expand_quantizers"]

Float32Array = npt.NDArray[np.float32]
_ROUND: dict[str, Callable[[Float32Array], Float32Array]] = {
    "Round": np.round,
    "Ceil": np.ceil,
    "Floor": np.floor,
}


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
    grid = None if bipolar else integer_grid(node)
    if len(node.inputs) != (4 if node.op_type != "BipolarQuant" else 2) or None in node.inputs:
        raise UnsupportedModel(
            f"quantizer {node.name!r} is malformed",
            got=f"{node.op_type} with {len(node.inputs)} inputs",
            expected="X and scale for BipolarQuant; zero point and bit width too for Quant",
            fix="Export the network again.",
        )
    arrays = [constant(value) for value in node.inputs[: 2 if bipolar else 3]]
    graph = graph_of(node)
    if all(array is not None for array in arrays):
        with np.errstate(all="ignore"):
            value = _computed([a for a in arrays if a is not None], grid)
        take_over_output(node, new_constant(graph, f"{node.name}.value", value))
        return
    nodes = _bipolar_nodes(node) if grid is None else _integer_nodes(node, grid)
    for new in nodes:
        boolean = new.op_type == "GreaterOrEqual"
        new.outputs[0].type = ir.TensorType(ir.DataType.BOOL) if boolean else node.outputs[0].type
        new.outputs[0].shape = node.outputs[0].shape
        # Shapes are read off by the names of the file's own values.
        new.outputs[0].name = free_name(new.name or "", taken)
        taken.add(new.outputs[0].name)
    graph.insert_before(node, nodes)
    take_over_output(node, nodes[-1].outputs[0])


def _computed(arrays: list[npt.NDArray[np.float32]], grid: IntegerGrid | None) -> Float32Array:
    x, scale = arrays[:2]
    if grid is None:
        return np.asarray(np.where(x >= 0, scale, -scale), np.float32)
    zero = arrays[2]
    steps = x / scale + zero
    if grid.rounding is None:
        integers = np.where(steps >= 0, grid.high, grid.low).astype(np.float32)
    else:
        clipped = np.clip(steps, grid.low, grid.high).astype(np.float32)
        integers = _ROUND[grid.rounding](clipped)
    return np.asarray((integers - zero) * scale, np.float32)


def _chain(node: ir.Node) -> Callable[..., ir.Node]:
    """Makes nodes named after the quantizer they replace."""

    def make(op_type: str, *inputs: ir.Value) -> ir.Node:
        return ir.node(op_type, list(inputs), name=f"{node.name}/{op_type}")

    return make


def _number(node: ir.Node, suffix: str, value: float) -> ir.Value:
    return new_constant(graph_of(node), f"{node.name}.{suffix}", np.array(value, np.float32))


def _bipolar_nodes(node: ir.Node) -> list[ir.Node]:
    make, (x, scale) = _chain(node), node.inputs[:2]
    signs = _sign_nodes(node, x)
    return [*signs, make("Mul", signs[-1].outputs[0], scale)]


def _sign_nodes(node: ir.Node, x: ir.Value | None) -> list[ir.Node]:
    make = _chain(node)
    above = make("GreaterOrEqual", x, _number(node, "zero", 0))
    plus, minus = _number(node, "plus", 1), _number(node, "minus", -1)
    return [above, make("Where", above.outputs[0], plus, minus)]


def _integer_nodes(node: ir.Node, grid: IntegerGrid) -> list[ir.Node]:
    make, (x, scale, zero) = _chain(node), node.inputs[:3]
    shifted = constant(zero)
    centered = shifted is not None and not shifted.any()
    nodes = [make("Div", x, scale)]
    if not centered:
        nodes.append(make("Add", nodes[-1].outputs[0], zero))
    if grid.rounding is None:
        nodes += _sign_nodes(node, nodes[-1].outputs[0])
    else:
        low, high = _number(node, "low", grid.low), _number(node, "high", grid.high)
        nodes.append(make("Clip", nodes[-1].outputs[0], low, high))
        nodes.append(make(grid.rounding, nodes[-1].outputs[0]))
    if not centered:
        nodes.append(make("Sub", nodes[-1].outputs[0], zero))
    return [*nodes, make("Mul", nodes[-1].outputs[0], scale)]
