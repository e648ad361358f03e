"""What a user may say about a product-quantized checkpoint; the rest is read from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from forged_checkpoints import sound_file

from bitexport.checkpoint import Checkpoint, read_checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families import LoadOptions
from bitexport.families.kill_the_bits import KillTheBitsFamily


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return read_checkpoint(sound_file(tmp_path / "c.pth", "torch zip"))


@pytest.mark.parametrize("arch", ["resnet18", "maskrcnn_resnet50_fpn"])
@pytest.mark.parametrize(
    ("weights", "activations"),
    [("binary", "auto"), ("float", "auto"), ("auto", "binary")],
)
def test_its_weights_are_neither_binary_nor_float(
    weights: str, activations: str, arch: str, checkpoint: Checkpoint
) -> None:
    options = LoadOptions(weights=weights, activations=activations)
    with pytest.raises(UnsupportedModel, match=r"neither .* \(got --weights .* --activations"):
        KillTheBitsFamily().build(checkpoint, arch, options)


def test_an_architecture_that_upstream_has_not_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UnsupportedModel, match=r"\(got vgg16, expected resnet18 or .*_backbone"):
        KillTheBitsFamily().build(checkpoint, "vgg16", LoadOptions())


def test_files_without_codes_are_somebody_elses(checkpoint: Checkpoint) -> None:
    assert KillTheBitsFamily().detect(checkpoint) is None
