"""Name nodes and values after the torch modules they come from.

A node is called after the module that it computes a part of; the value that a module ends in
carries the module's very path, so that a tensor of the graph can be compared with the module's
output in torch:

    conv2d_3 = Conv(relu_2, ...)   ->   "layer1.0.conv1" = Conv("layer1.0.relu", ...)

The exporter's own metadata (stack traces and file names of the machine) goes away with it.
"""

from __future__ import annotations

import ast

import onnx_ir as ir

from bitexport.graph.names import free_name

__all__ = ["SCOPES", "name_after_modules"]

SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_modules(model: ir.Model) -> None:
    """Rename in place; graph inputs and outputs keep their names."""
    graph = model.graph
    nodes = list(graph)
    paths = [_module_path(node) for node in nodes]
    last = _last_nodes(paths)
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    taken = kept | set(graph.initializers)
    for index, (node, path) in enumerate(zip(nodes, paths, strict=True)):
        inner = "/".join(part for part in (path, node.op_type) if part)
        node.name = free_name(path if last.get(path) == index else inner, taken)
        taken.add(node.name)
        for position, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = node.name if position == 0 else f"{node.name}:{position}"
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    graph.metadata_props.clear()
    graph.name = "bitexport"
    graph.doc_string = None


def _module_path(node: ir.Node) -> str:
    """Path of the innermost module whose forward made the node; "" for the root's own nodes."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _last_nodes(paths: list[str]) -> dict[str, int]:
    """Module path -> index of its last node, where that node is the module's own."""
    last: dict[str, int] = {}
    for index, path in enumerate(paths):
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            last[".".join(parts[:length])] = index
    return {path: index for path, index in last.items() if path and paths[index] == path}
