"""``bitexport doctor``: what works on this machine."""

from __future__ import annotations

from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from bitexport.cli.output import Debug, Json, print_json, show, stdout

__all__ = ["doctor"]

_NAMES = (
    "ort is ONNX Runtime as it comes, ort-native the same with our kernels, reference the",
    "evaluator of onnx, and tensorrt runner what runs the engines that tensorrt builds.",
)


def doctor(json: Json = False, debug: Debug = False) -> None:
    """Show what is installed and usable here, and the command that mends what is missing.

    Example: bitexport doctor
    """
    del debug
    from bitexport.diagnosis import NEEDED, diagnose

    found = diagnose()
    if json:
        print_json(
            {item.name: {k: v for k, v in asdict(item).items() if k != "name"} for item in found}
        )
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for item in found:
        detail = item.detail if item.ok else f"{item.detail}\n-> {item.fix}"
        mark = "[green]ok[/green]" if item.ok else "[yellow]--[/yellow]"
        table.add_row(mark, item.name, escape(detail))
    stdout.print(table)
    missing = [item.name for item in found if item.name in NEEDED and not item.ok]
    if missing:
        state = f"Mend first: {', '.join(missing)}."
    else:
        state = "Exporting, verifying and running on this CPU work; rows marked -- add the rest."
    for line in ("", *_NAMES, state):
        show(line)
