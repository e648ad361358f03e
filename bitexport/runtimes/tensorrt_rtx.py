"""TensorRT-RTX: builds engines from function bodies, on machines without a GPU too."""

from __future__ import annotations

import importlib
from typing import Any

from bitexport.errors import RuntimeFailure
from bitexport.runtimes.base import Availability, EngineOptions

__all__ = ["TensorRTRTX"]

_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")


class TensorRTRTX:
    """NVIDIA TensorRT-RTX. It has no plugins: custom ops run by their function bodies."""

    name = "tensorrt-rtx"

    def availability(self) -> Availability:
        """Whether its Python bindings import."""
        try:
            module = _import()
        except ImportError as error:
            fix = 'Run: pip install "bitexport[tensorrt-rtx]"'
            return Availability(self.name, False, str(error), fix)
        return Availability(self.name, True, f"TensorRT-RTX {module.__version__}")

    def build(self, model: bytes, options: EngineOptions) -> bytes:
        """Parse the model and build a strongly typed engine with one optimization profile."""
        self.availability().require()
        trt = _import()
        logger = _collecting_logger(trt)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(model):
            errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
            raise _refusal("cannot parse the model", errors or logger.messages)
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        batches = (options.min_batch, options.opt_batch, options.max_batch)
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shapes = [[b if n == -1 else n for n in tensor.shape] for b in batches]
            profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise _refusal("cannot build an engine", logger.messages)
        return bytes(engine)


def _import() -> Any:  # noqa: ANN401
    problem = ImportError("not installed")
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problem = error
    raise problem


def _collecting_logger(trt: Any) -> Any:  # noqa: ANN401
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for our own message instead of printing them."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.messages.append(message)

    return Logger()


def _refusal(what: str, messages: list[str]) -> RuntimeFailure:
    return RuntimeFailure(
        f"TensorRT-RTX {what}",
        got=messages[-1] if messages else "no message",
        expected="a model of supported operators",
        fix="Check the file with `bitexport inspect`.",
    )
