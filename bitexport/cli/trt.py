"""``bitexport trt``: a model in, a TensorRT engine and its description out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitexport.cli import choices
from bitexport.cli.output import (
    Debug,
    Json,
    print_json,
    progress_bar,
    say,
    show_fields,
    size,
)

if TYPE_CHECKING:
    from bitexport.engines import EngineReport

__all__ = ["trt"]


class Backend(str, Enum):
    """Values of --backend."""

    auto = "auto"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


def trt(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx|CKPT", help="An exported model or a checkpoint.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Engine to write; MODEL's name with .engine."),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16.")] = False,
    backend: Annotated[
        Backend, typer.Option(help="Library to build with; auto takes the first installed.")
    ] = Backend.auto,
    min_batch: Annotated[int, typer.Option(help="Smallest batch that the engine takes.")] = 1,
    opt_batch: Annotated[
        int | None, typer.Option(help="Batch to choose kernels for; the largest by default.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch; the larger of the others by default.")
    ] = None,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Run custom ops by their function bodies.")
    ] = False,
    plugin_library: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Plugins; the installed ones by default.")
    ] = None,
    save_onnx: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep the ONNX file as the builder got it.")
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Kernel timings; in your cache folder by default."),
    ] = None,
    print_trtexec: Annotated[
        bool, typer.Option("--print-trtexec", help="Print the trtexec line instead of building.")
    ] = False,
    family: choices.Family = None,
    arch: choices.Arch = None,
    input_size: choices.InputSize = None,
    weights: choices.Weights = choices.PrecisionChoice.auto,
    activations: choices.Activations = choices.PrecisionChoice.auto,
    zero_weights: choices.ZeroWeights = choices.ZeroWeightsChoice.exact,
    zero_activations: choices.ZeroActivations = choices.ZeroActivationsChoice.auto,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the comparison with the torch reference.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a TensorRT engine, and write what is in it to OUT.engine.json.

    A checkpoint is exported first; --family to --no-verify are for it.

    Example: bitexport trt model.onnx -o model.engine --fp16 --max-batch 32
    """
    del debug
    from bitexport.engines import EngineRequest, build_engine, trtexec_line
    from bitexport.export_options import ExportOptions

    with progress_bar(f"building an engine of {model}") as report:
        request = EngineRequest(
            backend=backend.value,
            float16=fp16,
            min_batch=min_batch,
            opt_batch=opt_batch,
            max_batch=max_batch,
            plugins=not no_plugins,
            plugin_library=plugin_library,
            save_onnx=save_onnx,
            timing_cache=timing_cache,
            export=ExportOptions(
                load=choices.load_options(family, arch, weights, activations),
                input_size=choices.parse_input_size(input_size),
                zero_weights=zero_weights.value,
                zero_activations=zero_activations.value,
                verify=not no_verify,
            ),
            progress=report,
        )
        line = trtexec_line(model, output, request) if print_trtexec else ""
        built = None if print_trtexec else build_engine(model, output, request)
    if built is None:
        _print_line(line, json)
        return
    for note in built.notes:
        say(f"note: {note}")
    if json:
        print_json(
            {
                "output": str(built.output),
                **built.description,
                "notes": list(built.notes),
                "seconds": built.seconds,
            }
        )
    else:
        _print(built)


def _print_line(line: str, json: bool) -> None:
    if json:
        print_json({"trtexec": line})
    else:
        typer.echo(line)


def _print(report: EngineReport) -> None:
    built = report.description
    batch = built["batch"]
    library = built["plugin_library"]
    model = f"{built['arch']} ({built['family']})" if built["family"] else "a foreign ONNX model"
    plugins = sum(layer["plugin"] for layer in built["layers"])
    rows = [
        ("model", model),
        ("engine", f"{report.output}, {size(built['bytes'])}"),
        ("backend", f"{built['backend']} {built['backend_version']}, sm {built['sm']}"),
        ("precision", f"{built['precision']}, strongly typed"),
        ("batch", f"{batch['min']} to {batch['max']}, best at {batch['opt']}"),
        (
            "custom ops",
            f"{plugins} layers by {library['path']}" if library else "by function bodies",
        ),
        ("written", f"{report.output}.json, after {report.seconds:.1f} s"),
    ]
    show_fields(rows)
