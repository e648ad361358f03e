"""Bi-Real Net: every depth, width and prefix, what the file cannot say, and damaged files.

The comparisons run in float64: there a rounding difference flips no sign, so that the tolerance can
be tight. Export and recorded logits are in ``test_family_sign_activated.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from centered_reference import checkpoint_of
from sign_activated_reference import (
    SEED,
    State,
    bottleneck,
    bottleneck_state,
    mobile_state,
    resnet,
    resnet_state,
)
from torch import nn
from torchvision.models import resnet18, resnet50

import bitexport
from bitexport.comparison import relative_l2
from bitexport.errors import UnsupportedModel
from bitexport.families import FAMILIES, LoadOptions, load_model
from bitexport.layers import BinaryConv2d, SignInputConv2d
from bitexport.models import bireal50

EXACT = 1e-12  # float64 on both sides, in another order of summation
ONES = (1, 1, 1, 1)


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(3, 3, 64, 64, generator=generator, dtype=torch.float64)


def doubled(state: State) -> State:
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


def error(module: nn.Module, want: torch.Tensor) -> float:
    """Relative L2 error of a module's logits in float64."""
    with torch.inference_mode():
        return relative_l2(module.double()(images()).numpy(), want.numpy())


@pytest.mark.parametrize(
    ("blocks", "width", "classes", "prefix", "arch"),
    [
        ((1, 1, 3, 1), 24, 3, "", "birealnet-1-1-3-1"),
        ((4, 4, 4, 4), 8, 10, "module.", "birealnet18"),
        ((6, 8, 12, 6), 4, 1000, "module._orig_mod.", "birealnet34"),
    ],
)
def test_networks_18_and_34(blocks, width, classes, prefix, arch, tmp_path: Path) -> None:
    state = resnet_state(blocks, width=width, classes=classes)
    path = tmp_path / "checkpoint.pth.tar"
    keys = {f"{prefix}{k}": v for k, v in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    torch.save({"state_dict": keys, "best_top1_acc": torch.ones(1), "optimizer": optimizer}, path)
    model = bitexport.load(path)
    assert (model.family, model.arch, model.notes) == ("bireal", arch, ())
    assert (model.input_shape, model.binary_activations) == ((3, 224, 224), True)
    assert error(model.module, resnet(doubled(state), images(), blocks, width=width)) <= EXACT


@pytest.mark.parametrize(
    ("blocks", "width", "classes", "arch"),
    [((1, 2, 1, 1), 12, 3, "birealnet50-1-2-1-1"), ((3, 4, 6, 3), 4, 9, "birealnet50")],
)
def test_network_50(blocks, width, classes, arch) -> None:
    state = bottleneck_state(blocks, width=width, classes=classes)
    model = load_model(checkpoint_of(state))
    assert (model.family, model.arch) == ("bireal", arch)
    assert error(model.module, bottleneck(doubled(state), images(), blocks, width=width)) <= EXACT
    dense = {name for name in model.dense_reasons if name.startswith("layers.0.")}
    assert dense == {"layers.0.conv1", "layers.0.downsample.1"}


def forget(module: nn.Module, name: str) -> None:
    """Let a submodule put out 0."""
    module.get_submodule(name).register_forward_hook(lambda *call: torch.zeros_like(call[-1]))


FORGOTTEN = {
    "pooled shortcut": (resnet_state, resnet, "layer3.0.downsample"),
    "binary convolution": (resnet_state, resnet, "layer1.0.bn1"),
    "pool of the middle stream": (bottleneck_state, bottleneck, "layers.1.pooling"),
    "link between the middle streams": (bottleneck_state, bottleneck, "layers.2.down_conv1x1"),
    "shortcut of the wide stream": (bottleneck_state, bottleneck, "layers.3.downsample"),
}


@pytest.mark.parametrize(("make", "restated", "name"), FORGOTTEN.values(), ids=FORGOTTEN)
def test_comparison_notices_what_is_forgotten(make, restated, name) -> None:
    state = make(ONES)
    module = load_model(checkpoint_of(state)).module
    forget(module, name)
    assert error(module, restated(doubled(state), images(), ONES)) > 1e-3


def test_comparison_notices_a_forgotten_leaky_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    state = bottleneck_state(ONES)
    monkeypatch.setattr(bireal50, "leaky_clip", lambda x: x)
    module = load_model(checkpoint_of(state)).module
    assert error(module, bottleneck(doubled(state), images(), ONES)) > 1e-3


def test_zeros_have_no_sign() -> None:
    """A channel of exact zeros into the sign, and latent weights of exactly 0."""
    state = resnet_state(ONES)
    for part in ("bn1.weight", "bn1.bias"):
        state[part][:3] = 0
    state["layer2.0.binary_conv.weights"][::3] = 0
    want = resnet(doubled(state), images(), ONES)
    assert error(load_model(checkpoint_of(state)).module, want) <= EXACT


def test_leaky_clip() -> None:
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 11.0])
    torch.testing.assert_close(
        bireal50.leaky_clip(x), torch.tensor([-1.2, -1.0, -0.5, 0.0, 1.0, 2.0])
    )


