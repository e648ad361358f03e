"""Devices, processes and precision, by Lightning Fabric.

One process trains by itself. Several are started by torchrun, on one machine or many:

    torchrun --nproc-per-node 4 -m training train --recipe ...

Each holds the whole model (DistributedDataParallel) and runs its part of every batch.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import torch

from bitexport.errors import InputError, RuntimeFailure

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["PRECISIONS", "make_fabric", "set_determinism"]

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
# What cuBLAS needs to repeat its sums in the same order.
_CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_fabric(precision: str, device: str) -> Fabric:
    """Start the engine in every process that torchrun started, or in this one alone.

    Args:
        precision: ``"float32"``, or mixed with ``"bfloat16"`` or ``"float16"``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        InputError: An unknown precision or device, or a precision that the device lacks.
        RuntimeFailure: Lightning Fabric is missing.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise RuntimeFailure(
            "training needs Lightning Fabric",
            got=error,
            expected="lightning-fabric 2.4 or newer",
            fix="In the checkout run: pip install -e '.[train]'",
        ) from error
    if precision not in PRECISIONS or device not in ("auto", "cpu", "cuda"):
        raise InputError(
            "unknown precision or device",
            got=f"{precision} on {device}",
            expected=f"{' or '.join(PRECISIONS)} on auto, cpu or cuda",
            fix="Correct --precision or --device.",
        )
    accelerator = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise RuntimeFailure(
            "no GPU to train on",
            got="torch sees none",
            expected="a CUDA device",
            fix="Leave --device out.",
        )
    if accelerator == "cpu" and precision == "float16":
        raise InputError(
            "float16 does not train on a CPU",
            got="--precision float16",
            expected="float32 or bfloat16",
            fix="Correct --precision.",
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with warnings.catch_warnings():
        # Fabric recommends other strategies and worker counts; the choice is made here.
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=world // local,
            strategy="ddp" if world > 1 else "auto",
            precision=PRECISIONS[precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric


def set_determinism(enabled: bool) -> None:
    """Let torch refuse kernels whose sums depend on the order of threads, or allow them."""
    if enabled:
        os.environ.setdefault(*_CUBLAS)
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled
