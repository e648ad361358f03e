"""ReActNet: both plans and both steps, what the file cannot say, and damaged files.

The comparisons run in float64: there a rounding difference flips no sign, so that the tolerance can
be tight. Export and recorded logits are in ``test_family_sign_activated.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from centered_reference import checkpoint_of
from sign_activated_reference import SEED, State, mobile, mobile_state, resnet, resnet_state
from torch import nn

import bitexport
from bitexport import ExportOptions
from bitexport.comparison import relative_l2
from bitexport.errors import UnsupportedModel
from bitexport.families import LoadOptions, load_model
from bitexport.models.reactnet import REACTNET_A

EXACT = 1e-12  # float64 on both sides, in another order of summation
ONES = (1, 1, 1, 1)
# Its first doubling reaches 64, so that upstream's rule for strides is that of ReActNet-A.
PLAN = (32, 64, 128, 128)
NARROW = (8, 16, 32)


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)


def doubled(state: State) -> State:
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


def error(module: nn.Module, want: torch.Tensor) -> float:
    """Relative L2 error of a module's logits in float64."""
    with torch.inference_mode():
        return relative_l2(module.double()(images()).numpy(), want.numpy())


def react_state(blocks=ONES, **kw) -> State:
    return resnet_state(blocks, react=True, **{"flat": False} | kw)


@pytest.mark.parametrize(
    ("blocks", "width", "classes", "arch"),
    [
        ((2, 1, 1, 3), 24, 3, "reactnet-2-1-1-3"),
        ((4, 4, 4, 4), 8, 10, "reactnet18"),
        ((6, 8, 12, 6), 4, 1000, "reactnet34"),
    ],
)
@pytest.mark.parametrize("step", [1, 2])
def test_resnet(blocks, width, classes, arch, step) -> None:
    state = react_state(blocks, width=width, classes=classes)
    options = LoadOptions(weights="float" if step == 1 else "binary")
    model = load_model(checkpoint_of(state), options)
    assert (model.family, model.arch, model.notes) == ("reactnet", arch, ())
    assert (model.input_shape, model.binary_activations) == ((3, 224, 224), True)
    want = resnet(doubled(state), images(), blocks, width=width, react=True, real_weights=step == 1)
    assert error(model.module, want) <= EXACT


@pytest.mark.parametrize(
    ("channels", "arch"),
    [
        (PLAN, "reactnet-a"),
        ((16, 16), "reactnet-a"),
        (NARROW, "reactnet-mobilenet"),
        ((24, 48, 48, 96), "reactnet-mobilenet"),
        ((16, 32, 64, 128), "reactnet-mobilenet"),
        ((64, 128), "reactnet-mobilenet"),
    ],
)
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_mobilenet(channels, arch, step, prefix, tmp_path: Path) -> None:
    state = mobile_state(channels, flat=step == 2)
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"state_dict": {f"{prefix}{k}": v for k, v in state.items()}}, path)
    model = bitexport.load(path)
    assert (model.family, model.arch) == ("reactnet", arch)
    want = restated_mobile(doubled(state), channels, real_weights=step == 1)
    assert error(model.module, want) <= EXACT


def restated_mobile(state: State, channels, **kw) -> torch.Tensor:
    return mobile(state, images(), channels, **kw)


def strides_of(module: nn.Module) -> list[int]:
    return [block.binary_3x3.stride[0] for block in list(module.feature)[1:]]


