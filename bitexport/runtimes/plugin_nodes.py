"""Our custom nodes in a serialized model, for a runtime that has kernels for them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from bitexport.ops.table import DOMAIN

__all__ = ["PluginModel", "without_functions"]


@dataclass(frozen=True)
class PluginModel:
    """A model whose custom ops have no function bodies any more.

    Attributes:
        data: ModelProto bytes.
        nodes: Name of every custom node -> its op_type, in the order of the graph.
    """

    data: bytes
    nodes: dict[str, str]


def without_functions(model: bytes) -> PluginModel:
    """Take the bodies of our ops away, so that a missing kernel fails instead of being slow.

    TensorRT up to 10.6 prefers a function to a plugin of the same name, 10.7 to 10.14 the plugin,
    later ones the function unless the node names the plugin: without functions all agree. Nodes
    without a name get one, to be found again in the engine.
    """
    proto = onnx.ModelProto.FromString(model)
    kept = [function for function in proto.functions if function.domain != DOMAIN]
    del proto.functions[:]
    proto.functions.extend(kept)
    custom = [node for node in proto.graph.node if node.domain == DOMAIN]
    for index, node in enumerate(custom):
        node.name = node.name or f"{node.op_type}_{index}"
    nodes = {node.name: node.op_type for node in custom}
    return PluginModel(proto.SerializeToString(deterministic=True), nodes)
