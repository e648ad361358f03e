"""``bitexport doctor``: what works on this machine."""

from __future__ import annotations

from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from bitexport.cli.output import Debug, Json, print_json, stdout

__all__ = ["doctor"]


def doctor(json: Json = False, debug: Debug = False) -> None:
    """Show what is installed and usable here, and the command that mends what is missing.

    Example: bitexport doctor
    """
    del debug
    from bitexport.diagnosis import diagnose

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
