"""A torch model that no checkpoint holds: no family, and nothing to detect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitexport.errors import InputError
from bitexport.families.base import LoadedModel

__all__ = ["OWN_FAMILY", "image_size", "own_model"]

OWN_FAMILY = "module"


def own_model(module: nn.Module, example_input: Tensor | None) -> LoadedModel:
    """A torch model of the caller's as if a checkpoint had held it.

    Raises:
        InputError: There is no batch of images to trace it with, or it is not float32 on the CPU,
            or wrapped or scripted.
    """
    if example_input is None:
        raise InputError(
            "a torch model needs an example input",
            got="none",
            expected="a float32 tensor [N, C, H, W]",
            fix="Call bitexport.export(model, example_input, path).",
        )
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    kinds = {(t.dtype, t.device.type) for t in tensors}
    other = sorted(f"{dtype} on {device}" for dtype, device in kinds - {(torch.float32, "cpu")})
    if other:
        raise InputError(
            "a torch model is not as the exporter runs it",
            got=", ".join(other),
            expected="float32 on the CPU",
            fix="Call model.float().cpu() first.",
        )
    _refuse_wrapped(module)
    shape = (int(example_input.shape[1]), *image_size(example_input))
    return LoadedModel(
        module=module, family=OWN_FAMILY, arch=type(module).__name__, input_shape=shape
    )


def _refuse_wrapped(module: nn.Module) -> None:
    """The wrappers' forward takes anything, and torch.export reads no TorchScript."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise _wrapped(type(module).__name__, "model.module")
    if hasattr(module, "_orig_mod"):
        raise _wrapped("model out of torch.compile", "model._orig_mod")
    for name, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            place = ".".join(part for part in ("model", name) if part)
            raise _wrapped(f"{place} out of torch.jit", "the module that it was made from")


def _wrapped(got: str, instead: str) -> InputError:
    return InputError(
        "a torch model is wrapped",
        got=got,
        expected="the module itself, which torch.export can trace",
        fix=f"Give {instead}.",
    )


def image_size(example_input: Tensor) -> tuple[int, int]:
    """(H, W) of an example batch [N, C, H, W].

    Raises:
        InputError: It is no such tensor.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() != 4:
        shape = list(getattr(example_input, "shape", ()))
        raise InputError(
            "the example input is no batch of images",
            got=f"{type(example_input).__name__} of shape {shape}",
            expected="a torch.Tensor [N, C, H, W]",
            fix="Give images of the right size, such as torch.zeros(1, 3, 32, 32).",
        )
    return int(example_input.shape[2]), int(example_input.shape[3])
