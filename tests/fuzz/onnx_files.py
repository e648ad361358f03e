"""Mutated .onnx files: field by field of the message, and whole structures that are wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper

from fuzz.bytewise import WORDS, damage, int64, number
from fuzz.targets import Input
from fuzz.worker import TRAP

Seeds = dict[str, bytes]

_OPS = (
    "Conv", "Gemm", "Reshape", "Expand", "Tile", "Pad", "Gather", "Loop", "If", "ConstantOfShape",
    "Range", "SignConv", "BinaryConv", "BinaryConvAdd", "CodebookConv", "CodebookGemm", "Identity",
    "BinaryConvSign", "BinaryConvOfSigns", "CastLike", "MaxPool", "Resize",
    "BipolarQuant", "Quant", "Trunc", "Einsum", "OneHot", "",
)  # fmt: skip
_DOMAINS = ("", "ai.onnx", "bitexport", "qonnx.custom_op.general", "com.microsoft", "x")
_OUTSIDE = (
    f"../{TRAP}",
    TRAP,
    f"./{TRAP}",
    "/dev/zero",
    "../../../etc/passwd",
    "",
    "\x00",
    "input.onnx",
)
_WIDTH = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}


def mutate(given: Seeds, rng: random.Random, *, hungry: bool = True) -> Input:
    """A damaged, altered or rearranged model; one that asks for terabytes only if ``hungry``."""
    data = given[rng.choice(list(given))]
    if rng.random() < 0.15:
        return Input(damage(data, rng), ".onnx")
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_WAYS if hungry else _WAYS[:-1])(model, rng)
    if rng.random() < 0.02:
        return Input(_deeply_nested(rng), ".onnx")
    return Input(model.SerializePartialToString(), ".onnx")


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in (value,) if isinstance(value, Message) else value:
                yield from _messages(child)


def _any_field(model: onnx.ModelProto, rng: random.Random) -> None:
    """A field of any message dropped, doubled, exchanged, or given another value."""
    message: Any = rng.choice(list(_messages(model)))
    field = rng.choice(message.DESCRIPTOR.fields)
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == 3
    if repeated:
        _change_list(getattr(message, field.name), field, rng)
    elif rng.random() < 0.3:
        message.ClearField(field.name)
    elif field.message_type is None:
        setattr(message, field.name, _value(field, rng))


def _change_list(values: Any, field: FieldDescriptor, rng: random.Random) -> None:
    way = rng.randrange(4)
    if way == 0 and len(values):
        del values[rng.randrange(len(values)) :][: rng.choice((1, 1, 100))]
        return
    if field.message_type is not None:
        if len(values) and way == 1:
            values.add().CopyFrom(rng.choice(values))
        elif len(values) > 1:
            i, j = rng.sample(range(len(values)), 2)
            kept = type(values[i]).FromString(values[i].SerializePartialToString())
            values[i].CopyFrom(values[j])
            values[j].CopyFrom(kept)
    elif len(values) and way < 3:
        values[rng.randrange(len(values))] = _value(field, rng)
    else:
        values.append(_value(field, rng))


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.enum_type is not None:  # protobuf takes no others
        return rng.choice(field.enum_type.values).number
    if field.type in _WIDTH:
        least, most = _WIDTH[field.type]
        return max(least, min(most, number(rng)))
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(WORDS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 4, 7, 64, 5000)))
    return rng.choice((0.0, 1.0, -1.0, float("nan"), float("inf"), 3e38, 1e-42))


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [m for m in _messages(model) if isinstance(m, onnx.TensorProto)]


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [m for m in _messages(model) if isinstance(m, onnx.NodeProto)]


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    """A tensor that is not what it says."""
    tensors = _tensors(model)
    if not tensors:
        return
    tensor = rng.choice(tensors)
    way = rng.randrange(5)
    if way == 0:
        tensor.data_type = rng.choice((*range(26), -1, 2**31 - 1))
    elif way == 1:
        del tensor.dims[:]
        tensor.dims.extend(int64(rng) for _ in range(rng.randrange(7)))
    elif way == 2 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = int64(rng)
    elif way == 3 and tensor.raw_data:
        # Codes, indices and bits that are out of range, of the right length.
        values = bytearray(tensor.raw_data)
        at = rng.randrange(0, len(values), 4)
        values[at : at + 4] = struct.pack("<i", max(-(2**31), min(2**31 - 1, number(rng))))
        tensor.raw_data = bytes(values[: len(tensor.raw_data)])
    else:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]


def _external(model: onnx.ModelProto, rng: random.Random) -> None:
    """A tensor in another file, inside or outside the folder."""
    tensors = _tensors(model)
    if tensors:
        tensor = rng.choice(tensors)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        fields = {"location": rng.choice(_OUTSIDE), "offset": str(number(rng)), "length": "64"}
        for key in rng.sample(sorted(fields), rng.randint(1, 3)):
            tensor.external_data.add(key=key, value=fields[key])


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """An attribute of another value, type or name; or one more, or one less."""
    nodes = [node for node in _nodes(model) if node.attribute]
    if not nodes:
        return
    node = rng.choice(nodes)
    i = rng.randrange(len(node.attribute))
    name = node.attribute[i].name
    way = rng.randrange(6)
    if way == 0:
        del node.attribute[i]
    elif way == 1 and node.attribute[i].ints:
        ints = node.attribute[i].ints
        ints[rng.randrange(len(ints))] = int64(rng)
    elif way == 2:
        node.attribute[i].name = rng.choice((*WORDS, "pads", "group", "wshape", "strides", "to"))
    elif way == 3:
        node.attribute[i].type = rng.randrange(15)
    else:
        values = [
            int64(rng),
            [int64(rng) for _ in range(rng.randrange(8))],
            float("nan"),
            rng.choice(WORDS),
        ]
        kind = onnx.AttributeProto.INTS
        value = rng.choice(values)
        empty = isinstance(value, list) and not value
        made = helper.make_attribute(name, value, attr_type=kind if empty else None)
        node.attribute[i].CopyFrom(made)


def _rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    """Cycles, names that are there twice or not at all, inputs too many or too few."""
    nodes = [node for node in model.graph.node if node.input and node.output]
    if not nodes:
        return
    first, second = rng.choice(nodes), rng.choice(nodes)
    way = rng.randrange(5)
    if way == 0:
        first.input[rng.randrange(len(first.input))] = second.output[0]
    elif way == 1:
        first.output[0] = second.output[0]
    elif way == 2:
        first.input[rng.randrange(len(first.input))] = rng.choice(WORDS)
    elif way == 3:
        first.input.extend([first.input[0]] * rng.choice((1, 3, 1000)))
    else:
        del first.input[-1]


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = _nodes(model)
    if nodes:
        node = rng.choice(nodes)
        node.op_type = rng.choice(_OPS)
        if rng.random() < 0.5:
            node.domain = rng.choice(_DOMAINS)


def _functions(model: onnx.ModelProto, rng: random.Random) -> None:
    """Functions that call themselves or each other, or are gone, or there twice."""
    if not model.functions:
        return
    function = rng.choice(model.functions)
    way = rng.randrange(4)
    if way == 0:
        del model.functions[rng.randrange(len(model.functions))]
    elif way == 1:
        model.functions.add().CopyFrom(function)
    elif function.node:
        node = rng.choice(function.node)
        callee = rng.choice(model.functions)
        node.op_type, node.domain = callee.name, callee.domain
        function.opset_import.append(helper.make_opsetid(callee.domain, 1))


def _shapes(model: onnx.ModelProto, rng: random.Random) -> None:
    """Inputs and outputs of other ranks, sizes and types."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not values:
        return
    kind = rng.choice(values).type.tensor_type
    way = rng.randrange(4)
    if way == 0:
        kind.elem_type = rng.choice((*range(24), -1))
    elif way == 1:
        kind.ClearField("shape")
    elif way == 2:
        kind.shape.dim.add().dim_value = int64(rng)
    elif kind.shape.dim:
        dim = rng.choice(kind.shape.dim)
        dim.dim_value = int64(rng)


