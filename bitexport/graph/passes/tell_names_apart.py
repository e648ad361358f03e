"""Rename what a pass called as something else is called already.

The passes name what they write after the node at hand, and a file may call its own so:

    P.scale = constant, P.scale = Mul(..)   =>   P.scale.1 = constant, P.scale = Mul(..)
    P/Mul = Mul(..), P/Mul = Mul(..)        =>   P/Mul = Mul(..), P/Mul_1 = Mul(..)

Values go by their module's path, so that it is the constants that give way to them.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from bitexport.graph.names import free_name

__all__ = ["tell_names_apart"]


def tell_names_apart(model: ir.Model) -> None:
    """Rename in place; nothing where all names differ."""
    constants = model.graph.initializers
    computed = {value.name for node in model.graph for value in node.outputs}
    computed |= {value.name for value in model.graph.inputs if not value.is_initializer()}
    for name in [name for name in constants if name in computed]:
        constants[name].name = free_name(name, computed | set(constants), ".")
    NameFixPass()(model)
