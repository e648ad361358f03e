"""Ship 1-bit and product-quantized neural networks.

The names below load their modules on first use: ``import bitexport`` itself imports neither
torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bitexport.errors import BitexportError
    from bitexport.export_options import ExportOptions
    from bitexport.exporter import ExportReport, export
    from bitexport.families import LoadedModel, LoadOptions, load
    from bitexport.importer import import_qonnx
    from bitexport.layers import register_layer
    from bitexport.runtimes import (
        cuda_op_library_path,
        op_library_path,
        plugin_library_path,
        session,
    )

__all__ = [
    "BitexportError",
    "ExportOptions",
    "ExportReport",
    "LoadOptions",
    "LoadedModel",
    "__version__",
    "cuda_op_library_path",
    "export",
    "import_qonnx",
    "load",
    "op_library_path",
    "plugin_library_path",
    "register_layer",
    "session",
]

_HOMES = {
    "BitexportError": "errors",
    "ExportOptions": "export_options",
    "ExportReport": "exporter",
    "LoadOptions": "families",
    "LoadedModel": "families",
    "cuda_op_library_path": "runtimes",
    "export": "exporter",
    "import_qonnx": "importer",
    "load": "families",
    "op_library_path": "runtimes",
    "plugin_library_path": "runtimes",
    "register_layer": "layers",
    "session": "runtimes",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