def _metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    """Properties of ours with odd JSON, and versions from the future."""
    way = rng.randrange(3)
    if way == 0 and model.metadata_props:
        rng.choice(model.metadata_props).value = rng.choice(
            (
                "[" * 50_000,
                '{"a":' * 50_000,
                "null",
                '[{"name": 1e999}]',
                '{"a": NaN}',
                "9" * 5000,
                *WORDS,
            )
        )
    elif way == 1:
        model.ir_version = int64(rng)
    elif model.opset_import:
        imported = rng.choice(model.opset_import)
        imported.version = rng.choice((0, 1, 6, 7, 11, 13, 17, 18, 19, 23, 99, 2**40))


def _hungry(model: onnx.ModelProto, rng: random.Random) -> None:
    """Nodes in front of the output that ask for terabytes."""
    if not model.graph.output:
        return
    output = model.graph.output[0].name
    sizes = [rng.choice((1, 2**10, 2**20, 2**40)) for _ in range(rng.randint(1, 5))]
    shape = helper.make_tensor("huge", TensorProto.INT64, [len(sizes)], sizes)
    model.graph.initializer.append(shape)
    kind = rng.choice(("Expand", "ConstantOfShape", "Tile"))
    inputs = ["huge"] if kind == "ConstantOfShape" else [output, "huge"]
    model.graph.node.append(helper.make_node(kind, inputs, ["starved"]))
    if rng.random() < 0.7:
        model.graph.output[0].name = "starved"


def _deeply_nested(rng: random.Random) -> bytes:
    """Graphs within attributes of nodes of graphs; protobuf itself would not build it."""

    def field(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    graph = b""
    for _ in range(rng.choice((5, 40, 99, 101, 1000, 5000))):
        attribute = field(1, b"then_branch") + field(6, graph) + _varint(20 << 3) + b"\x05"
        node = field(1, b"c") + field(2, b"o") + field(4, b"If") + field(5, attribute)
        graph = field(1, node)
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x12")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_WAYS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    *(_any_field,) * 5,
    *(_tensor,) * 3,
    *(_attribute,) * 3,
    *(_rewire,) * 2,
    _operator,
    _external,
    _functions,
    _shapes,
    _metadata,
    _hungry,
)
