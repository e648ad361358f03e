"""Torch model -> ONNX graph, with a custom-op node where the model has a quantized layer."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from bitexport.errors import UnsupportedModel
from bitexport.graph.emit import emitter
from bitexport.graph.records import Record
from bitexport.layers import spec_of
from bitexport.ops.bodies import OPSET
from bitexport.spec import BinaryConvSpec, LayerSpec, SignConvSpec

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "Captured", "ZeroWeights", "capture"]

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
_TRACE_BATCH = 2

ZeroWeights = Literal["exact", "plus-one", "refuse"]


@dataclass(frozen=True)
class Captured:
    """A model as the exporter sees it.

    Attributes:
        graph: The raw graph; its nodes carry torch's export metadata.
        records: One for every layer that needed a decision.
        zero_weights: Layer -> weights of exactly 0, for the 1-bit layers that have some.
    """

    graph: ir.Model
    records: list[Record]
    zero_weights: dict[str, int]


def capture(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    zero_weights: ZeroWeights = "exact",
    ternary: Container[str] = (),
    outputs: Sequence[str] = (OUTPUT_NAME,),
) -> Captured:
    """Export ``module`` with its quantized layers as custom-op nodes.

    Args:
        module: In evaluation mode; left as it is.
        input_shape: (C, H, W); the batch stays dynamic.
        zero_weights: What to do with weights of exactly 0 in a 1-bit layer.
        ternary: Names of the binary layers whose activations of exactly 0 are to stay 0, where
            their spec says so; in the others they become +1.
        outputs: Names of what the module returns.

    Raises:
        UnsupportedModel: A layer breaks its spec's contract, has zero weights under
            ``"refuse"``, or torch cannot export the model.
    """
    twin = copy.deepcopy(module)
    records: list[Record] = []
    zeros: dict[str, int] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    for name, layer in twin.named_modules():
        spec = _named_spec(name, layer)
        if spec is None:
            continue
        if isinstance(spec, SignConvSpec) and spec.zero_weights:
            zeros[name] = spec.zero_weights
        spec, record = _decide_zeros(name, spec, zero_weights)
        records += record
        if isinstance(spec, BinaryConvSpec) and spec.zero_at_threshold:
            spec = replace(spec, zero_at_threshold=name in ternary)
            if spec.zero_at_threshold:
                detail = "activations of exactly 0 kept exact by a second convolution"
                records.append(Record("zero-activations", name, True, detail))
        replacements[layer] = emitter(spec)
    twin = _replaced(twin, replacements).eval()
    return Captured(_export(twin, input_shape, outputs), records, zeros)


def _replaced(root: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The root with other modules in the places of some, under every name that one has."""
    if root in replacements:
        return replacements[root]
    places = [
        (root.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer)
        for name, layer in root.named_modules(remove_duplicate=False)
        if layer in replacements
    ]
    for parent, attribute, layer in places:
        setattr(parent, attribute, replacements[layer])
    return root


def _named_spec(name: str, layer: nn.Module) -> LayerSpec | None:
    try:
        return spec_of(layer)
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"layer {name!r}: {error.what}",
            got=error.got,
            expected=error.expected,
            fix=error.fix,
        ) from error


def _decide_zeros(
    name: str, spec: LayerSpec, policy: ZeroWeights
) -> tuple[LayerSpec, list[Record]]:
    if not isinstance(spec, SignConvSpec) or not spec.zero_weights:
        return spec, []
    count = spec.zero_weights
    if policy == "refuse":
        raise UnsupportedModel(
            f"layer {name!r} has weights of exactly 0, which have no sign",
            got=f"{count} zero weights",
            expected="none, as --zero-weights refuse asks",
            fix="Use --zero-weights exact, or plus-one to pack them as +1.",
        )
    if policy == "plus-one":
        signs = np.where(spec.signs == 0, 1, spec.signs).astype(np.int8)
        detail = f"{count} zero weights became +1: the result differs from the checkpoint's"
        return replace(spec, signs=signs), [Record("zero-weights", name, True, detail)]
    filters = int((spec.signs == 0).any(axis=(1, 2, 3)).sum())
    detail = f"{count} zero weights kept exact by a second convolution of {filters} filters"
    return spec, [Record("zero-weights", name, True, detail)]


def _export(
    module: nn.Module, input_shape: tuple[int, int, int], outputs: Sequence[str]
) -> ir.Model:
    example = torch.zeros(_TRACE_BATCH, *input_shape)
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Deprecations between torch and onnxscript are not the user's business.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                input_names=[INPUT_NAME],
                output_names=list(outputs),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        if isinstance(error.__cause__, OSError | MemoryError):  # the machine's fault
            raise error.__cause__ from None
        if (refused := _own_refusal(error)) is not None:
            raise refused from error
        first_line = str(error.__cause__ or error).strip().splitlines()[0]
        raise UnsupportedModel(
            f"torch could not export the model for inputs of shape {list(example.shape)}",
            got=first_line,
            expected="a model that torch.export can trace",
            fix="Check the size of the images (--input-size) and the model's operators; torch's "
            "report, which --debug shows, is the cause of this error.",
        ) from error
    finally:
        noisy.setLevel(level)
    if program is None:
        raise TypeError("torch.onnx.export returned nothing")
    found = len(program.model.graph.outputs)
    if found != len(outputs):
        raise UnsupportedModel(
            "the model returns something else than is exported",
            got=f"{found} tensors",
            expected=f"{len(outputs)}: {', '.join(outputs)}",
            fix="Wrap the model in a module whose forward returns the logits alone.",
        )
    return program.model


def _own_refusal(error: BaseException) -> UnsupportedModel | None:
    """What a stand-in said while torch traced it, which is plainer than torch's own words."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, UnsupportedModel):
        cause = cause.__cause__ or cause.__context__
    return cause
