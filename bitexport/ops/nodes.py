"""From a layer's record to the contents of an ONNX node: packed tensors and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import UnsupportedModel
from bitexport.ops.table import PLUGIN_ATTRIBUTES, Op, op_named
from bitexport.packing import (
    code_words,
    pack_codes,
    pack_signs,
    sign_words,
    unpack_codes,
    unpack_signs,
)
from bitexport.spec import (
    BinaryConvSpec,
    CodebookConvSpec,
    CodebookLinearSpec,
    ConvGeometry,
    LayerSpec,
    SignConvSpec,
)

__all__ = ["NodeData", "dense_weight", "node_data"]

AttributeValue = int | str | tuple[int, ...]


@dataclass(frozen=True)
class NodeData:
    """What an ONNX node of the domain carries besides its activations.

    Attributes:
        op: The row of the op table.
        tensors: Input name -> constant array, without X and R.
        attributes: All attributes of the node, the plugin's name and version among them.
    """

    op: Op
    tensors: Mapping[str, npt.NDArray[Any]]
    attributes: Mapping[str, AttributeValue]


def node_data(spec: LayerSpec) -> NodeData:
    """Pack a layer into the tensors and attributes of its op.

    Args:
        spec: A layer whose signs hold no 0; see :mod:`bitexport.graph.emit` for zeros.

    Raises:
        UnsupportedModel: A sign is 0, or the codebook has more than 65536 centroids.
    """
    if isinstance(spec, SignConvSpec):
        return _sign_node(spec)
    return _codebook_node(spec)


def _sign_node(spec: SignConvSpec) -> NodeData:
    if spec.zero_weights:
        raise UnsupportedModel(
            "a 1-bit weight cannot be 0",
            got=f"{spec.zero_weights} zero weights",
            expected="-1 or +1",
            fix="Split the layer into two sign layers first, or use --zero-weights plus-one.",
        )
    words = pack_signs(np.moveaxis(spec.signs > 0, 1, -1))
    tensors: dict[str, npt.NDArray[Any]] = {"W": words}
    name = "SignConv"
    if isinstance(spec, BinaryConvSpec):
        name = "BinaryConv"
        tensors["Th"] = spec.threshold.reshape(1, -1, 1, 1)
    tensors |= _scale_and_bias(spec, (1, -1, 1, 1))
    return NodeData(op_named(name), tensors, _attributes(spec.weight_shape, spec.geometry))


def _codebook_node(spec: CodebookConvSpec | CodebookLinearSpec) -> NodeData:
    centroids = spec.codebook.shape[0]
    if centroids > 1 << 16:
        raise UnsupportedModel(
            "a codebook is too large",
            got=f"{centroids} centroids",
            expected="at most 65536",
            fix="Quantize the layer with fewer centroids.",
        )
    if isinstance(spec, CodebookLinearSpec):
        op, code_bits, geometry = op_named("CodebookGemm"), 16, None
    else:
        code_bits = 8 if centroids <= 1 << 8 else 16
        op = op_named("CodebookConv" if code_bits == 8 else "CodebookConv16")
        geometry = spec.geometry
    tensors: dict[str, npt.NDArray[Any]] = {
        "Codes": pack_codes(spec.codes, code_bits),
        "CB": spec.codebook,
    }
    tensors |= _scale_and_bias(spec, (1, -1) if geometry is None else (1, -1, 1, 1))
    return NodeData(op, tensors, _attributes(spec.weight_shape, geometry))


def _scale_and_bias(spec: LayerSpec, view: tuple[int, ...]) -> dict[str, npt.NDArray[Any]]:
    return {"S": spec.scale.reshape(view), "B": spec.bias.reshape(view)}


def _attributes(
    weight_shape: tuple[int, ...], geometry: ConvGeometry | None
) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    if geometry is not None:
        attributes = {
            "strides": geometry.strides,
            "pads": geometry.pads,
            "dilations": geometry.dilations,
            "group": geometry.group,
        }
    return attributes | {"wshape": tuple(weight_shape)} | PLUGIN_ATTRIBUTES


def dense_weight(
    op: Op, tensors: Mapping[str, npt.NDArray[Any]], wshape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """The float32 weight of shape ``wshape`` that a node's packed tensors stand for.

    Raises:
        UnsupportedModel: Words and shape disagree, or a code points past the codebook.
    """
    if "W" in tensors:
        channels = wshape[1]
        _require_words(op, tensors["W"], (wshape[0], *wshape[2:], sign_words(channels)))
        positive = unpack_signs(tensors["W"], channels)
        return np.moveaxis(np.where(positive, 1.0, -1.0).astype(np.float32), -1, 1)
    codebook = tensors["CB"]
    code_bits = 8 if op.name == "CodebookConv" else 16
    blocks = int(np.prod(wshape[1:])) // codebook.shape[1]
    _require_words(op, tensors["Codes"], (wshape[0], code_words(blocks, code_bits)))
    codes = unpack_codes(tensors["Codes"], blocks, code_bits)
    if codes.max(initial=0) >= codebook.shape[0]:
        raise UnsupportedModel(
            f"{op.name} has a code past its codebook",
            got=f"code {int(codes.max())}",
            expected=f"codes below {codebook.shape[0]}",
            fix="The file is damaged; export it again.",
        )
    return codebook[codes].reshape(wshape).astype(np.float32)


def _require_words(op: Op, words: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if words.shape != shape or words.dtype != np.int32:
        raise UnsupportedModel(
            f"{op.name} has a wrong packed weight",
            got=f"{words.dtype} {list(words.shape)}",
            expected=f"int32 {list(shape)}",
            fix="The file is damaged; export it again.",
        )
