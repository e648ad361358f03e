"""Store a float32 constant as float16 where that loses nothing.

    W float32 -> Conv     =>     W float16 -> Cast(float32) -> Conv

Weights that came from a float16 checkpoint are read back bit for bit at half the size, and every
runtime folds the Cast when it loads the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.graph.constants import constant, new_constant
from bitexport.graph.passes.narrow_weights import levels_of
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN

__all__ = ["fits_float16", "narrow_constants"]

# Below this many bytes saved, the Cast node and its names cost more than they save.
_MIN_SAVING = 256


def fits_float16(array: npt.NDArray[Any]) -> bool:
    """Whether float16 holds every value of a float32 array exactly."""
    if array.dtype != np.float32 or array.nbytes // 2 < _MIN_SAVING:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float16).astype(np.float32), array))


def _keeps_type(node: ir.Node) -> bool:
    return node.domain == DOMAIN or any(levels_of(value) for value in node.outputs)


def narrow_constants(model: ir.Model) -> list[Record]:
    """Narrow in place; constants of custom ops keep the type their schema gives them.

    So do the steps of weights that are stored in 8 bits.
    """
    records = []
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        array = constant(value)
        users = list(value.uses())
        if array is None or not users or any(_keeps_type(use.node) for use in users):
            continue
        if not fits_float16(array):
            continue
        del graph.initializers[name]
        value.name = f"{name}/float32"
        half = new_constant(graph, name, array.astype(np.float16))
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
        cast.outputs[0].name = f"{name}/float32"
        cast.outputs[0].type, cast.outputs[0].shape = value.type, value.shape
        graph.insert_before(next(iter(graph)), [cast])
        value.replace_all_uses_with(cast.outputs[0])
        records.append(Record("narrow-constants", name, True, "float16 holds it exactly"))
    return records
