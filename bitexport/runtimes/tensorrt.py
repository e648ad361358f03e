"""TensorRT 10.12 and later, 11 too: strongly typed engines that run our ops by plugins."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitexport.errors import BitexportError, RuntimeFailure
from bitexport.files import write_atomically
from bitexport.ops.table import DOMAIN, OP_VERSION
from bitexport.runtimes.base import Availability, Engine, EngineLayer, EngineOptions
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.engine_build import NetworkBuild, engine_layers, refusal
from bitexport.runtimes.plugin_nodes import without_functions

__all__ = ["TensorRT", "load_plugins", "timing_cache_path"]

_TITLE = "TensorRT"
# The first whose parser and strongly typed networks take float16 through our function bodies.
_OLDEST = (10, 12)
_INSTALL = 'Run: pip install "tensorrt>=10.12" cuda-python'

# A library's creators stay registered for as long as the process lives, and a second registration
# is refused.
_LOADED: set[Path] = set()


class TensorRT:
    """NVIDIA TensorRT.

    Args:
        module: Name of its Python module.
    """

    name = "tensorrt"
    title = _TITLE
    takes_plugins = True

    def __init__(self, module: str = "tensorrt") -> None:
        self._module = module

    def availability(self) -> Availability:
        """Whether its Python module imports, is new enough, and has a GPU to build for."""
        try:
            version = self.version()
        except ImportError as error:
            return Availability(self.name, False, str(error), _INSTALL)
        if _numbers(version) < _OLDEST:
            return Availability(self.name, False, f"{_TITLE} {version}", _INSTALL)
        gpu = first_gpu()
        if gpu is None:
            detail = f"{_TITLE} {version}, but no GPU that it could build for"
            return Availability(self.name, False, detail, "Look at nvidia-smi.")
        return Availability(self.name, True, f"{_TITLE} {version} on {gpu.name}, sm {gpu.sm}")

    def version(self) -> str:
        """Of the Python module."""
        return str(self.module().__version__)

    def module(self) -> Any:  # noqa: ANN401
        """The Python module.

        Raises:
            ImportError: It is not installed, or lacks its libraries.
        """
        return importlib.import_module(self._module)

    def build(self, model: bytes, options: EngineOptions) -> Engine:
        """Build a strongly typed engine with one optimization profile.

        With a plugin library the model's functions are dropped, and every custom node must turn up
        as a plugin layer, in the network and again in the engine.
        """
        self.availability().require()
        trt = self.module()
        nodes: Mapping[str, str] = {}
        if options.plugin_library is not None:
            stripped = without_functions(model)
            model, nodes = stripped.data, stripped.nodes
        build = NetworkBuild(trt, _TITLE)
        if options.plugin_library is not None:
            load_plugins(trt, options.plugin_library, sorted(set(nodes.values())))
        build.parse(model)
        check_plugin_layers(trt, build.network, nodes)
        build.add_profile(options)
        cache = _attach_timing_cache(build.config, options.timing_cache)
        data = build.serialize(options)
        if cache is not None and options.timing_cache is not None:
            _keep(options.timing_cache, bytes(cache.serialize()))
        engine = trt.Runtime(build.logger).deserialize_cuda_engine(data)
        if engine is None:
            raise refusal(_TITLE, "cannot load the engine that it built", build.logger.last)
        layers = engine_layers(trt, engine, tuple(nodes))
        check_engine(layers, nodes)
        gpu = first_gpu()
        return Engine(data, "" if gpu is None else gpu.sm, layers)


def load_plugins(trt: Any, library: Path, ops: Sequence[str]) -> None:  # noqa: ANN401
    """Register a plugin library, once a process, and look for the creators that a model needs.

    Raises:
        RuntimeFailure: The library does not load, or lacks a creator.
    """
    path = library.resolve()
    registry = trt.get_plugin_registry()
    if path not in _LOADED:
        if not path.is_file() or registry.load_library(str(path)) is None:
            raise RuntimeFailure(
                f"the plugin library {library} does not load",
                got="no such file" if not path.is_file() else "a refusal by the plugin registry",
                expected="a build of plugins/ for this TensorRT, loaded once",
                fix="Build it anew with `make plugins`, and see `ldd` for missing libraries.",
            )
        _LOADED.add(path)
    version = str(OP_VERSION)
    missing = [op for op in ops if registry.get_creator(op, version, DOMAIN) is None]
    if missing:
        raise RuntimeFailure(
            f"the plugin library {library} lacks plugins that the model needs",
            got=f"no creator of {', '.join(missing)}",
            expected=f"version {version} of each in the namespace {DOMAIN!r}",
            fix="Build it anew with `make plugins`.",
        )


def check_plugin_layers(trt: Any, network: Any, nodes: Mapping[str, str]) -> None:  # noqa: ANN401
    """Make sure that the parser turned every custom node into a plugin layer.

    Raises:
        RuntimeFailure: It did not.
    """
    kind = trt.LayerType.PLUGIN_V3 if nodes else None
    layers = (network.get_layer(index) for index in range(network.num_layers))
    found = sum(layer.type == kind for layer in layers)
    if found < len(nodes):
        raise _no_plugin("network", f"{found} plugin layers", len(nodes))


def check_engine(layers: Sequence[EngineLayer], nodes: Mapping[str, str]) -> None:
    """Make sure that the plugin layers are in the engine, too.

    Raises:
        RuntimeFailure: Some are not.
    """
    found = sum(layer.plugin for layer in layers)
    if found < len(nodes):
        raise _no_plugin("engine", f"{found} plugin layers", len(nodes))


def timing_cache_path(version: str, sm: str) -> Path:
    """Where kernel timings are kept for one version and one kind of GPU."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "bitexport" / f"tensorrt-{version}-sm{sm}.timing"


def _attach_timing_cache(config: Any, path: Path | None) -> Any:  # noqa: ANN401
    """The cache that the build will use and fill: the file's, or a new one where it does not fit.

    TensorRT checks a cache's header against its own version and the GPU.
    """
    if path is None:
        return None
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    for data in dict.fromkeys((kept, b"")):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _keep(path: Path, data: bytes) -> None:
    """Write the cache; an engine does not fail for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except (BitexportError, OSError):
        return


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _no_plugin(place: str, got: str, expected: int) -> RuntimeFailure:
    return RuntimeFailure(
        f"custom ops did not become plugin layers of the {place}",
        got=got,
        expected=f"{expected}, one for every custom node",
        fix="Build the plugin library for this TensorRT, or build with --no-plugins.",
    )
