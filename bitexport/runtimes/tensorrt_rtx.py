"""TensorRT-RTX: builds engines from function bodies, on machines without a GPU too."""

from __future__ import annotations

import importlib
from typing import Any

from bitexport.errors import InputError
from bitexport.runtimes.base import Availability, Engine, EngineOptions
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.engine_build import NetworkBuild, engine_layers

__all__ = ["TensorRTRTX"]

_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
_TITLE = "TensorRT-RTX"
_INSTALL = "Run: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
# What an engine targets unless told otherwise, says its documentation: Ampere and later.
_TARGETS = "8.0+"


class TensorRTRTX:
    """NVIDIA TensorRT-RTX. It has no plugins: custom ops run by their function bodies."""

    name = "tensorrt-rtx"
    title = _TITLE
    takes_plugins = False

    def availability(self) -> Availability:
        """Whether its Python bindings import."""
        try:
            module = self.module()
        except ImportError as error:
            return Availability(self.name, False, str(error), _INSTALL)
        return Availability(self.name, True, f"{_TITLE} {module.__version__}")

    def version(self) -> str:
        """Of the bindings."""
        return str(self.module().__version__)

    def module(self) -> Any:  # noqa: ANN401
        """The Python bindings, under either of their names.

        Raises:
            ImportError: They are not installed, or lack their libraries.
        """
        problem = ImportError("not installed")
        for name in _MODULES:
            try:
                return importlib.import_module(name)
            except ImportError as error:
                problem = error
        raise problem

    def build(self, model: bytes, options: EngineOptions) -> Engine:
        """Parse the model and build a strongly typed engine with one optimization profile."""
        if options.plugin_library is not None:
            raise InputError(
                f"{_TITLE} has no plugins",
                got=options.plugin_library,
                expected="no plugin library",
                fix="Leave it out, or build with the backend tensorrt.",
            )
        self.availability().require()
        trt = self.module()
        build = NetworkBuild(trt, _TITLE)
        build.parse(model)
        build.add_profile(options)
        data = build.serialize(options)
        return Engine(data, _TARGETS, _layers(trt, build.logger, data))


def _layers(trt: Any, logger: Any, data: bytes) -> Any:  # noqa: ANN401
    """The engine's layers; loading an engine takes a GPU."""
    engine = None if first_gpu() is None else trt.Runtime(logger).deserialize_cuda_engine(data)
    return None if engine is None else engine_layers(trt, engine)
