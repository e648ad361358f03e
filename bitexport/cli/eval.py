"""``bitexport eval``: how many images of a data set a model classifies right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitexport.cli import choices
from bitexport.cli.output import Debug, Json, print_json, progress_bar, say, show

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The exported model.")],
    dataset: choices.Dataset,
    data: choices.Data = None,
    runtime: Annotated[
        str, typer.Option(help="Such as ort or ort-native; `bitexport doctor` lists them.")
    ] = "ort",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="Images a run.",
            show_default="the model's fixed batch, else 32, or fewer large ones",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads inside an operator; 0 lets the runtime choose.")
    ] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many images, spread over the set.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Mean of pixels in 0 to 1; one number for grey images."),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Deviation of pixels.")] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            metavar="H[xW]", help="Size of the images, where the file leaves it open; else 224."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Count how many images of a data set a model classifies right: top-1 and top-5.

    Example: bitexport eval model.onnx --dataset cifar10 --data ~/data
    """
    del debug
    from bitexport.errors import InputError
    from bitexport.evaluation import DataOptions, open_images, usual_batch
    from bitexport.evaluation import evaluate as measure
    from bitexport.graph.chains import as_given
    from bitexport.graph.read import read_classifier
    from bitexport.runtimes import ModelRefused
    from bitexport.runtimes.contained import contained, memory_for

    classifier = read_classifier(model, choices.parse_input_size(input_size))
    options = DataOptions(
        name=dataset,
        root=data,
        limit=limit,
        mean=choices.parse_channels("--mean", mean),
        std=choices.parse_channels("--std", std),
        preprocessing=classifier.preprocessing,
    )
    images = open_images(options, classifier.input_shape)
    usual = usual_batch(classifier.input_shape)
    fixed = classifier.fixed_batch
    if batch and fixed and batch != fixed:
        raise InputError(
            f"{model}: it takes batches of one size",
            got=f"--batch {batch}",
            expected=fixed,
            fix="Leave --batch out.",
        )
    batch = batch or fixed or usual
    spare = memory_for(classifier.input_shape, max(0, batch - usual))
    try:
        with (
            contained(runtime, spare=spare) as chosen,
            progress_bar(f"{model} on {dataset}") as bar,
        ):
            found = measure(
                chosen.load(as_given(classifier.data, runtime), threads=threads),
                classifier.input_name,
                classifier.output_name,
                images,
                batch=batch,
                whole=fixed is not None,
                show=lambda share: None if bar is None else bar("", share, 1),
            )
    except ModelRefused as error:
        raise error.blaming(model) from error
    if found.classes != images.classes:
        say(
            f"note: the model has {found.classes} classes and the data set {images.classes}; only "
            "labels that both number alike can be right"
        )
    if found.not_numbers:
        say(f"note: {found.not_numbers} images have logits that are not numbers; counted as wrong")
    record = {
        "model": str(model),
        "runtime": runtime,
        "dataset": dataset,
        "samples": found.samples,
        "top1": found.top1,
        "top1_interval": list(found.top1_interval),
        "top5": found.top5,
        "top5_interval": list(found.top5_interval),
        "not_numbers": found.not_numbers,
    }
    if json:
        print_json(record)
        return
    for name, share, (low, high) in (
        ("top-1", found.top1, found.top1_interval),
        ("top-5", found.top5, found.top5_interval),
    ):
        show(
            f"{name} {share:.2%} (95 % interval {low:.2%} to {high:.2%}) on {found.samples} images",
        )
