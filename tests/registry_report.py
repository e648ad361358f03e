"""Run by test_plugins_tensorrt_library: what TensorRT-RTX's registry makes of a plugin library.

TensorRT-RTX has no plugin layers: its parser ends the process as soon as it has created a plugin.
So each model is parsed in a process of its own, and everything it logs is kept.

Usage: registry_report.py LIBRARY [MODEL.onnx ...]; prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx_bindings as trt


class Logger(trt.ILogger):
    """Writes each message at once: the process may not live to write it later."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def log(self, severity: Any, message: str) -> None:
        os.write(self.descriptor, f"{severity.name} {message}\n".encode())


def load(library: str, descriptor: int) -> tuple[Any, Any, Logger]:
    logger = Logger(descriptor)
    # Plugins are given the logger of a runtime, even where they are only created.
    runtime = trt.Runtime(logger)
    registry = trt.get_plugin_registry()
    before = {id(creator) for creator in registry.all_creators}
    handle = registry.load_library(library)
    if handle is None:
        raise SystemExit(f"{library} was not loaded")
    assert len(registry.all_creators) > len(before)
    return registry, runtime, logger


def creators(library: str, descriptor: int) -> list[dict[str, Any]]:
    registry, _runtime, _logger = load(library, descriptor)
    found = []
    for creator in registry.all_creators:
        if creator.plugin_namespace in ("bitexport", "") and hasattr(creator, "create_plugin"):
            fields = {field.name: field.type.name for field in creator.field_names}
            found.append(
                {
                    "name": creator.name,
                    "namespace": creator.plugin_namespace,
                    "version": creator.plugin_version,
                    "fields": fields,
                }
            )
    return found


def refusal(library: str, descriptor: int) -> bool:
    """Whether a plugin without its fields is refused; the reason is in the log."""
    registry, _runtime, _logger = load(library, descriptor)
    creator = registry.get_creator("SignConv", "1", "bitexport")
    strides = trt.PluginField("strides", np.array([1, 1], np.int32), trt.PluginFieldType.INT32)
    fields = trt.PluginFieldCollection([strides])
    return creator.create_plugin("stem", fields, trt.TensorRTPhase.BUILD) is None


def parse(library: str, model: str, descriptor: int) -> None:
    _, _runtime, logger = load(library, descriptor)
    network = trt.Builder(logger).create_network(0)
    trt.OnnxParser(network, logger).parse(Path(model).read_bytes())


def in_child(body: Any) -> dict[str, Any]:
    """Runs ``body`` on a log file's descriptor: its log, and its result if it lived that long."""
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as result:
        pid = os.fork()
        if pid == 0:
            try:
                # Where plugins write if the logger is of another major version than their headers.
                os.dup2(log.fileno(), sys.stderr.fileno())
                os.write(result.fileno(), json.dumps(body(log.fileno())).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        log.seek(0)
        result.seek(0)
        text = result.read()
        return {
            "log": log.read().decode().splitlines(),
            "result": json.loads(text) if text else None,
        }


def main() -> None:
    library, *models = sys.argv[1:]
    report = {
        "creators": in_child(lambda descriptor: creators(library, descriptor)),
        "refusal": in_child(lambda descriptor: refusal(library, descriptor)),
        "parsed": [in_child(lambda d, m=model: parse(library, m, d)) for model in models],
    }
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main()
