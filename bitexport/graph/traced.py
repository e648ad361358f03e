"""Detector -> ONNX graph, by tracing: proposals and non-maximum suppression decide their shapes.

torch.export cannot follow code whose shapes depend on the data, and torchvision has an ONNX path
of its own for TorchScript's tracer. A tracer records values, so it gets a dense twin of the model,
and the quantized layers are put back afterwards, by the name of the weight that a node reads:

    Conv(X, "rpn.head.conv.0.0.weight", b)  =>  CodebookConv(X, Codes, CB, S, B)

    Gemm(X [R, C], W, b)           =>  the R rows as the pixels of one image:
                                       Transpose -> [C, R] -> Unsqueeze -> [1, C, R, 1]
                                       -> CodebookConv 1x1 -> Squeeze -> Transpose
                                       (CodebookGemm where a code takes more than 8 bits)

    ConvTranspose(X, W, b)         =>  one CodebookConv 1x1 for each weight of a centroid
                                       -> Concat -> Gather -> DepthToSpace

All three are exact: the same products are summed. See ``CodebookConvTransposeSpec`` for the last.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass
from torch import nn

from bitexport.errors import UnsupportedModel
from bitexport.graph.capture import INPUT_NAME, Captured
from bitexport.graph.constants import graph_of, new_constant, take_over_output
from bitexport.graph.passes.name_after_modules import SCOPES
from bitexport.layers import spec_of
from bitexport.ops.bodies import OPSET
from bitexport.ops.nodes import node_data
from bitexport.ops.table import DOMAIN
from bitexport.spec import CodebookConvSpec, CodebookConvTransposeSpec, CodebookLinearSpec

__all__ = ["THRESHOLD_NAME", "capture_traced", "finish_traced"]

THRESHOLD_NAME = "score_threshold"

_WEIGHT = ".weight"
_TELLING_NAMES = (".Codes", _WEIGHT, ".bias")
# As wide as torchvision's detectors want it, so that it is not enlarged, and quick to run through.
_TRACED_SHAPE = (3, 64, 1333)
_EXPECTED_WARNINGS = (
    DeprecationWarning,
    FutureWarning,
    UserWarning,
    torch.jit.TracerWarning,  # type: ignore[attr-defined]
)
_CodebookSpec = CodebookConvSpec | CodebookConvTransposeSpec | CodebookLinearSpec


def capture_traced(module: nn.Module, outputs: Sequence[str]) -> Captured:
    """Export a detector with its product-quantized layers as custom-op nodes.

    Args:
        module: In evaluation mode; takes an image [1, 3, H, W] and a score threshold. Left as it
            is. The graph takes images of any H and W.
        outputs: Names of what the module returns.

    Raises:
        UnsupportedModel: A quantized layer is of another kind, or torch cannot trace the model.
    """
    twin = copy.deepcopy(module)
    specs = _replace_by_dense(twin)
    model = _trace(twin.eval(), outputs)
    graph = model.graph
    for node in list(graph):
        layer = _layer_of(node)
        if layer is None:
            continue
        spec = specs.get(layer)
        if spec is None:
            _name(node, layer)
        else:
            _put_back(node, layer, spec)
    RemoveUnusedNodesPass()(model)
    CommonSubexpressionEliminationPass()(model)  # torchvision asks for the same shapes many times
    # The trace's own shapes are those of one image; nobody may rely on them.
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    return Captured(model, [], {})


def finish_traced(model: ir.Model, threshold: float) -> None:
    """Make the score threshold an input that may be left out, and shorten names, in place.

    An initializer of an input's name is the input's default. Of 1,400 nodes most belong to no
    layer, and the names that the tracer gave them took more bytes than they do.
    """
    graph = model.graph
    interface = {*graph.inputs, *graph.outputs}
    for index, (name, value) in enumerate(list(graph.initializers.items())):
        tensor = value.const_value
        if name.endswith(_TELLING_NAMES) or value in interface or tensor is None:
            continue
        del graph.initializers[name]
        value.name = tensor.name = f"c{index}"
        graph.register_initializer(value)
    for index, node in enumerate(graph):
        if "." in (node.name or ""):
            continue
        # ONNX Runtime 1.20 makes names of its own of these, and wants them to differ.
        node.name = f"_{index}"
        for position, value in enumerate(node.outputs):
            if value not in interface:
                value.name = f"_{index}" if position == 0 else f"_{index}:{position}"
    value = next(x for x in model.graph.inputs if x.name == THRESHOLD_NAME)
    value.const_value = ir.tensor(np.array(threshold, np.float32), name=THRESHOLD_NAME)
    model.graph.register_initializer(value)


def _replace_by_dense(module: nn.Module) -> dict[str, _CodebookSpec]:
    """Put dense layers in place of the quantized ones; their names and specs."""
    specs: dict[str, _CodebookSpec] = {}
    for name, layer in list(module.named_modules()):
        spec = spec_of(layer)
        if spec is None:
            continue
        if not isinstance(spec, _CodebookSpec):
            raise UnsupportedModel(
                f"layer {name!r} cannot be exported in a detector",
                got=type(layer).__name__,
                expected="product-quantized or dense layers",
                fix="Export the backbone by itself.",
            )
        specs[name] = spec
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, _dense(spec))
    return specs


def _dense(spec: _CodebookSpec) -> nn.Module:
    """The layer with the weight that its codes stand for, as float32."""
    rows, columns, *kernel = spec.weight_shape
    layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    if isinstance(spec, CodebookLinearSpec):
        layer = nn.Linear(columns, rows)
    elif isinstance(spec, CodebookConvTransposeSpec):
        size = (kernel[0], kernel[1])
        layer = nn.ConvTranspose2d(rows, columns, size, size)
    else:
        geometry = spec.geometry
        layer = nn.Conv2d(
            columns * geometry.group,
            rows,
            (kernel[0], kernel[1]),
            geometry.strides,
            geometry.pads[:2],
            geometry.dilations,
            geometry.group,
        )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(spec.weight().astype(np.float32)))
        cast(torch.Tensor, layer.bias).copy_(torch.from_numpy(spec.bias))
    return layer


def _trace(module: nn.Module, outputs: Sequence[str]) -> ir.Model:
    example = (torch.zeros(1, *_TRACED_SHAPE), torch.tensor(0.0))
    found, size = {0: "detections"}, {2: "height", 3: "width"}
    axes = {name: found | (size if name == "masks" else {}) for name in outputs}
    file = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # That this tracer is old, and what it might record wrongly: the result is verified.
            for category in _EXPECTED_WARNINGS:
                warnings.simplefilter("ignore", category)
            torch.onnx.export(
                module,
                example,
                cast(Any, file),
                dynamo=False,
                input_names=[INPUT_NAME, THRESHOLD_NAME],
                output_names=list(outputs),
                dynamic_axes={INPUT_NAME: size, **axes},
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UnsupportedModel(
            "torch could not trace the detector",
            got=first_line,
            expected="a model that torchvision exports",
            fix="Export its backbone; --debug shows torch's report.",
        ) from error
    return ir.from_proto(onnx.load_from_string(file.getvalue()))


def _layer_of(node: ir.Node) -> str | None:
    """Path of the module whose weight a node reads."""
    for value in node.inputs[1:2]:
        if value is not None and value.is_initializer() and (value.name or "").endswith(_WEIGHT):
            return (value.name or "").removesuffix(_WEIGHT)
    return None


def _name(node: ir.Node, layer: str) -> None:
    """Say which module a node comes from, as torch.export's graphs do."""
    node.metadata_props[SCOPES] = repr([layer, node.op_type])


