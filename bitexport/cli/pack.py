"""``bitexport pack``: a checkpoint in, the packed checkpoint of its upstream system out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitexport.cli import choices
from bitexport.cli.output import (
    Debug,
    Json,
    print_json,
    progress,
    say,
    show,
    size,
)

__all__ = ["pack"]


def pack(
    checkpoint: choices.Checkpoint,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    family: choices.Family = None,
    arch: choices.Arch = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Pack a checkpoint as its authors' own tools read it: np.packbits, or codes and centroids.

    Example: bitexport pack checkpoint.pth.tar -o packed.pth.tar
    """
    del debug
    from bitexport.checkpoint import read_checkpoint
    from bitexport.families import LoadOptions, load_model
    from bitexport.families.packed import packed_bytes
    from bitexport.files import check_writable, write_atomically

    check_writable(output, source=checkpoint)
    with progress(f"packing {checkpoint}"):
        source = read_checkpoint(checkpoint)
        model = load_model(source, LoadOptions(family=family, arch=arch))
        data = packed_bytes(model)
    for note in model.notes:
        say(f"note: {note}")
    write_atomically(output, data)
    if json:
        print_json(
            {
                "family": model.family,
                "arch": model.arch,
                "output": str(output),
                "bytes": len(data),
                "source_bytes": source.size,
            }
        )
    else:
        show(f"{output}: {size(len(data))}, from {size(source.size)}")
