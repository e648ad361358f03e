"""Building an engine with the Python API that TensorRT and TensorRT-RTX have in common.

The library's module is handed in, so that the same code runs with either. What only one of them
has stands in ``tensorrt.py`` and ``tensorrt_rtx.py``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitexport.errors import RuntimeFailure, UnsupportedModel
from bitexport.runtimes.base import EngineLayer, EngineOptions, ModelRefused
from bitexport.runtimes.interruption import deferred_interrupt

__all__ = ["NetworkBuild", "engine_layers", "layers_of_information", "recording_logger", "refusal"]

_SEVERITIES = ("ERROR", "INTERNAL_ERROR")


class NetworkBuild:
    """A builder with a parsed network and its configuration.

    Args:
        trt: The module ``tensorrt``, ``tensorrt_rtx`` or ``tensorrt_rtx_bindings``.
        title: Name of the library in messages.

    Raises:
        RuntimeFailure: The library cannot start.
    """

    def __init__(self, trt: Any, title: str) -> None:  # noqa: ANN401
        self._trt = trt
        self._title = title
        self.logger = recording_logger(trt)
        try:
            self._builder = trt.Builder(self.logger)
        except Exception as error:
            raise RuntimeFailure(
                f"{title} does not start",
                got=self.logger.last or error,
                expected="a GPU with a driver that fits",
                fix="Look at nvidia-smi.",
            ) from error
        self.network = self._builder.create_network(_strongly_typed(trt))
        self.config = self._builder.create_builder_config()
        # Without it the engine keeps no names and types of layers to look at.
        self.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED

    def parse(self, model: bytes) -> None:
        """Fill the network from a serialized ONNX model.

        Raises:
            UnsupportedModel: The parser refuses it.
        """
        parser = self._trt.OnnxParser(self.network, self.logger)
        with _stderr_unheard():
            parsed = parser.parse(model)
        if not parsed:
            errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
            got = errors[-1] if errors else self.logger.last
            raise UnsupportedModel(
                f"{self._title} cannot parse the model",
                got=got or "no message",
                expected="operators and attributes that its parser takes",
                fix="Check the file with `bitexport inspect`.",
            )

    def add_profile(self, options: EngineOptions) -> None:
        """One optimization profile; dimensions of unknown size are batches.

        Raises:
            ModelRefused: The library refuses it.
        """
        batches = (options.min_batch, options.opt_batch, options.max_batch)
        profile = self._builder.create_optimization_profile()
        for index in range(self.network.num_inputs):
            tensor = self.network.get_input(index)
            shapes = [tuple(b if n == -1 else n for n in tensor.shape) for b in batches]
            profile.set_shape(tensor.name, *shapes)
        # Returns the profile's index; an older API returned -1 for a refusal, and some raise.
        if self.config.add_optimization_profile(profile) < 0:
            raise refusal(self._title, f"refuses the batch sizes {batches}", self.logger.last)

    def serialize(self, options: EngineOptions) -> bytes:
        """Build the engine.

        Raises:
            ModelRefused: The library cannot build it.
            RuntimeFailure: There is not enough memory.
            KeyboardInterrupt: Ctrl-C came while it was building.
        """
        with deferred_interrupt() as interrupted:
            monitor = _progress_monitor(self._trt, options.progress, interrupted)
            self.config.progress_monitor = monitor
            engine = self._builder.build_serialized_network(self.network, self.config)
        if engine is None:
            raise refusal(self._title, "cannot build an engine", self.logger.last)
        return bytes(engine)


def engine_layers(
    trt: Any,  # noqa: ANN401
    engine: Any,  # noqa: ANN401
    plugin_nodes: Sequence[str] = (),
) -> tuple[EngineLayer, ...]:
    """The layers of a loaded engine, as its inspector shows them.

    Args:
        trt: The library's module.
        engine: An ``ICudaEngine``.
        plugin_nodes: Names of the nodes that plugins run.
    """
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return layers_of_information(text, plugin_nodes)


def layers_of_information(text: str, plugin_nodes: Sequence[str] = ()) -> tuple[EngineLayer, ...]:
    """The layers in an inspector's JSON: objects with details, or bare names without.

    A layer counts as a plugin's where its type says so, or where it is called after the node.
    """
    nodes = frozenset(plugin_nodes)
    layers = []
    for item in json.loads(text).get("Layers", []):
        record = item if isinstance(item, dict) else {"Name": str(item)}
        name, kind = str(record.get("Name", "")), str(record.get("LayerType", ""))
        layers.append(EngineLayer(name, kind, "plugin" in kind.lower() or name in nodes))
    return tuple(layers)


def recording_logger(trt: Any) -> Any:  # noqa: ANN401
    """A logger that keeps errors for our own message instead of printing them."""
    kept = tuple(getattr(trt.ILogger.Severity, name) for name in _SEVERITIES)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in kept:
                self.last = message

    return Logger()


def refusal(title: str, what: str, got: object) -> RuntimeFailure:
    """The library says no to a model, or the machine has no room for it."""
    kind = RuntimeFailure if "memory" in str(got).lower() else ModelRefused
    return kind(
        f"{title} {what}",
        got=got or "no message",
        expected="a model of supported operators",
        fix="Check the file with `bitexport inspect`.",
    )


def _strongly_typed(trt: Any) -> int:  # noqa: ANN401
    """Creation flags by symbol: TensorRT 11 may drop the ones that became the only way."""
    known = trt.NetworkDefinitionCreationFlag.__members__
    wanted = [known[name] for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in known]
    return sum(1 << int(flag) for flag in wanted)


@contextmanager
def _stderr_unheard() -> Iterator[None]:
    """Drop what the parser prints past its logger: what matters is among its errors."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nobody listens
        yield
        return
    try:
        with Path(os.devnull).open("wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _parser_error(error: Any) -> str:  # noqa: ANN401
    """One line of an ``IParserError``; the node helps, the C++ source line does not."""
    node = error.node_name() if hasattr(error, "node_name") else ""
    return f"{error.desc()} at node {node!r}" if node else str(error.desc())


def _progress_monitor(
    trt: Any,  # noqa: ANN401
    report: Callable[[str, int, int], None] | None,
    interrupted: threading.Event,
) -> Any:  # noqa: ANN401
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the outermost phase's steps under the innermost phase's name."""

        def __init__(self) -> None:
            super().__init__()
            self._phases: dict[str, int] = {}
            self._root = ""
            self._done = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._root, self._done = phase_name, 0
            self._phases[phase_name] = num_steps
            self._tell(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._root:
                self._done = step + 1
                self._tell(phase_name)
            return not interrupted.is_set()

        def _tell(self, phase_name: str) -> None:
            if report is not None:
                report(phase_name, self._done, self._phases.get(self._root, 0))

    return Monitor()