STATES = {
    "bireal": lambda: resnet_state(ONES),
    "bireal, 50": lambda: bottleneck_state(ONES),
    "reactnet": lambda: resnet_state(ONES, react=True, flat=False),
    "reactnet, flat": lambda: resnet_state(ONES, react=True, flat=True),
    "reactnet, A": lambda: mobile_state((8, 16, 32)),
    "reactnet, A in step 1": lambda: mobile_state((8, 16, 32), flat=False),
    "resnet, 18": lambda: resnet18().state_dict(),
    "resnet, 50": lambda: resnet50().state_dict(),
}


@pytest.mark.parametrize(("name", "make"), STATES.items(), ids=STATES)
def test_one_family_alone_detects_a_file(name: str, make: Callable[[], State]) -> None:
    checkpoint = checkpoint_of(make())
    found = [f.name for f in FAMILIES if f.detect(checkpoint) is not None]
    assert found == [name.partition(",")[0]]


def test_unused_convolution_may_be_anything_or_missing() -> None:
    state = bottleneck_state(ONES)
    want = bottleneck(doubled(state), images(), ONES)
    dead = "layers.0.down_conv1x1.weight"
    for change in (lambda s: s.pop(dead), lambda s: s.update({dead: torch.tensor(torch.nan)})):
        changed = dict(state)
        change(changed)
        assert error(load_model(checkpoint_of(changed)).module, want) <= EXACT


def test_network_50_does_not_say_whether_it_is_binarized() -> None:
    checkpoint = checkpoint_of(bottleneck_state(ONES))
    (note,) = load_model(checkpoint).notes
    assert "--weights float" in note
    assert load_model(checkpoint, LoadOptions(weights="binary")).notes == ()
    model = load_model(checkpoint, LoadOptions(weights="float"))
    kinds = {type(layer) for layer in model.module.modules()}
    assert model.notes == ()
    assert SignInputConv2d in kinds
    assert BinaryConv2d not in kinds


def test_flat_weights_are_binarized_whatever_is_asked() -> None:
    checkpoint = checkpoint_of(resnet_state(ONES))
    with pytest.raises(UnsupportedModel, match="stored flat"):
        load_model(checkpoint, LoadOptions(weights="float"))


def test_weights_in_four_dimensions_need_the_name_of_the_architecture() -> None:
    state = resnet_state(ONES, flat=False)
    checkpoint = checkpoint_of(state)
    with pytest.raises(UnsupportedModel, match="not a model we know"):
        load_model(checkpoint)
    model = load_model(checkpoint, LoadOptions(family="bireal", arch="birealnet-1-1-1-1"))
    assert error(model.module, resnet(doubled(state), images(), ONES)) <= EXACT
    assert len(model.notes) == 1


DAMAGES = {
    "missing link": (lambda s: s.pop("layers.1.down_conv1x1.weight"), "lacks"),
    "missing last BatchNorm": (lambda s: s.pop("layers.3.bn3.bias"), "lacks"),
    "shape": (lambda s: s.update({"layers.2.conv2.weight": torch.ones(32, 32, 1, 1)}), "shape"),
    "NaN": (lambda s: s["layers.1.conv3.weight"].fill_(torch.nan), "not finite"),
    "infinity": (lambda s: s["layers.0.conv1.weight"].fill_(torch.inf), "not finite"),
    "an endless index": (
        lambda s: s.update({f"layers.{'1' * 5000}.conv2.weight": torch.ones(1)}),
        "unknown",
    ),
    "a gap in the list": (lambda s: s.pop("layers.2.conv2.weight"), "not a model we know"),
}


@pytest.mark.parametrize(("change", "match"), DAMAGES.values(), ids=DAMAGES)
def test_refuses_a_damaged_network_50(change: Callable[[State], object], match: str) -> None:
    state = bottleneck_state(ONES)
    change(state)
    with pytest.raises(UnsupportedModel, match=match):
        load_model(checkpoint_of(state))
