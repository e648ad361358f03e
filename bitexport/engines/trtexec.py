"""The ``trtexec`` line that builds what ``bitexport trt --backend tensorrt`` builds."""

from __future__ import annotations

import shlex
from pathlib import Path

from bitexport.engines.build import default_engine
from bitexport.engines.prepare import is_onnx, prepare
from bitexport.engines.request import EngineRequest
from bitexport.errors import InputError, RuntimeFailure
from bitexport.files import check_writable, write_atomically
from bitexport.runtimes import plugin_library_path

__all__ = ["trtexec_line"]

# Where the library was not built here, it will stand where trtexec finds it.
_LIBRARY = "libbitexport_trt.so"


def trtexec_line(source: Path, output: Path | None, request: EngineRequest) -> str:
    """One shell command for NVIDIA's ``trtexec``; nothing is built.

    Args:
        source: An .onnx file, or a checkpoint with ``request.save_onnx``, which is then written.
        output: The engine that trtexec is to write.
        request: What engine is wanted; its plugin library need not be on this machine.

    Raises:
        InputError: trtexec could not read the source as it is, or builds for TensorRT only.
        UnsupportedModel: The model is none that we can build.
    """
    if request.backend == "tensorrt-rtx":
        raise InputError(
            "trtexec is TensorRT's",
            got=f"--print-trtexec with --backend {request.backend}",
            expected="--backend tensorrt",
            fix="Leave --backend out.",
        )
    changed = request.float16 or not is_onnx(source) or not request.plugins
    if changed and request.save_onnx is None:
        raise _nowhere_to_save()
    if request.save_onnx is not None:
        check_writable(request.save_onnx, source=source)
    model = prepare(source, request, plugins=request.plugins)
    if model.unchained and request.save_onnx is None:
        raise _nowhere_to_save()
    if request.save_onnx is not None:
        write_atomically(request.save_onnx, model.data)
    words = [
        "trtexec",
        f"--onnx={request.save_onnx or source}",
        f"--saveEngine={output or default_engine(source)}",
        # The default since TensorRT 11, which still takes the word.
        "--stronglyTyped",
    ]
    if model.input.shape[0] is None:
        image = "x".join(str(n) for n in model.input.shape[1:])
        words += [
            f"--{which}Shapes={model.input.name}:{batch}x{image}"
            for which, batch in zip(("min", "opt", "max"), request.batches(), strict=True)
        ]
    if model.plugin_nodes:
        words.append(f"--staticPlugins={_library(request)}")
    return _on_one_line(shlex.join([*words, "--skipInference"]))


def _on_one_line(line: str) -> str:
    """The line, unless a terminal would obey, or could not show, what the model calls its input."""
    if not line.isprintable():
        raise InputError(
            "no line for a shell",
            got=ascii(line),
            expected="names of printable characters",
            fix="Rename the file, or the model's input.",
        )
    return line


def _nowhere_to_save() -> InputError:
    return InputError(
        "trtexec reads an ONNX file, and the model has to be changed first",
        got="no --save-onnx",
        expected="a place for the changed model",
        fix="Add --save-onnx MODEL.onnx.",
    )


def _library(request: EngineRequest) -> str:
    if request.plugin_library is not None:
        return str(request.plugin_library)
    try:
        return str(plugin_library_path())
    except RuntimeFailure:
        return _LIBRARY
