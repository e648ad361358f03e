"""Read a QONNX file: a network whose quantizers are nodes, as Brevitas and FINN write it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from bitexport.errors import BitexportError, InputError, UnsupportedModel
from bitexport.graph.capture import INPUT_NAME, OUTPUT_NAME
from bitexport.graph.passes.expand_quantizers import expand_quantizers
from bitexport.graph.passes.fold_parameters import fold_parameters
from bitexport.graph.passes.name_after_modules import SCOPES
from bitexport.graph.passes.part_pad_and_pool import part_pad_and_pool
from bitexport.graph.passes.tell_names_apart import tell_names_apart
from bitexport.graph.quantizers import DOMAINS
from bitexport.graph.read import largest_value, read_onnx
from bitexport.onnx_library import OnnxLibrary, OnnxRefusal
from bitexport.ops.bodies import OPSET
from bitexport.ops.table import DOMAIN as OWN_DOMAIN

__all__ = ["QonnxModel", "read_qonnx"]

_LONGEST_SCOPES = 10_000


@dataclass(frozen=True)
class QonnxModel:
    """A network ready to be lowered.

    Attributes:
        graph: With its quantizers, of the opset that our function bodies are written in.
        reference: The same network with all quantizers as standard operators, serialized.
        input_shape: (N, C, H, W) or another rank; None where a dimension is not fixed.
        largest_value: Bytes of the largest value within, for one sample.
        name: The graph's name.
        bytes: Size of the file.
        sha256: Hash of the file, in hex.
    """

    graph: ir.Model
    reference: bytes
    input_shape: tuple[int | None, ...]
    largest_value: int
    name: str
    bytes: int
    sha256: str


def read_qonnx(path: Path) -> QonnxModel:
    """Read a QONNX file; its input and output become ``input`` and ``logits``.

    Raises:
        InputError: It cannot be read, or is no ONNX model.
        UnsupportedModel: It has no quantizers, operators or an interface that we do not take, or
            its opset cannot be converted.
    """
    _, data = read_onnx(path)
    given = onnx.ModelProto.FromString(data)
    _require_quantizers(path, given)
    _refuse_inner_quantizers(path, given)
    paths = _module_paths(given)
    with OnnxLibrary(path) as library:
        graph = _converted(path, given, library)
        _refuse_training(path, graph)
        for node in graph.graph:
            scopes = paths.get(node.outputs[0].name or "") if node.outputs else None
            node.metadata_props.pop(SCOPES, None)
            if scopes is not None:
                node.metadata_props[SCOPES] = repr(["", scopes, ""])
        _name_interface(path, graph)
        # The passes name what they write after the nodes, whose names ONNX leaves free. Values
        # that were called as the interface is now take other names: it comes first here.
        tell_names_apart(graph)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
        fold_parameters(graph)
        reference = _reference(path, graph, library)
    shape = graph.graph.inputs[0].shape
    return QonnxModel(
        graph=graph,
        reference=reference,
        input_shape=tuple(n if isinstance(n, int) else None for n in shape or ()),
        largest_value=largest_value(graph),
        name=given.graph.name or path.stem,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _require_quantizers(path: Path, model: onnx.ModelProto) -> None:
    domains = {node.domain for node in model.graph.node}
    foreign = sorted(domains - {"", "ai.onnx", *DOMAINS})
    if foreign == [OWN_DOMAIN]:
        raise UnsupportedModel(
            f"{path}: is exported already",
            got="a model with ops of ours",
            expected="a checkpoint or a QONNX network",
            fix="Use it as it is, with `bitexport inspect`, `verify`, `bench` or `trt`.",
        )
    if foreign or not domains & set(DOMAINS):
        raise UnsupportedModel(
            f"{path}: not a QONNX network",
            got=f"nodes of the domain {foreign[0]!r}" if foreign else "no quantizer nodes",
            expected=f"BipolarQuant, Quant or Trunc nodes of {DOMAINS[0]!r} in standard ONNX",
            fix="Give a checkpoint, or export the network with brevitas.export.export_qonnx.",
        )


def _refuse_inner_quantizers(path: Path, model: onnx.ModelProto) -> None:
    """QONNX's own executor runs a branch by ONNX Runtime, which knows no quantizers."""
    for node in model.graph.node:
        found = next((inner for inner in _inner_nodes(node) if inner.domain in DOMAINS), None)
        if found is not None:
            raise UnsupportedModel(
                f"{path}: quantizer {found.name!r} stands within {node.op_type} {node.name!r}",
                got=f"{found.op_type} in a branch or loop",
                expected="quantizers in the network's own graph",
                fix="Export the network without the branch.",
            )


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes of all graphs within a node."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from _inner_nodes(inner)


