"""A model as a runtime is to be given it: chains of binary convolutions, or none.

The op library for the CPU has kernels for them, and stock ONNX Runtime runs their bodies as
quickly as those of other ops. No GPU has kernels for them, but for what stands there without
chains.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bitexport.graph.passes.chain_signs import has_chains, unchain_signs

__all__ = ["as_given"]

_ON_THE_CPU = ("ort", "ort-native", "reference")


def as_given(data: bytes, runtime: str) -> bytes:
    """The model for a runtime of that name.

    Args:
        data: Serialized ModelProto.
        runtime: A name of the table of runtimes.

    Raises:
        UnsupportedModel: Its chains do not hold together.
    """
    if runtime in _ON_THE_CPU:
        return data
    model = ir.from_proto(onnx.ModelProto.FromString(data))
    if not has_chains(model):
        return data
    unchain_signs(model)
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
