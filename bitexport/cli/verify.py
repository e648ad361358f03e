"""``bitexport verify``: compare an exported model with its reference."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bitexport.cli import choices
from bitexport.cli.output import Debug, Json, print_json, progress, say, show

__all__ = ["verify"]


def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The exported model.")],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="[CKPT]", help="Its checkpoint: the torch reference."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help="An .npz with `input` and, where there is no CKPT, `logits`."),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Such as ort, ort-native or tensorrt; doctor lists all.")
    ] = "ort",
    rel_l2: Annotated[
        float | None, typer.Option(min=0, help="Largest relative L2 error of the logits.")
    ] = None,
    top1: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least share of equal predictions.")
    ] = None,
    family: choices.Family = None,
    arch: choices.Arch = None,
    weights: choices.Weights = choices.PrecisionChoice.auto,
    activations: choices.Activations = choices.PrecisionChoice.auto,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare a model with the torch reference, or with recorded logits.

    Example: bitexport verify model.onnx checkpoint.pth.tar
    """
    del debug
    from bitexport.verification import verify_file

    with progress(f"comparing {model}"):
        result = verify_file(
            model,
            checkpoint=checkpoint,
            inputs=inputs,
            runtime_name=runtime,
            rel_l2=rel_l2,
            top1=top1,
            load_options=choices.load_options(family, arch, weights, activations),
        )
    comparison, divergence = result.comparison, result.divergence
    if result.rounded:
        say("note: the file has dense weights of 8 bits; so has the reference, for the comparison")
    if json:
        print_json(
            {
                **asdict(comparison),
                "runtime": runtime,
                "tolerance": asdict(result.tolerance),
                "first_divergence": None if divergence is None else asdict(divergence),
            }
        )
    else:
        show(
            f"{'equal' if comparison.ok else 'different'}: rel-L2 {comparison.rel_l2:.2e}, "
            f"largest difference {comparison.max_abs_diff:.2e}, top-1 agreement "
            f"{comparison.top1_agreement:.1%} on {comparison.samples} samples",
        )
    if not comparison.ok:
        say(f"error: {result.failure()}")
        raise typer.Exit(result.failure().exit_code)
