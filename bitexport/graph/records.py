"""What a pass did to a layer, or why it left it alone."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Record"]


@dataclass(frozen=True)
class Record:
    """One decision of a pass.

    Attributes:
        rule: Name of the pass.
        layer: Path of the torch module that the decision is about.
        applied: Whether the graph changed.
        detail: What was done, or the reason why not.
    """

    rule: str
    layer: str
    applied: bool
    detail: str

    def __str__(self) -> str:
        mark = "applied" if self.applied else "kept"
        return f"{self.layer}: {self.rule} {mark}: {self.detail}"
