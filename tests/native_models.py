"""Models for the op library, and a process of its own to run them in.

As a program, with the library and a folder, it runs every NAME.onnx there on the arrays of
NAME.npz, with nothing but numpy and onnxruntime, leaves Y in NAME.npy, and prints as JSON what
:class:`Answers` holds. Another onnxruntime can run it, and a crash of the library is an exit code
rather than the end of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ERRORS_ONLY = 3


def session(model: bytes, library: Path | None, threads: int = 1) -> Any:
    """An ONNX Runtime session; with the op library, or stock."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    model: bytes, feed: dict[str, np.ndarray], library: Path | None, threads: int = 1
) -> np.ndarray:
    """Y of a model."""
    return session(model, library, threads).run(None, feed)[0]


def save(folder: Path, name: str, model: bytes, feed: dict[str, np.ndarray]) -> None:
    """Leave a model and its inputs where :func:`run_folder` finds them."""
    (folder / f"{name}.onnx").write_bytes(model)
    np.savez(folder / f"{name}.npz", **feed)


@dataclass(frozen=True)
class Answers:
    """What became of the models of a folder.

    Attributes:
        onnxruntime: The version that ran them.
        errors: Name of a model -> its error as text, or None where it ran.
    """

    onnxruntime: str
    errors: dict[str, str | None]


def run_folder(folder: Path, library: Path, **environment: str) -> Answers:
    """Run this file as a program, with more variables in its environment.

    Raises:
        AssertionError: The process crashed.
    """
    command = [sys.executable, __file__, library, folder]
    variables = dict(os.environ) | environment
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise AssertionError(f"exit code {result.returncode}\n{result.stderr}")
    return Answers(**json.loads(result.stdout.splitlines()[-1]))


def main(library: Path, folder: Path) -> Answers:
    errors: dict[str, str | None] = {}
    for path in sorted(folder.glob("*.onnx")):
        with np.load(path.with_suffix(".npz")) as feed:
            try:
                y = run(path.read_bytes(), dict(feed), library)
            except Exception as error:
                errors[path.stem] = str(error)
            else:
                errors[path.stem] = None
                np.save(path.with_suffix(".npy"), y)
    return Answers(onnxruntime.__version__, errors)


if __name__ == "__main__":
    answers = main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(json.dumps(asdict(answers)))
