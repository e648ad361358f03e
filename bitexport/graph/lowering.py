"""The passes that turn a captured graph into the file we ship, in their order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateHashedInitializersPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

from bitexport.graph.layers import LayerInfo, layers_of
from bitexport.graph.passes.attach_functions import attach_functions
from bitexport.graph.passes.chain_signs import chain_signs
from bitexport.graph.passes.copy_batch_in_reshape import copy_batch_in_reshape
from bitexport.graph.passes.drop_zero_bias import drop_zero_bias
from bitexport.graph.passes.expand_quantizers import expand_quantizers
from bitexport.graph.passes.fold_batch_norm import fold_batch_norm
from bitexport.graph.passes.fold_channel_shift import fold_channel_shift
from bitexport.graph.passes.fold_constants import fold_constants
from bitexport.graph.passes.fold_threshold import fold_threshold
from bitexport.graph.passes.fuse_activation import fuse_activation
from bitexport.graph.passes.fuse_quantizers import fuse_quantizers
from bitexport.graph.passes.fuse_residual import fuse_residual
from bitexport.graph.passes.move_quantizers import move_quantizers
from bitexport.graph.passes.name_after_modules import name_after_modules
from bitexport.graph.passes.narrow_constants import narrow_constants
from bitexport.graph.passes.narrow_weights import narrow_weights
from bitexport.graph.passes.part_pad_and_pool import part_pad_and_pool
from bitexport.graph.passes.split_means import split_means
from bitexport.graph.passes.split_prelu import split_prelu
from bitexport.graph.passes.tell_names_apart import tell_names_apart
from bitexport.graph.passes.to_float16 import to_float16
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN

__all__ = ["Lowered", "LoweringOptions", "computes_in_float16", "float16_values", "lower"]

# The lowest IR version that allows opset 18 and is read by ONNX Runtime 1.18.
_IR_VERSION = 8
# A shape has no more numbers; packed weights, which are to stay so, do.
_MOST_SIZES = 8


@dataclass(frozen=True)
class LoweringOptions:
    """How the shipped graph is to look.

    Attributes:
        float16: Compute in float16 behind a float32 input and output.
        plain: Standard ONNX operators only; the custom ops are replaced by their bodies.
    """

    float16: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Lowered:
    """What the passes report.

    Attributes:
        records: What each pass did to which layer, and what it left alone and why.
        layers: The layers as they are stored.
    """

    records: list[Record]
    layers: list[LayerInfo]


def lower(model: ir.Model, options: LoweringOptions | None = None) -> Lowered:
    """Run all passes on a captured graph, in place."""
    options = options or LoweringOptions()
    fold_constants(model)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    name_after_modules(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _lay_out_constants(model)
    drop_zero_bias(model)
    copy_batch_in_reshape(model)
    split_means(model)
    move_quantizers(model)
    part_pad_and_pool(model)
    records = fuse_quantizers(model)
    RemoveUnusedNodesPass()(model)
    expand_quantizers(model)
    records += fold_batch_norm(model, keep_float16=not options.float16)
    records += fuse_residual(model)
    records += fold_channel_shift(model)
    records += fold_threshold(model)
    records += fuse_activation(model)
    records += split_prelu(model)
    records += narrow_weights(model)
    records += to_float16(model) if options.float16 else narrow_constants(model)
    RemoveUnusedNodesPass()(model)
    if not options.plain:
        records += chain_signs(model)
        RemoveUnusedNodesPass()(model)
    # Before the layers are measured: two nodes of one layer may share their words.
    _deduplicate(DeduplicateHashedInitializersPass(), model)
    # Before, too, as a layer goes by the name of its node.
    tell_names_apart(model)
    attach_functions(model, inlined=options.plain)
    layers = layers_of(model)
    if options.plain:
        _inline(model)
    _deduplicate(DeduplicateInitializersPass(), model)
    TopologicalSortPass()(model)
    _strip(model)
    return Lowered(records, layers)


def computes_in_float16(model: ir.Model) -> bool:
    """Whether the graph casts its input to float16 first, as ``LoweringOptions.float16`` does."""
    return any(
        node.op_type == "Cast"
        and node.inputs[0] in model.graph.inputs
        and node.attributes.get_int("to", 0) == ir.DataType.FLOAT16
        for node in model.graph
    )


def float16_values(
    model: ir.Model, infer: Callable[[bytes], bytes] | None = None
) -> list[ir.Value]:
    """The values of a graph of ours that are float16, by onnx's inference: passes keep no types.

    Args:
        model: The graph.
        infer: What infers the shapes of a serialized model; by default onnx in this process, which
            a stranger's model might end.
    """
    proto = ir.to_proto(model)
    if infer is None:
        inferred = onnx.shape_inference.infer_shapes(proto)
    else:
        inferred = onnx.ModelProto.FromString(infer(proto.SerializeToString()))
    half = {
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    return [value for node in model.graph for value in node.outputs if value.name in half]


def _inline(model: ir.Model) -> None:
    """Replace our ops by their bodies, in operators and constants that any reader knows."""
    InlinePass()(model)
    # What a body computes from attributes alone is sizes, and shape inference wants to see them.
    fold_constants(model, {"input_size_limit": _MOST_SIZES, "output_size_limit": _MOST_SIZES})
    # An attribute handed on is a Constant of integers, where many readers know tensors only.
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    RemoveUnusedNodesPass()(model)
    model.graph.opset_imports.pop(DOMAIN, None)
    tell_names_apart(model)


def _lay_out_constants(model: ir.Model) -> None:
    """Copy constants that are views, as a folded Transpose leaves them: hashing wants plain rows.

    Only tensors that hold an array have strides; those read from a file are left unread.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.Tensor):
                continue
            array = tensor.numpy()
            if not array.flags.c_contiguous:
                rows = np.ascontiguousarray(array)
                value.const_value = ir.tensor(rows, dtype=tensor.dtype, name=value.name)


def _deduplicate(pass_: ir.passes.InPlacePass, model: ir.Model) -> None:
    """Run a pass that warns of every constant that a branch of an If returns, which it keeps."""
    noisy = logging.getLogger("onnx_ir.passes.common.initializer_deduplication")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        pass_(model)
    finally:
        noisy.setLevel(level)


def _strip(model: ir.Model) -> None:
    """Drop what a runtime infers by itself or never reads."""
    model.ir_version = _IR_VERSION
    model.producer_name = "bitexport"
    model.producer_version = None
    model.doc_string = None
    model.metadata_props.clear()
    interface = {*model.graph.inputs, *model.graph.outputs}
    for node in model.graph:
        # A reader without our ops infers no shape through them; theirs stay, and tell the rest.
        if node.domain == DOMAIN:
            continue
        for value in node.outputs:
            if value not in interface:
                value.type, value.shape = None, None
    for value in model.graph.initializers.values():
        if value not in interface:
            value.type, value.shape = None, None  # its tensor says the same
