"""The settings of a quantization: ``training/recipes/quantize/kill-the-bits.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitexport.errors import InputError
from training.product_quantization.layers import BlockPlan
from training.recipe import merged, parse_toml

__all__ = ["QuantizePlan", "load_plan"]

_FILE = Path(__file__).parents[1] / "recipes" / "quantize" / "kill-the-bits.toml"
_BLOCKS = ("small", "large")
_BLOCK_FIELDS = ("spatial", "pointwise", "linear", "centroids", "linear_centroids")


@dataclass(frozen=True)
class QuantizePlan:
    """How a ResNet is quantized.

    Attributes:
        blocks: Block sizes and centroids.
        dataset: Name of the data set.
        input_shape: (C, H, W).
        augmentation: See ``training.datasets``.
        batch_size: Images of a finetuning step.
        activation_images: Images whose activations weight the EM.
        rows: Input positions drawn in an iteration of the EM.
        em_iterations: Of each layer.
        layer_steps: Finetuning steps of a layer's codebook.
        layer_learning_rate: Of those.
        whole_epochs: Passes in which all codebooks are finetuned.
        whole_learning_rate: At their start; a tenth after every ``whole_decay_every`` of them.
        whole_decay_every: In epochs.
        momentum: Of SGD.
        weight_decay: On the centroids.
        reported: What was measured -> accuracy, as the paper reports it.
    """

    blocks: BlockPlan
    dataset: str
    input_shape: tuple[int, int, int]
    augmentation: str
    batch_size: int
    activation_images: int
    rows: int
    em_iterations: int
    layer_steps: int
    layer_learning_rate: float
    whole_epochs: int
    whole_learning_rate: float
    whole_decay_every: int
    momentum: float
    weight_decay: float
    reported: Mapping[str, str]


def load_plan(blocks: str, arch: str, dataset: str, file: Path = _FILE) -> QuantizePlan:
    """Read the settings for a network and a data set.

    Raises:
        InputError: ``blocks`` is neither small nor large, or the file makes no sense.
    """
    if blocks not in _BLOCKS:
        raise InputError(
            "unknown block sizes",
            got=blocks,
            expected=" or ".join(_BLOCKS),
            fix="Correct --blocks.",
        )
    table = parse_toml(file)
    digits, own = table.pop("digits", {}), table.pop(arch, {})
    others = [key for key in table if key.startswith("resnet")]
    for name in others:
        table.pop(name)
    table = merged(table, own)
    table = merged(table, digits) if dataset == "digits" else table
    sizes: dict[str, Any] = {**table, **table.pop("blocks")[blocks]}
    reported = table.pop("reported")[blocks]
    for key in ("title", "paper", "dataset", *_BLOCK_FIELDS):
        table.pop(key, None)
    try:
        return QuantizePlan(
            blocks=BlockPlan(**{key: sizes[key] for key in _BLOCK_FIELDS}),
            dataset=dataset,
            input_shape=tuple(table.pop("input_shape")),
            reported=reported,
            **table,
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file} makes no sense",
            got=error,
            expected="the fields of training/product_quantization/plan.py",
            fix="Correct the file.",
        ) from error
