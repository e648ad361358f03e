"""``bitexport triton``: models into a repository of NVIDIA Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitexport.cli.output import Debug, Json, print_json, progress, say, show

__all__ = ["triton"]


def triton(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help=".onnx files and TensorRT engines.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="REPO", help="The model repository.")
    ],
    max_batch: Annotated[
        int, typer.Option(min=1, max=65536, help="Most images a run; an engine's largest.")
    ] = 32,
    queue_delay: Annotated[
        int, typer.Option(min=0, help="Microseconds that a request may wait for others.")
    ] = 500,
    instances: Annotated[
        int, typer.Option(min=1, max=1024, help="Copies on the CPU, or on each GPU.")
    ] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run .onnx models on the GPU.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each copy on the CPU.")] = 1,
    served_from: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Where the server sees REPO, such as /models."),
    ] = None,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="The engines were built without our plugins.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a Triton model repository: batching, copies, warm-up and our libraries set up.

    Example: bitexport triton model.onnx -o repository --served-from /models
    """
    del debug
    from bitexport.serving import RepositoryOptions, server_command, write_repository

    options = RepositoryOptions(
        max_batch=max_batch,
        queue_delay_us=queue_delay,
        instances=instances,
        gpu=gpu,
        threads=threads,
        served_from=served_from,
        plugins=not no_plugins,
    )
    with progress(f"writing {output}"):
        written = write_repository(models, output, options)
    command = server_command(output, written, options)
    for model in written:
        for note in model.notes:
            say(f"note: {note}")
    if json:
        print_json(
            {
                "repository": str(output),
                "models": [
                    {"name": m.name, "backend": m.backend, "library": m.library or None}
                    for m in written
                ],
                "command": command,
            }
        )
        return
    for model in written:
        show(f"{output / model.name}: {model.backend}")
    show(command)