@pytest.mark.parametrize("stated", [True, False])
def test_full_plan_of_reactnet_a(stated: bool) -> None:
    """A narrow one is told by its name: the user's, or the file's as our training writes it."""
    channels = tuple(c // 8 for c in REACTNET_A)
    state = mobile_state(channels)
    scalars = {"bitexport_family": "reactnet", "bitexport_arch": "reactnet-a"} if stated else {}
    options = LoadOptions() if stated else LoadOptions(arch="reactnet-a")
    model = load_model(checkpoint_of(state, **scalars), options)
    assert (model.arch, model.notes) == ("reactnet-a", ())
    assert error(model.module, restated_mobile(doubled(state), channels, unhalved=8)) <= EXACT
    assert strides_of(model.module) == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


FORGOTTEN_RESNET = ("move0", "move1", "move2", "prelu", "downsample.2")
FORGOTTEN_MOBILE = ("move11", "move12", "move13", "move21", "move22", "move23", "prelu2")


@pytest.mark.parametrize("part", FORGOTTEN_RESNET + FORGOTTEN_MOBILE)
def test_comparison_notices_every_learned_part(part: str) -> None:
    """A part read into a wrong place, or not at all, moves the logits."""
    is_mobile = part in FORGOTTEN_MOBILE
    state = mobile_state(NARROW) if is_mobile else react_state()
    want = (
        restated_mobile(doubled(state), NARROW)
        if is_mobile
        else resnet(doubled(state), images(), ONES, react=True)
    )
    changed = {k: v * 0 if f".{part}." in k else v for k, v in state.items()}
    assert any(f".{part}." in key for key in state)
    assert error(load_model(checkpoint_of(changed)).module, want) > 1e-3


def test_zeros_have_no_sign() -> None:
    """A channel of exact zeros into RSign, and latent weights of exactly 0."""
    state = mobile_state(NARROW)
    for part in ("feature.0.bn1.weight", "feature.0.bn1.bias", "feature.1.move11.bias"):
        state[part].view(-1)[:3] = 0
    state["feature.2.binary_3x3.weights"][::3] = 0
    want = restated_mobile(doubled(state), NARROW)
    assert error(load_model(checkpoint_of(state)).module, want) <= EXACT


def test_comparison_notices_swapped_halves() -> None:
    state = mobile_state(NARROW)
    want = restated_mobile(doubled(state), NARROW)
    first, second = (f"feature.1.binary_pw_down{n}.weights" for n in (1, 2))
    state[first], state[second] = state[second], state[first]
    assert error(load_model(checkpoint_of(state)).module, want) > 1e-3


def test_resnet_does_not_say_which_step_it_is_of() -> None:
    (note,) = load_model(checkpoint_of(react_state())).notes
    assert "--weights float" in note


def test_flat_weights_say_that_they_are_binarized() -> None:
    state = react_state(flat=True)
    model = load_model(checkpoint_of(state))
    assert model.notes == ()
    assert error(model.module, resnet(doubled(state), images(), ONES, react=True)) <= EXACT


@pytest.mark.parametrize("state", [react_state(flat=True), mobile_state(PLAN)])
def test_refuses_flat_weights_as_real_ones(state: State) -> None:
    with pytest.raises(UnsupportedModel, match="stored flat"):
        load_model(checkpoint_of(state), LoadOptions(weights="float"))


def test_mobilenet_of_step_1_can_be_binarized_on_request() -> None:
    state = mobile_state(PLAN, flat=False)
    checkpoint = checkpoint_of(state)
    (note,) = load_model(checkpoint).notes
    assert "--weights binary" in note
    model = load_model(checkpoint, LoadOptions(weights="binary"))
    assert model.notes == ()
    assert error(model.module, restated_mobile(doubled(state), PLAN)) <= EXACT


@pytest.mark.parametrize(
    ("channels", "strides", "notes"),
    [
        (PLAN, [1, 2, 1], 0),
        ((32, 32, 64, 128), [1, 1, 2], 0),
        ((16, 16), [1], 0),
        (NARROW, [2, 2], 1),
        ((8, 8, 16, 16, 32), [1, 2, 1, 2], 1),
        ((16, 32, 64, 128), [2, 1, 2], 1),
    ],
)
def test_says_so_where_the_strides_are_a_guess(channels, strides, notes) -> None:
    """Upstream halves where channels double to anything but 64; a file shows no strides."""
    checkpoint = checkpoint_of(mobile_state(channels))
    model = load_model(checkpoint)
    assert strides_of(model.module) == strides
    said = [n for n in model.notes if "halve the image" in n and "--arch reactnet-a " in n]
    assert len(said) == notes
    named = load_model(checkpoint, LoadOptions(arch="reactnet-mobilenet"))
    assert (strides_of(named.module), named.notes) == (strides, ())


def test_step_1_keeps_the_sign_exact(tmp_path: Path) -> None:
    path, output = tmp_path / "checkpoint.pth.tar", tmp_path / "model.onnx"
    torch.save({"state_dict": mobile_state((8, 16), flat=False)}, path)
    report = bitexport.export(path, path=output, options=ExportOptions(input_size=(32, 32)))
    ops = [node.op_type for node in onnx.load(output).graph.node]
    assert ops.count("Sign") == 2
    assert all(layer.dense for layer in report.layers)


DAMAGES = {
    "missing shift": (lambda s: s.pop("feature.1.move13.bias"), "lacks"),
    "missing block": (lambda s: s.pop("feature.1.move22.bias"), "missing"),
    "missing half": (lambda s: s.pop("feature.1.binary_pw_down2.weights"), "lacks"),
    "shape of a shift": (lambda s: s.update({"feature.1.move11.bias": torch.ones(8)}), "shape"),
    "short flat weight": (
        lambda s: s.update({"feature.1.binary_3x3.weights": torch.ones(5, 1)}),
        "shape",
    ),
    "halves of two shapes": (
        lambda s: s.update({"feature.1.binary_pw_down2.weights": torch.ones(64, 2)}),
        "second half",
    ),
    "a half without dimensions": (
        lambda s: s.update({"feature.1.bn2_2.weight": torch.tensor(1.0)}),
        "second half",
    ),
    "halves without dimensions": (
        lambda s: s.update({f"feature.1.bn2_{n}.weight": torch.tensor(1.0) for n in (1, 2)}),
        "second half",
    ),
    "halves of two types": (
        lambda s: s.update({"feature.1.bn2_2.bias": s["feature.1.bn2_2.bias"].half()}),
        "second half",
    ),
    "halves and the whole": (
        lambda s: s.update({"feature.1.bn2.weight": torch.ones(16)}),
        "unknown",
    ),
    "both forms of one weight": (
        lambda s: s.update({"feature.1.binary_3x3.weight": torch.ones(8, 8, 3, 3)}),
        "mixes",
    ),
    "channels that grow oddly": (
        lambda s: s.update({"feature.2.move22.bias": torch.ones(1, 24, 1, 1)}),
        "number of channels",
    ),
    "NaN": (lambda s: s["feature.2.binary_pw_down1.weights"].fill_(torch.nan), "not finite"),
    "negative variance": (lambda s: s["feature.1.bn2_2.running_var"].neg_(), "negative variance"),
}


@pytest.mark.parametrize(("change", "match"), DAMAGES.values(), ids=DAMAGES)
def test_refuses_a_damaged_mobilenet(change: Callable[[State], object], match: str) -> None:
    state = mobile_state(NARROW)
    change(state)
    with pytest.raises(UnsupportedModel, match=match):
        load_model(checkpoint_of(state))


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(activations="float"),
        LoadOptions(arch="reactnet-a"),
        LoadOptions(arch="reactnet-mobilenet"),
        LoadOptions(arch="reactnet18"),
        LoadOptions(arch="reactnet-1-1-0-1"),
        LoadOptions(arch="nonsense"),
    ],
)
def test_refuses_what_the_resnet_is_not(options: LoadOptions) -> None:
    with pytest.raises(UnsupportedModel):
        load_model(checkpoint_of(react_state()), options)
