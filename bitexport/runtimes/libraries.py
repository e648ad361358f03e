"""Where our native libraries lie."""

from __future__ import annotations

import os
from pathlib import Path

import bitexport
from bitexport.errors import RuntimeFailure

__all__ = ["op_library_path", "plugin_library_path"]

# More than one folder in an editable install: the sources, and what was built from plugins/.
_PACKAGE = [Path(folder) for folder in bitexport.__path__]
_CHECKOUT_BUILD = Path(__file__).resolve().parents[2] / "build" / "plugins"


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
    folders = [*(folder / "lib" for folder in _PACKAGE), _CHECKOUT_BUILD]
    places = [Path(named)] if named else [folder / filename for folder in folders]
    for path in places:
        if path.is_file():
            return path
    raise RuntimeFailure(
        f"the {title} is missing",
        got=f"no file {' or '.join(map(str, places))}",
        expected=filename,
        fix=f"Build it from plugins/, and set {variable} to its path.",
    )
