"""The command line: a table of contents. Each command lives in a module of its own.

Results go to stdout, logs and progress to stderr. Heavy modules are imported inside the
commands, so that ``--help`` stays quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from bitexport import __version__
from bitexport.cli.bench import bench
from bitexport.cli.doctor import doctor
from bitexport.cli.eval import evaluate
from bitexport.cli.inspect import inspect
from bitexport.cli.libraries import prepare_libraries
from bitexport.cli.onnx import onnx
from bitexport.cli.output import run
from bitexport.cli.pack import pack
from bitexport.cli.triton import triton
from bitexport.cli.trt import trt
from bitexport.cli.verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="bitexport",
    help="Ship 1-bit and product-quantized neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(onnx)
app.command()(inspect)
app.command()(verify)
app.command()(trt)
app.command()(bench)
app.command("eval")(evaluate)
app.command()(triton)
app.command()(pack)
app.command()(doctor)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"bitexport {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Ship 1-bit and product-quantized neural networks."""
    prepare_libraries()


def main() -> None:
    """Entry point: runs a command, and turns our errors into one line and an exit code."""
    run(app)
