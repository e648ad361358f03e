"""Functions of a model that call each other: what a runtime has to unfold.

Each of forty functions that calls the next one twice fits into ten kilobytes, and unfolds to 10^12
nodes. onnx's shape inference and ONNX Runtime go through all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from bitexport.errors import InputError

__all__ = ["refuse_unfolding"]

_DEEPEST = 100  # calls within calls, as in onnx's own shape inference
_MOST_NODES = 50_000  # ResNet-152 with a function in every layer has a quarter of that
_Key = tuple[str, str]


def refuse_unfolding(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse a model of too many nodes, its functions unfolded, or of functions without end.

    Raises:
        InputError: It is one.
    """
    functions: dict[_Key, list[onnx.FunctionProto]] = {}
    for function in proto.functions:
        functions.setdefault(_key(function.domain, function.name), []).append(function)
    sizes: dict[_Key, tuple[int, int]] = {}

    def size(key: _Key, depth: int) -> tuple[int, int]:
        """Nodes that a call unfolds to, and how deep calls go within it."""
        if depth > _DEEPEST:
            raise _refusal(path, f"calls more than {_DEEPEST} deep")
        if key not in sizes:
            nodes = (node for function in functions[key] for node in _nodes(function.node))
            sizes[key] = whole(nodes, depth)
        count, height = sizes[key]
        if depth + height > _DEEPEST:
            raise _refusal(path, f"calls more than {_DEEPEST} deep")
        return count, height

    def whole(nodes: Iterable[onnx.NodeProto], depth: int) -> tuple[int, int]:
        count = height = 0
        for node in nodes:
            key = _key(node.domain, node.op_type)
            inner, below = size(key, depth + 1) if key in functions else (0, -1)
            count, height = count + 1 + inner, max(height, below + 1)
            if count > _MOST_NODES and depth:
                raise _refusal(path, f"more than {_MOST_NODES} nodes within a call")
        return count, height

    unfolded, _ = whole(_nodes(proto.graph.node), 0)
    if unfolded > _MOST_NODES:
        raise _refusal(path, f"{unfolded} nodes")


def _key(domain: str, name: str) -> _Key:
    return ("" if domain == "ai.onnx" else domain), name


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Those within the subgraphs of others too, which protobuf lets lie 100 deep at most."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _refusal(path: Path, got: str) -> InputError:
    return InputError(
        f"{path}: the model is too large",
        got=got,
        expected=f"at most {_MOST_NODES} nodes, in functions that do not call themselves",
        fix="Look where the file comes from; it may have been made to do harm.",
    )
