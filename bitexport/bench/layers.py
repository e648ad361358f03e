"""The nodes of a model: what each takes, and what bounds it."""

from __future__ import annotations

import math

import numpy as np

from bitexport.bench.record import LayerTime
from bitexport.bench.roofline import Rates
from bitexport.ops.table import OPS, op_named
from bitexport.runtimes.base import Arrays
from bitexport.runtimes.ort_profile import NodeTime, Tensor, profile_nodes

__all__ = ["PROFILED", "layer_times"]

# Runtimes that ONNX Runtime's profiler can look into -> whether they run our kernels.
PROFILED = {"ort": False, "ort-native": True}
_RUNS = 20
_WIDTHS = {"float": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}
_OVERHEAD = 8  # times the floor: neither memory nor arithmetic explains the time
_BITS = 32


def layer_times(
    model: str,
    runtime: str,
    precision: str,
    data: bytes,
    inputs: Arrays,
    threads: int,
    rates: Rates,
) -> list[LayerTime]:
    """Profile a model in one of the runtimes of ``PROFILED``.

    Args:
        model: Name for the report.
        runtime: Name of the runtime.
        precision: Name for the report.
        data: Serialized ModelProto.
        inputs: Input name -> array; its first dimension is the batch.
        threads: Threads inside an operator.
        rates: What the machine can do.

    Returns:
        The nodes in the order of execution.

    Raises:
        RuntimeFailure: ONNX Runtime refuses the model.
    """
    nodes = profile_nodes(data, inputs, native=PROFILED[runtime], threads=threads, runs=_RUNS)
    total = sum(node.microseconds for node in nodes) or 1.0
    batch = int(next(iter(inputs.values())).shape[0])
    found = []
    for node in nodes:
        count, operations = _bytes(node), _operations(node)
        floor, bound = rates.floor_ms(count, operations, binary=_is_binary(node))
        ms = node.microseconds / 1e3
        found.append(
            LayerTime(
                model=model,
                runtime=runtime,
                precision=precision,
                batch=batch,
                name=_readable(node.name),
                op=node.op,
                ms=ms,
                share=node.microseconds / total,
                bytes=count,
                ops=operations,
                floor_ms=floor,
                bound="overhead" if ms > _OVERHEAD * floor else bound,
            )
        )
    return found


def _is_binary(node: NodeTime) -> bool:
    return node.op.startswith("BinaryConv")


def _readable(name: str) -> str:
    return name.removesuffix("_nchwc").removeprefix("_inlfunc_")


def _bytes(node: NodeTime) -> int:
    counts = [_nbytes(t) for t in (*node.inputs, *node.outputs)]
    if _is_binary(node) and node.inputs:
        # Of signs, the kernels touch a bit each.
        op = op_named(node.op)
        for index, tensor, signs in (
            (0, node.inputs[0], op.takes_signs),
            (-1, node.outputs[-1], op.makes_signs),
        ):
            counts[index] = math.prod(tensor.shape) // 8 if signs else counts[index]
    return sum(counts)


def _nbytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * _WIDTHS.get(tensor.dtype, 4)


def _operations(node: NodeTime) -> int:
    """Two a multiply-accumulate; one an element where a node only moves or compares."""
    out = sum(math.prod(t.shape) for t in node.outputs)
    weight = node.inputs[_WEIGHT_INPUTS[node.op]].shape if _has_weight(node) else ()
    if not weight:
        return out
    if _is_binary(node):
        return 2 * out * int(np.prod(weight[1:])) * _BITS
    if node.op in _PRODUCTS:
        return 2 * out * int(node.inputs[0].shape[-1])
    return 2 * out * int(np.prod(weight[1:]))


_WEIGHT_INPUTS = {
    "Conv": 1,
    "FusedConv": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "QLinearConv": 3,
    **{op.name: op.weight_input for op in OPS if op.name.startswith("BinaryConv")},
}
_PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def _has_weight(node: NodeTime) -> bool:
    return node.op in _WEIGHT_INPUTS and len(node.inputs) > _WEIGHT_INPUTS[node.op]
