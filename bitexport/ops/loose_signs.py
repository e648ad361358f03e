"""Signs of a serialized model that leave their chain.

Behind its words, a tensor that the op library's kernels make is memory that nobody wrote
(``plugins/core/sign_planes.h``). It is to reach nothing but the ops that take signs: what else
reads it would hand out what the process had there before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bitexport.ops.table import DOMAIN, OPS

__all__ = ["SIGN_MAKERS", "loose_signs"]

SIGN_MAKERS = tuple(op.name for op in OPS if op.makes_signs)
_TAKERS = tuple(op.name for op in OPS if op.takes_signs)
_CHAINED = {op.name for op in OPS if op.chained}
# A message of onnx's, which whoever parsed it knows; the names are those of onnx.proto.
_Proto = Any


def loose_signs(proto: _Proto) -> str | None:
    """The first thing that breaks a chain, in words; None where all chains hold together.

    A chain lies in the main graph: what a subgraph or a function hands out is not followed.

    Args:
        proto: A ModelProto.
    """
    graph = proto.graph
    signs = {name for n in graph.node if _is_one_of(n, SIGN_MAKERS) for name in n.output if name}
    for output in graph.output:
        if output.name in signs:
            return f"signs {output.name!r} as an output of the model"
    for node in graph.node:
        takes = _is_one_of(node, _TAKERS)
        if takes and node.input and node.input[0] not in signs:
            return f"{_title(node)} with Signs {node.input[0]!r} that no node of a chain made"
        for name in node.input[1:] if takes else node.input:
            if name in signs:
                return f"{_title(node)} with an input {name!r} of signs"
    subgraphs = list(_graphs_within(graph.node))
    for subgraph in subgraphs:
        names = {output.name for output in subgraph.output}
        names.update(name for node in subgraph.node for name in node.input)
        if names & signs:
            return f"signs {min(names & signs)!r} in a subgraph"
    bodies = [*subgraphs]
    for function in proto.functions:
        bodies += [function, *_graphs_within(function.node)]
    for node in (node for body in bodies for node in body.node):
        if _is_one_of(node, _CHAINED):
            return f"{_title(node)} in a subgraph or a function"
    return None


def _is_one_of(node: _Proto, names: Iterable[str]) -> bool:
    return node.domain == DOMAIN and node.op_type in names


def _title(node: _Proto) -> str:
    return f"{node.op_type} {node.name!r}"


def _graphs_within(nodes: Iterable[_Proto]) -> Iterator[_Proto]:
    """All subgraphs, which protobuf lets lie 100 deep at most."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield graph
                yield from _graphs_within(graph.node)
