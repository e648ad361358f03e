"""Open a foreign .onnx file without trusting it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from bitexport.errors import BitexportError, InputError, UnsupportedModel
from bitexport.graph.layers import LayerInfo, layers_of

__all__ = ["checked_layers", "read_onnx"]

_LARGEST = 2 << 30


def read_onnx(path: Path, *, strict: bool = False) -> tuple[ir.Model, bytes]:
    """Parse an .onnx file and infer its shapes.

    Args:
        path: The file.
        strict: Refuse a model that onnx's checker finds fault with, as one has to before native
            code builds from it; otherwise it is still read for a report.

    Returns:
        The graph with shapes where onnx can infer them, and the file's bytes.

    Raises:
        InputError: It cannot be read, or is no ONNX model.
        UnsupportedModel: Its tensors lie in other files.
    """
    data = _read(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, ValueError) as error:
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
    if strict:
        _check(proto, path)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except Exception:
        # Shapes only serve the report; a model that cannot be inferred is still shown.
        inferred = proto
    try:
        return ir.from_proto(inferred), data
    except Exception as error:
        raise _no_model(path, error) from error


def _check(proto: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise InputError(
            f"{path}: not a sound ONNX model",
            got=first[0] if first else type(error).__name__,
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


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, attributes, those of subgraphs and functions too."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in (value,) if isinstance(value, Message) else value:
                yield from _tensors(child)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise _no_model(path, "no such file" if not path.exists() else "no regular file")
        if path.stat().st_size > _LARGEST:
            raise _no_model(path, f"{path.stat().st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise _no_model(path, error.strerror) from error


def _no_model(path: Path, got: object) -> InputError:
    return InputError(
        f"{path}: not an ONNX model",
        got=got,
        expected="an .onnx file below 2 GiB",
        fix="Check the path, or export the model again.",
    )