def _put_back(node: ir.Node, layer: str, spec: _CodebookSpec) -> None:
    """Compute a quantized layer in place of the dense one."""
    graph = graph_of(node)
    x = node.inputs[0]
    if x is None:
        raise TypeError(f"node {node.name!r} has no input")
    added: list[ir.Node] = []

    def add(op: str, *inputs: ir.Value, domain: str = "", **attributes: object) -> ir.Value:
        new = ir.node(op, list(inputs), cast(Mapping[str, ir.Attr], attributes), domain=domain)
        _name(new, layer)
        added.append(new)
        return new.outputs[0]

    def quantized(x: ir.Value, spec: CodebookConvSpec | CodebookLinearSpec) -> ir.Value:
        data = node_data(spec)
        tensors = [new_constant(graph, f"{layer}.{k}", v) for k, v in data.tensors.items()]
        attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in data.attributes.items()}
        return add(data.op.name, x, *tensors, domain=DOMAIN, **attributes)

    def ints(name: str, *values: int) -> ir.Value:
        return new_constant(graph, f"{layer}.{name}", np.array(values, np.int64))

    if isinstance(spec, CodebookConvTransposeSpec):
        y = _transposed(x, spec, add, quantized, ints)
    elif isinstance(spec, CodebookLinearSpec) and len(spec.codebook) <= 1 << 8:
        axes = ints("axes", 0, 3)
        pixels = add("Unsqueeze", add("Transpose", x, perm=[1, 0]), axes)
        y = quantized(pixels, _as_convolution(spec))
        y = add("Transpose", add("Squeeze", y, axes), perm=[1, 0])
    else:
        y = quantized(x, spec)
    graph.insert_before(node, added)
    take_over_output(node, y)


def _transposed(
    x: ir.Value,
    spec: CodebookConvTransposeSpec,
    add: Callable[..., ir.Value],
    quantized: Callable[[ir.Value, CodebookConvSpec], ir.Value],
    ints: Callable[..., ir.Value],
) -> ir.Value:
    parts = [quantized(x, part) for part in spec.parts()]
    y = parts[0] if len(parts) == 1 else add("Concat", *parts, axis=1)
    order = spec.depth_order()
    if not np.array_equal(order, np.arange(len(order))):
        y = add("Gather", y, ints("order", *order), axis=1)
    return add("DepthToSpace", y, blocksize=spec.weight_shape[2], mode="DCR")


def _as_convolution(spec: CodebookLinearSpec) -> CodebookConvSpec:
    """A linear layer as a 1x1 convolution."""
    fields = replace(spec, weight_shape=(*spec.weight_shape, 1, 1))
    return CodebookConvSpec(
        fields.codes, fields.codebook, fields.weight_shape, fields.scale, fields.bias
    )
