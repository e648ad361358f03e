"""Names that nothing else in a graph has."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["free_name"]


def free_name(name: str, taken: Container[str | None], separator: str = "_") -> str:
    """``name``, or with the least number behind it that makes it another than those taken."""
    free, number = name, 1
    while free in taken:
        free, number = f"{name}{separator}{number}", number + 1
    return free
