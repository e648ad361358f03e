"""Where our native libraries lie."""

from __future__ import annotations

import os
from pathlib import Path

from bitexport.errors import RuntimeFailure

__all__ = ["op_library_path", "plugin_library_path"]

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT_BUILD = _PACKAGE.parent / "build" / "plugins"


def op_library_path() -> Path:
    """The ONNX Runtime op library: ``BITEXPORT_OP_LIBRARY``, or the one in the package.

    Raises:
        RuntimeFailure: There is none.
    """
    return _find("BITEXPORT_OP_LIBRARY", "libbitexport_ort.so", "op library")


def plugin_library_path() -> Path:
    """The TensorRT plugin library: ``BITEXPORT_PLUGIN_LIBRARY``, or the built one.

    Raises:
        RuntimeFailure: There is none.
    """
    return _find("BITEXPORT_PLUGIN_LIBRARY", "libbitexport_trt.so", "TensorRT plugin library")


def _find(variable: str, filename: str, title: str) -> Path:
    named = os.environ.get(variable)
    places = [Path(named)] if named else [_PACKAGE / "lib" / filename, _CHECKOUT_BUILD / filename]
    for path in places:
        if path.is_file():
            return path
    raise RuntimeFailure(
        f"the {title} is missing",
        got=f"no file {' or '.join(map(str, places))}",
        expected=filename,
        fix=f"Build it from plugins/, and set {variable} to its path.",
    )
