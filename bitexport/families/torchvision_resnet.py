"""Full-precision ResNets as torchvision saves them: the baselines."""

from __future__ import annotations

from torch import nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.state import build_module, rows_of
from bitexport.models.resnet import RESNETS, build_resnet, resnet_of_keys

__all__ = ["TorchvisionResNetFamily"]

_MARKS = ("conv1.weight", "bn1.running_mean", "layer1.0.bn2.running_mean", "fc.weight")


class TorchvisionResNetFamily:
    """torchvision's ResNets, all float32."""

    name = "resnet"
    title = "full-precision ResNet"
    paper = "https://arxiv.org/abs/1512.03385"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The ResNet that has the file's blocks."""
        tensors = checkpoint.tensors()
        dense = all(mark in tensors for mark in _MARKS) and "layer1.0.conv2.weight" in tensors
        extra = any(key.endswith((".alpha", ".B", ".R1", ".codes")) for key in tensors)
        return resnet_of_keys(tensors) if dense and not extra else None

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The ResNet."""
        if arch not in RESNETS or "binary" in (options.weights, options.activations):
            raise UnsupportedModel(
                "a full-precision ResNet cannot be read as asked",
                got=f"{arch}, --weights {options.weights}, --activations {options.activations}",
                expected=f"{' or '.join(RESNETS)}, all float",
                fix="Leave the options out.",
            )
        classes = rows_of(checkpoint, "fc.weight", dimensions=2)
        module = build_module(lambda: build_resnet(arch, classes), checkpoint.tensors())
        layers = module.named_modules()
        reasons = {n: "full precision" for n, m in layers if isinstance(m, nn.Conv2d | nn.Linear)}
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=(3, 224, 224),
            dense_reasons=reasons,
        )
