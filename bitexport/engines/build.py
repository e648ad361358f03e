"""A model in, a device engine and its description out."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitexport import __version__
from bitexport.engines.prepare import PreparedModel, file_record, is_onnx, prepare
from bitexport.engines.request import EngineRequest, chosen_builder, plugin_library
from bitexport.errors import InputError
from bitexport.exporter import default_output
from bitexport.files import check_writable, write_together
from bitexport.runtimes import (
    ENGINE_BUILDERS,
    Engine,
    EngineBuilder,
    EngineOptions,
    ModelRefused,
    first_gpu,
    timing_cache_path,
)

__all__ = ["EngineReport", "build_engine", "default_engine"]


@dataclass(frozen=True)
class EngineReport:
    """What was built.

    Attributes:
        output: The engine's file; its description lies beside it, with ``.json`` added.
        description: The description, as JSON will hold it.
        notes: What was assumed or left undone.
        seconds: Wall time.
    """

    output: Path
    description: Mapping[str, Any]
    notes: tuple[str, ...]
    seconds: float


def build_engine(source: Path, output: Path | None, request: EngineRequest) -> EngineReport:
    """Build an engine from an .onnx file or a checkpoint.

    Args:
        source: The file; an .onnx by its suffix.
        output: The engine to write; by default the source's name with ``.engine``, in the
            current folder. The description goes beside it. Both are written, or neither.
        request: What engine is wanted.

    Raises:
        InputError: The source cannot be read, or a destination not written.
        UnsupportedModel: The model is none that we can build.
        RuntimeFailure: A library is missing, or refuses the model.
        ComparisonFailure: A checkpoint's export differs from its torch reference.
    """
    started = time.perf_counter()
    output = output or default_engine(source)
    description_path = output.with_name(f"{output.name}.json")
    _check_destinations(source, [output, description_path, request.save_onnx])
    request.batches()
    builder = chosen_builder(request.backend)
    builder.availability().require()
    library = plugin_library(builder, request)
    model = prepare(source, request, plugins=library is not None)
    library = library if model.plugin_nodes else None
    smallest, usual, largest = model.batches(request)
    options = EngineOptions(
        min_batch=smallest,
        opt_batch=usual,
        max_batch=largest,
        plugin_library=library,
        timing_cache=_timing_cache(builder, request),
        progress=request.progress,
    )
    try:
        engine = builder.build(model.data, options)
    except ModelRefused as error:
        # What was exported just now is no fault of the file.
        raise (error.blaming(source) if is_onnx(source) else error) from error
    description = _description(model, engine, builder, options)
    files = {
        output: engine.data,
        description_path: json.dumps(description, indent=2).encode() + b"\n",
    }
    if request.save_onnx is not None:
        files[request.save_onnx] = model.data
    write_together(files)
    notes = (*_backend_notes(builder, request), *model.notes)
    return EngineReport(output, description, notes, time.perf_counter() - started)


def default_engine(source: Path) -> Path:
    """The source's name with ``.engine`` for its suffixes, in the current folder."""
    name = source.stem if is_onnx(source) else default_output(source).stem
    return Path(f"{name}.engine")


def _backend_notes(builder: EngineBuilder, request: EngineRequest) -> tuple[str, ...]:
    if request.backend != "auto":
        return ()
    why = (
        "" if builder is ENGINE_BUILDERS[0] else f", as {ENGINE_BUILDERS[0].name} is not installed"
    )
    how = "plugins" if builder.takes_plugins and request.plugins else "function bodies"
    return (f"built with {builder.name}{why}; custom ops run by {how}",)


def _timing_cache(builder: EngineBuilder, request: EngineRequest) -> Path | None:
    gpu = first_gpu()
    if request.timing_cache is not None or gpu is None:
        return request.timing_cache
    return timing_cache_path(builder.version(), gpu.sm)


def _check_destinations(source: Path, paths: list[Path | None]) -> None:
    wanted = [path for path in paths if path is not None]
    for path in wanted:
        check_writable(path, source=source)
    if len({os.path.realpath(path) for path in wanted}) < len(wanted):
        raise InputError(
            "two results go to one file",
            got=", ".join(map(str, wanted)),
            expected="an engine, its .json and an .onnx of different names",
            fix="Name another --output or --save-onnx.",
        )


def _description(
    model: PreparedModel, engine: Engine, builder: EngineBuilder, options: EngineOptions
) -> dict[str, Any]:
    """What stands beside the engine; docs/tensorrt.md explains the keys."""
    library = options.plugin_library
    ops = set(model.plugin_nodes.values())
    return {
        "bitexport_version": __version__,
        "backend": builder.name,
        "backend_version": builder.version(),
        "sm": engine.sm,
        "precision": model.precision,
        "bytes": len(engine.data),
        "sha256": hashlib.sha256(engine.data).hexdigest(),
        "family": model.family,
        "arch": model.arch,
        "input": {"name": model.input.name, "shape": list(model.input.shape)},
        "outputs": list(model.outputs),
        "batch": {
            "min": options.min_batch,
            "opt": options.opt_batch,
            "max": options.max_batch,
        },
        "plugin_library": None if library is None else file_record(library, library.read_bytes()),
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "bits_per_weight": layer.bits_per_weight,
                "weights": layer.weights,
                "bytes": layer.stored_bytes,
                "plugin": layer.op in ops,
            }
            for layer in model.layers
        ],
        "engine_layers": None if engine.layers is None else [asdict(x) for x in engine.layers],
        "onnx_bytes": len(model.data),
        "source": dict(model.source),
    }
