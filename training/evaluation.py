"""Accuracy of a checkpoint, and of the file that was exported from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitexport.errors import InputError
from bitexport.families import LoadedModel, load
from bitexport.runtimes import runtime_named
from training.datasets import DATASETS, DataOptions, ImageData, open_data
from training.prediction import accuracy, predict
from training.trainer import threads as torch_threads

__all__ = ["evaluate_checkpoint", "run_exported"]

_BATCH = 256


def evaluate_checkpoint(
    checkpoint: Path,
    *,
    dataset: str | None,
    root: Path,
    download: bool,
    onnx: Path | None,
    threads: int | None,
) -> dict[str, Any]:
    """Run a checkpoint, as ``bitexport`` reads it, on held-out images.

    Args:
        checkpoint: A file of any family.
        dataset: Name of the data set; None takes the one that the file names.
        root: Its folder.
        download: Let torchvision fetch it.
        onnx: An exported file to run beside it.
        threads: Of torch and ONNX Runtime.

    Raises:
        InputError: A file cannot be read, or nothing says which images to use.
    """
    model = load(checkpoint)
    data = open_data(
        DataOptions(_dataset_of(model, dataset), root, download, model.input_shape, "none")
    )
    with torch_threads(threads):
        logits, labels = predict(model.module, data.test)
    record: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "model": f"{model.arch} ({model.family})",
        "images": len(labels),
        "accuracy": accuracy(logits, labels),
    }
    if onnx is not None:
        exported = run_exported(onnx, data, threads)
        record["onnx"] = str(onnx)
        record["onnx_accuracy"] = accuracy(exported, labels)
        same = exported.argmax(dim=1) == logits.argmax(dim=1)
        record["same_class"] = float(same.double().mean())
    return record


def run_exported(onnx: Path, data: ImageData, threads: int | None = 1) -> torch.Tensor:
    """Logits of an exported file for the held-out images, in stock ONNX Runtime."""
    try:
        runner = runtime_named("ort").load(onnx.read_bytes(), threads=threads or 0)
    except OSError as error:
        raise InputError(
            f"cannot read {onnx}",
            got=error.strerror or error,
            expected="an exported file",
            fix="Write it with `bitexport onnx`.",
        ) from error
    test: Any = data.test
    parts = []
    for start in range(0, len(test), _BATCH):
        images = [test[i][0].numpy() for i in range(start, min(start + _BATCH, len(test)))]
        parts.append(runner.run({"input": np.stack(images)})["logits"])
    return torch.from_numpy(np.concatenate(parts))


def _dataset_of(model: LoadedModel, asked: str | None) -> str:
    if asked is not None:
        return asked
    try:
        named = json.loads(model.preprocessing or "{}")
    except ValueError:
        named = {}
    name = named.get("dataset") if isinstance(named, dict) else None
    if name in DATASETS:
        return str(name)
    raise InputError(
        "the checkpoint does not say what it was trained on",
        got="no preprocessing",
        expected="a data set",
        fix=f"Name it: --dataset {' or '.join(DATASETS)}.",
    )
