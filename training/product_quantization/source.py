"""The real network that a quantization starts from."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models

from bitexport.errors import InputError, RuntimeFailure, UnsupportedModel
from bitexport.families import load
from bitexport.models.resnet import RESNETS, build_resnet
from training.datasets import DataOptions, open_data
from training.recipe import load_recipe
from training.trainer import RunOptions, train

__all__ = ["DEFAULT_ARCH", "real_network"]

DEFAULT_ARCH = "resnet18"


def real_network(
    arch: str | None, checkpoint: Path | None, *, dataset: str, download: bool, run: RunOptions
) -> tuple[nn.Module, str]:
    """A trained ResNet and its name.

    Args:
        arch: Name of the ResNet; by default the checkpoint's own, or ``DEFAULT_ARCH``.
        checkpoint: Of the family ``resnet``, or None: digits are learned at once, ImageNet's
            weights are torchvision's.
        dataset: Name of the data set.
        download: Let torchvision fetch its weights.
        run: How to train on digits.

    Raises:
        InputError: There is no such network, nothing to start from, or another one in the
            checkpoint.
        UnsupportedModel: The checkpoint holds another kind of network.
        RuntimeFailure: The download failed.
    """
    if checkpoint is not None:
        loaded = load(checkpoint)
        if loaded.family != "resnet":
            raise UnsupportedModel(
                f"{checkpoint} cannot be quantized",
                got=f"{loaded.arch} ({loaded.family})",
                expected="a real ResNet of torchvision's layout",
                fix="Train one: python -m training train --recipe resnet18.",
            )
        if arch not in (None, loaded.arch):
            raise InputError(
                f"{checkpoint} holds another network",
                got=f"--model {arch}",
                expected=loaded.arch,
                fix="Leave --model out, or name another --checkpoint.",
            )
        return loaded.module, loaded.arch
    arch = arch or DEFAULT_ARCH
    if arch not in RESNETS:
        raise InputError(
            "unknown ResNet",
            got=arch,
            expected=" or ".join(RESNETS),
            fix="Correct --model, or name a --checkpoint.",
        )
    if dataset == "digits" and arch == "resnet18":
        return _learned(run), arch
    if dataset == "imagenet":
        return _pretrained(arch, download=download), arch
    raise InputError(
        "nothing to quantize",
        got=f"{arch} for {dataset}, without a checkpoint",
        expected="a network that was trained on these images",
        fix="Train it, python -m training train --recipe resnet18, and name it with --checkpoint.",
    )


def _learned(run: RunOptions) -> nn.Module:
    recipe = load_recipe("resnet18", "digits")
    data = open_data(DataOptions("digits", Path(), False, recipe.input_shape, recipe.augmentation))
    return load(train(recipe, data, run).checkpoint).module


def _pretrained(arch: str, *, download: bool) -> nn.Module:
    """Torchvision's weights, from its cache or its site."""
    weights = models.get_model_weights(arch)["IMAGENET1K_V1"]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not cached.exists():
        if not download:
            raise InputError(
                f"torchvision's {arch} is not at {cached}",
                got="no such file",
                expected="the weights that torchvision publishes",
                fix="Run again with --download, or name a --checkpoint.",
            )
        try:
            torch.hub.download_url_to_file(weights.url, str(cached))
        except (URLError, OSError) as error:
            raise RuntimeFailure(
                f"cannot download torchvision's {arch}",
                got=error,
                expected="a connection to its site",
                fix=f"Download {weights.url} elsewhere, and name it with --checkpoint.",
            ) from error
    model: nn.Module = build_resnet(arch, 1000)
    model.load_state_dict(torch.load(cached, map_location="cpu", weights_only=True))
    return model
