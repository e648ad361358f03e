"""Open a foreign .onnx file without trusting it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from bitexport.errors import BitexportError, InputError, UnsupportedModel
from bitexport.graph.calls import refuse_unfolding
from bitexport.graph.layers import LayerInfo, layers_of
from bitexport.onnx_library import OnnxLibrary, OnnxRefusal
from bitexport.ops.loose_signs import loose_signs
from bitexport.ops.table import DOMAIN

__all__ = [
    "Classifier",
    "checked_layers",
    "classifier_of",
    "largest_value",
    "read_classifier",
    "read_onnx",
    "refusing_malformed",
]

# Zip and pickle, as torch.save writes them.
_CHECKPOINTS = (b"PK\x03\x04", b"\x80\x02")
_EXPORT_FIRST = "Export it with `bitexport onnx` first."
_LARGEST = 2 << 30
_LARGEST_VALUE = 1 << 30
_LARGEST_IMAGE = 1 << 24  # numbers: 64 MiB in float32
_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Classifier:
    """A model with one image in and one array of logits out.

    Attributes:
        data: The file's bytes.
        input_name: Takes float32 [N, C, H, W].
        output_name: Gives logits [N, classes].
        input_shape: (C, H, W).
        preprocessing: JSON: what its training did to a pixel; "" where the file does not say.
        classes: Length of the logits; None where the file leaves it open.
        fixed_batch: The only batch size that the model takes; None for any.
        own_ops: It has nodes of our domain.
    """

    data: bytes
    input_name: str
    output_name: str
    input_shape: tuple[int, int, int]
    preprocessing: str
    classes: int | None
    fixed_batch: int | None
    own_ops: bool


def read_onnx(path: Path, *, strict: bool = False) -> tuple[ir.Model, bytes]:
    """Parse an .onnx file and infer its shapes.

    Args:
        path: The file.
        strict: Refuse a model that onnx's checker finds fault with, as one has to before native
            code builds from it; otherwise it is still read for a report.

    Returns:
        The graph with shapes where onnx can infer them, and the file's bytes.

    Raises:
        InputError: It cannot be read, is no ONNX model, or asks for too much time or memory.
        UnsupportedModel: Its tensors lie in other files.
    """
    data = _read(path)
    with OnnxLibrary(path) as library:
        proto = anew = _parsed(path, data, library)
        if strict:
            _check(library, data, path)
        # Shapes only serve the report; a model that cannot be inferred is still shown.
        with suppress(OnnxRefusal):
            proto = onnx.ModelProto.FromString(library.infer_shapes(data))
            anew = onnx.ModelProto.FromString(library.infer_shapes(data, believing=False))
    try:
        model = ir.from_proto(proto)
        undeclared = ir.from_proto(anew)
    except Exception as error:
        raise _no_model(path, error) from error
    for read in (model, undeclared):
        _refuse_missing_graphs(read.graph, path)
        _require_modest(read, path)
    return model, data


def _parsed(path: Path, data: bytes, library: OnnxLibrary) -> onnx.ModelProto:
    """The message, once it is known to be of a usual size."""
    proto = onnx.ModelProto()
    try:
        library.require_modest(data)
        proto.ParseFromString(data)
    except (OnnxRefusal, DecodeError, ValueError) as error:
        if data.startswith(_CHECKPOINTS):
            raise _no_model(path, "a file of torch.save", _EXPORT_FIRST) from error
        raise _no_model(path, error) from error
    if not proto.graph.node:
        raise _no_model(path, "a message without a graph")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _tensors(proto)):
        raise UnsupportedModel(
            f"{path}: the model keeps tensors in other files",
            got="external data",
            expected="one self-contained file",
            fix="Save the model again without external data.",
        )
    refuse_unfolding(proto, path)
    if (found := loose_signs(proto)) is not None:
        raise InputError(
            f"{path}: a broken chain of binary convolutions",
            got=found,
            expected="signs that go from one op of a chain straight to others",
            fix="Export the model again with `bitexport onnx`.",
        )
    return proto


def _refuse_missing_graphs(graph: ir.Graph, path: Path) -> None:
    """A node's graph may be that of a function's call, of which there is none here."""
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                continue
            if attribute.value is None:
                raise InputError(
                    f"{path}: not a sound ONNX model",
                    got=f"{node.op_type} {node.name!r} with a graph of the function around it",
                    expected="such references within functions only",
                    fix="The file is damaged; export the model again.",
                )
            single = attribute.type is ir.AttributeType.GRAPH
            for inner in [attribute.value] if single else attribute.value:
                _refuse_missing_graphs(inner, path)


def _require_modest(model: ir.Model, path: Path) -> None:
    """Refuse what would take all memory of whoever runs it; a size left open counts as 1."""
    for value in _values(model):
        if _sample_bytes(value) > _LARGEST_VALUE:
            node = value.producer()
            origin = "an input" if node is None else f"a node {node.op_type}"
            raise InputError(
                f"{path}: the model asks for too much memory",
                got=f"a value of shape {_sizes(value)} from {origin}",
                expected=f"values of up to {_LARGEST_VALUE >> 30} GiB for one sample",
                fix="Look where the file comes from; it may have been made to do harm.",
            )


def largest_value(model: ir.Model) -> int:
    """Bytes of the largest value of known shape, for one sample where the batch is left open."""
    return max(map(_sample_bytes, _values(model)), default=0)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph.all_nodes():
        yield from node.outputs


def _sizes(value: ir.Value) -> list[int]:
    return [n if isinstance(n, int) else 1 for n in value.shape or ()]


def _sample_bytes(value: ir.Value) -> int:
    return 4 * math.prod(_sizes(value))  # whatever it holds, it is mostly float32


def _check(library: OnnxLibrary, data: bytes, path: Path) -> None:
    try:
        library.check(data)
    except OnnxRefusal as error:
        raise InputError(
            f"{path}: not a sound ONNX model",
            got=str(error).splitlines()[0],
            expected="a model that onnx's checker accepts",
            fix="The file is damaged; export the model again.",
        ) from error


def checked_layers(model: ir.Model, path: Path) -> list[LayerInfo]:
    """The layers of a foreign graph.

    Raises:
        InputError: A packed weight, or the attributes beside it, break the op's schema.
    """
    try:
        return layers_of(model)
    except Exception as error:
        got = f"{error.what}, {error.got}" if isinstance(error, BitexportError) else error
        raise InputError(
            f"{path}: a layer is malformed",
            got=got,
            expected="the inputs and attributes of the op's schema",
            fix="The file is damaged; export the model again.",
        ) from error


@contextmanager
def refusing_malformed(path: Path) -> Iterator[None]:
    """Blame the file for what the libraries within raise over a graph that does not add up.

    Raises:
        InputError: In place of any error that is not our own.
    """
    try:
        yield
    except (BitexportError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{path}: a malformed model",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a graph whose names, types and shapes agree",
            fix="The file is damaged; export the model again.",
        ) from error


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, attributes, those of subgraphs and functions too."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in (value,) if isinstance(value, Message) else value:
                yield from _tensors(child)


def read_classifier(path: Path, size: tuple[int, int] | None = None) -> Classifier:
    """Open an .onnx file that classifies images.

    Args:
        path: The file.
        size: (H, W) where the file leaves them open; 224 x 224 by default.

    Raises:
        InputError: It cannot be read, has other inputs and outputs, or images of another size.
    """
    model, data = read_onnx(path)
    checked_layers(model, path)
    classifier = classifier_of(path, model, data, size)
    if size is not None and classifier.input_shape[1:] != size:
        raise InputError(
            f"{path}: it takes images of one size",
            got="--input-size {}x{}".format(*size),
            expected="{}x{}".format(*classifier.input_shape[1:]),
            fix="Leave --input-size out, or export the model for images of that size.",
        )
    return classifier


def classifier_of(
    path: Path, model: ir.Model, data: bytes, size: tuple[int, int] | None
) -> Classifier:
    """The interface of a graph that classifies images.

    Raises:
        InputError: It has other inputs and outputs.
    """
    inputs, outputs = model.graph.inputs, model.graph.outputs
    shape = inputs[0].shape if len(inputs) == 1 else None
    if len(outputs) != 1 or shape is None or len(shape) != 4:
        fix = "Export the model with `bitexport onnx`."
        if len(outputs) > 1:
            fix = "Run a detector or its backbone with bitexport.session()."
        raise InputError(
            f"{path}: not an image classifier",
            got=f"inputs {[str(v.shape) for v in inputs]} and {len(outputs)} outputs",
            expected="one input [N, C, H, W] and one output",
            fix=fix,
        )
    usual = (3, *(size or (_DEFAULT_SIZE, _DEFAULT_SIZE)))
    channels, height, width = (
        n if isinstance(n, int) else other for n, other in zip(shape[1:], usual, strict=True)
    )
    if min(channels, height, width) < 1 or channels * height * width > _LARGEST_IMAGE:
        raise InputError(
            f"{path}: it takes no images of a usual size",
            got=f"an input of shape [N, {channels}, {height}, {width}]",
            expected=f"images of 1 to {_LARGEST_IMAGE} numbers",
            fix="Name another model, or a smaller --input-size.",
        )
    batch = _size(shape, 0)
    return Classifier(
        data=data,
        input_name=inputs[0].name or "",
        output_name=outputs[0].name or "",
        input_shape=(channels, height, width),
        preprocessing=model.metadata_props.get("bitexport.preprocessing", ""),
        classes=_size(outputs[0].shape, -1),
        # Some exporters write -1 for any, which ONNX Runtime takes as such.
        fixed_batch=batch if batch is not None and batch > 0 else None,
        own_ops=any(node.domain == DOMAIN for node in model.graph),
    )


def _size(shape: ir.Shape | None, axis: int) -> int | None:
    """A dimension, if it is a number."""
    dim = None if shape is None or len(shape) == 0 else shape[axis]
    return dim if isinstance(dim, int) else None


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise _no_model(path, "no such file" if not path.exists() else "no regular file")
        if path.stat().st_size > _LARGEST:
            raise _no_model(path, f"{path.stat().st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise _no_model(path, error.strerror) from error


def _no_model(
    path: Path, got: object, fix: str = "Check the path, or export the model again."
) -> InputError:
    return InputError(
        f"{path}: not an ONNX model",
        got=got,
        expected="an .onnx file below 2 GiB",
        fix=fix,
    )
