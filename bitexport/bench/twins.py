"""The full-precision twins of a model: float32, float16 and static int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.bench.subjects import Subject
from bitexport.errors import InputError
from bitexport.graph.dense import to_dense, to_half
from bitexport.runtimes.ort_int8 import static_int8

__all__ = ["PRECISIONS", "Twin", "parse_precisions", "twins_of"]

PRECISIONS = ("fp32", "fp16", "int8")
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Twin:
    """A model of the same architecture at another precision.

    Attributes:
        precision: One of ``PRECISIONS``.
        data: Serialized ModelProto.
        same_function: It computes what the given model computes, up to rounding: only the
            weights of the given model are quantized.
    """

    precision: str
    data: bytes
    same_function: bool


def twins_of(
    subject: Subject, precisions: Sequence[str], calibration: Sequence[FloatArray]
) -> list[Twin]:
    """Build the twins; a model that is full precision itself has none at its own precision.

    An engine whose source is not at hand has none at all.

    Args:
        subject: The model.
        precisions: Of ``PRECISIONS``.
        calibration: Batches float32 [N, C, H, W] for int8.

    Raises:
        RuntimeFailure: ONNX Runtime cannot quantize the float32 twin.
    """
    if subject.graph is None:
        return []
    graph = ir.from_proto(ir.to_proto(subject.graph))
    same = not any(layer.binary_activations for layer in subject.layers)
    same = same and not any(node.op_type.startswith("BinaryConv") for node in graph.graph)
    to_dense(graph)
    dense = _bytes(graph)
    built: list[Twin] = []
    wanted = [p for p in precisions if p != subject.precision]
    if "fp32" in wanted:
        built.append(Twin("fp32", dense, same))
    if "int8" in wanted:
        built.append(Twin("int8", static_int8(dense, subject.input_name, calibration), same))
    if "fp16" in wanted:
        to_half(graph)
        built.append(Twin("fp16", _bytes(graph), same))
    return built


def parse_precisions(text: str | None) -> tuple[str, ...]:
    """``"fp32,int8"`` to names; all of them for None.

    Raises:
        InputError: An unknown name.
    """
    names = PRECISIONS if text is None else tuple(x.strip() for x in text.split(",") if x.strip())
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown or not names:
        raise InputError(
            "wrong --precisions",
            got=", ".join(unknown) or "none",
            expected=f"some of {', '.join(PRECISIONS)}",
            fix="Correct it.",
        )
    return tuple(dict.fromkeys(names))


def _bytes(graph: ir.Model) -> bytes:
    return bytes(ir.to_proto(graph).SerializeToString(deterministic=True))
