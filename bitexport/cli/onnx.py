"""``bitexport onnx``: a checkpoint in, a verified ONNX file out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitexport.cli import choices
from bitexport.cli.output import (
    Debug,
    Json,
    Verbose,
    print_json,
    progress,
    say,
    show_fields,
    size,
)

if TYPE_CHECKING:
    from bitexport.comparison import Comparison
    from bitexport.exporter import ExportReport

__all__ = ["onnx"]

_ZEROS = {
    choices.ZeroWeightsChoice.exact: "exact by a second convolution of their filters "
    "(--zero-weights plus-one stores them as +1: smaller, not exact)",
    choices.ZeroWeightsChoice.plus_one: "stored as +1",
}


def onnx(
    checkpoint: choices.Checkpoint,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; CKPT's name with .onnx by default."),
    ] = None,
    family: choices.Family = None,
    arch: choices.Arch = None,
    input_size: choices.InputSize = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Standard ONNX operators only.")] = False,
    weights: choices.Weights = choices.PrecisionChoice.auto,
    activations: choices.Activations = choices.PrecisionChoice.auto,
    zero_weights: choices.ZeroWeights = choices.ZeroWeightsChoice.exact,
    zero_activations: choices.ZeroActivations = choices.ZeroActivationsChoice.auto,
    dense_weights: choices.DenseWeights = choices.DenseWeightsChoice.exact,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the comparison with the torch reference.")
    ] = False,
    verbose: Verbose = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint to one small ONNX file, and verify it.

    A QONNX file, as Brevitas writes it, is taken in place of a checkpoint.

    Example: bitexport onnx checkpoint.pth.tar -o model.onnx
    """
    del debug
    from bitexport.export_options import ExportOptions
    from bitexport.exporter import export
    from bitexport.importer import import_qonnx

    options = ExportOptions(
        load=choices.load_options(family, arch, weights, activations),
        input_size=choices.parse_input_size(input_size),
        float16=fp16,
        plain=plain,
        zero_weights=zero_weights.value,
        zero_activations=zero_activations.value,
        dense_weights=dense_weights.value,
        verify=not no_verify,
    )
    with progress(f"exporting {checkpoint}"):
        if checkpoint.suffix.lower() == ".onnx":
            report = import_qonnx(checkpoint, output, options=options)
        else:
            report = export(checkpoint, path=output, options=options)
    for note in report.notes:
        say(f"note: {note}")
    if verbose:
        for record in report.records:
            say(str(record))
    if json:
        print_json(_as_json(report))
    else:
        _print(report, zero_weights)


def _as_json(report: ExportReport) -> dict[str, Any]:
    return {
        "family": report.family,
        "arch": report.arch,
        "output": str(report.output),
        "bytes": report.bytes,
        "source_bytes": report.source_bytes,
        "fp32_bytes": report.fp32_bytes,
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "bits_per_weight": layer.bits_per_weight,
                "weights": layer.weights,
                "bytes": layer.stored_bytes,
                "zero_weights": report.zero_weights.get(layer.name, 0),
                "dense_reason": report.dense_reasons.get(layer.name) if layer.dense else None,
            }
            for layer in report.layers
        ],
        "verify": None if report.verify is None else asdict(report.verify),
        "rounding": None if report.rounding is None else _figures(report.rounding),
        "folds": [asdict(record) for record in report.records],
        "notes": list(report.notes),
        "seconds": report.seconds,
    }


def _figures(comparison: Comparison) -> dict[str, Any]:
    """What a comparison without a verdict says."""
    names = ("samples", "max_abs_diff", "rel_l2", "top1_agreement")
    return {name: getattr(comparison, name) for name in names}


def _print(report: ExportReport, zero_weights: choices.ZeroWeightsChoice) -> None:
    from bitexport.bench.wording import compression

    kept = [r for r in report.records if r.rule == "fold-batch-norm" and not r.applied]
    folded = sum(r.rule == "fold-batch-norm" and r.applied for r in report.records)
    quantized = sum(not layer.dense for layer in report.layers)
    rows = [
        ("model", f"{report.arch} ({report.family})"),
        ("output", f"{report.output}"),
        (
            "size",
            f"{size(report.bytes)}, {compression(report.bytes, report.fp32_bytes)}",
        ),
        ("layers", f"{quantized} quantized, {len(report.layers) - quantized} dense"),
        ("BatchNorm", f"{folded} folded, {len(kept)} kept as an affine (-v says why)"),
    ]
    if report.zero_weights:
        total = sum(report.zero_weights.values())
        rows.append(
            (
                "zero weights",
                f"{total} in {len(report.zero_weights)} layers, {_ZEROS[zero_weights]}",
            )
        )
    if report.verify is None:
        rows.append(("verified", "no (--no-verify)"))
    else:
        v = report.verify
        rows.append(
            (
                "verified" if v.ok else "different",
                f"rel-L2 {v.rel_l2:.1e}, top-1 agreement "
                f"{v.top1_agreement:.0%} on {v.samples} samples",
            )
        )
    if (r := report.rounding) is not None:
        rows.append(
            (
                "rounded",
                f"dense weights to 8 bits, which moves outputs by rel-L2 {r.rel_l2:.1e}: top-1 "
                f"agreement {r.top1_agreement:.0%} (`bitexport eval` measures accuracy)",
            )
        )
    show_fields(rows)