def _module_paths(model: onnx.ModelProto) -> dict[str, str]:
    """First output of a node -> path of the torch module that it belongs to, where known."""
    paths = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), "")
        path = _innermost(scopes) if scopes else _path_in_name(node)
        if path and node.output:
            paths[node.output[0]] = path
    return paths


def _innermost(scopes: str) -> str:
    """The module in the scopes that torch's exporter writes; "" for anything else."""
    if len(scopes) > _LONGEST_SCOPES:
        return ""
    try:
        parts = ast.literal_eval(scopes)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    known = isinstance(parts, list) and len(parts) > 1 and isinstance(parts[-2], str)
    return parts[-2].replace("/", ".") if known else ""


def _path_in_name(node: onnx.NodeProto) -> str:
    """``/features/0/Conv`` -> ``features.0``: how torch's older exporter names nodes."""
    return ".".join(part for part in node.name.split("/")[:-1] if part)


def _converted(path: Path, model: onnx.ModelProto, library: OnnxLibrary) -> ir.Model:
    """The model in our opset."""
    opset = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)
    named = {i.domain for i in model.opset_import}
    for domain in {node.domain for node in model.graph.node} & set(DOMAINS) - named:
        model.opset_import.add(domain=domain, version=1)
    try:
        if opset != OPSET:
            data = library.convert(model.SerializeToString(), OPSET)
            model = onnx.ModelProto.FromString(data)
        return ir.from_proto(model)
    except (BitexportError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"{path}: the model cannot be brought to opset {OPSET}",
            got=f"opset {opset}: {str(error).strip().splitlines()[0] if str(error) else error!r}",
            expected=f"operators that opset {OPSET} has",
            fix=f"Export the network with opset_version={OPSET}.",
        ) from error


def _refuse_training(path: Path, model: ir.Model) -> None:
    """Before constants are folded, with which some versions drop the attribute."""
    for node in model.graph.all_nodes():
        if (
            node.op_type == "BatchNormalization"
            and node.attributes.get_int("training_mode", 0) != 0
        ):
            raise UnsupportedModel(
                f"{path}: BatchNorm {node.name!r} takes the statistics of each batch",
                got="training_mode 1",
                expected="running statistics",
                fix="Put the model into evaluation mode, and export it again.",
            )


def _name_interface(path: Path, model: ir.Model) -> None:
    """Call the one input and the one output as in every file of ours."""
    graph = model.graph
    inputs = [v for v in graph.inputs if v.name not in graph.initializers]
    if len(inputs) != 1 or len(graph.outputs) != 1 or inputs[0].dtype != ir.DataType.FLOAT:
        raise UnsupportedModel(
            f"{path}: not one float32 input and one output",
            got=f"{len(inputs)} inputs and {len(graph.outputs)} outputs",
            expected="one of each",
            fix="Split the network.",
        )
    if inputs[0] is graph.outputs[0]:
        raise UnsupportedModel(
            f"{path}: the network computes nothing",
            got=f"an output that is the input {inputs[0].name!r} itself",
            expected="an output that a node computes",
            fix="Export the network again.",
        )
    graph.inputs[:] = inputs
    inputs[0].name, graph.outputs[0].name = INPUT_NAME, OUTPUT_NAME


def _reference(path: Path, model: ir.Model, library: OnnxLibrary) -> bytes:
    """The model in standard operators; its inferred shapes are noted in ``model`` too."""
    twin = ir.from_proto(ir.to_proto(model))
    expand_quantizers(twin)
    part_pad_and_pool(twin)
    RemoveUnusedNodesPass()(twin)
    tell_names_apart(twin)
    try:
        data = library.infer_shapes(ir.to_proto(twin).SerializeToString())
        library.check(data)
    except OnnxRefusal as error:
        raise InputError(
            f"{path}: the model is not valid ONNX",
            got=str(error).splitlines()[0],
            expected="a model that onnx's checker accepts",
            fix="Export the network again.",
        ) from error
    proto = onnx.ModelProto.FromString(data)
    known = {v.name: v for node in ir.from_proto(proto).graph for v in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            inferred = known.get(value.name)
            if inferred is not None:
                value.shape, value.type = value.shape or inferred.shape, value.type or inferred.type
    return data
