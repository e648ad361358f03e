"""SiMaN checkpoints: the network they stand for, and the ones we refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from centered_reference import (
    RESNET18_WIDTHS,
    Reference,
    StateMaker,
    checkpoint_of,
    images,
    relative_error,
)
from torch import Tensor

import bitexport
from bitexport.errors import UnsupportedModel
from bitexport.families import FAMILIES, LoadOptions, load_model
from bitexport.layers import BinaryConv2d

DEPTHS = {"resnet18_imagenet": (2, 2, 2, 2), "resnet34_imagenet": (3, 4, 6, 3)}
ARCHITECTURES = ("resnet20", *RESNET18_WIDTHS, "vgg_small", *DEPTHS)
BINARY = "layer1.0.conv1"


def siman_fields(generator: torch.Generator, name: str, weight: Tensor) -> dict[str, Tensor]:
    bits = torch.randint(2, (len(weight), weight[0].numel()), generator=generator).float()
    return {f"{name}.B": bits, f"{name}.percent": torch.tensor(3.0)}


def siman_state(arch: str) -> dict[str, Tensor]:
    maker = StateMaker(siman_fields)
    if arch == "resnet20":
        maker.resnet20(prelu=True)
    elif arch == "vgg_small":
        maker.vgg_small(prelu=True)
    elif arch in DEPTHS:
        maker.imagenet(DEPTHS[arch], prelu=True)
    else:
        maker.resnet18(arch)
    return maker.state


def stored_signs(state: dict[str, Tensor], name: str) -> Tensor:
    return (2 * state[f"{name}.B"] - 1).reshape(state[f"{name}.weight"].shape)


def expected_logits(arch: str, state: dict[str, Tensor], x: Tensor, **mistake: Any) -> Tensor:
    reference = Reference(state, **({"signs": lambda n: stored_signs(state, n)} | mistake))
    if arch == "resnet20":
        return reference.resnet20(x, prelu=True, per_conv=True)
    if arch == "vgg_small":
        return reference.vgg_small(x, prelu=True)
    if arch in DEPTHS:
        return reference.imagenet(x, DEPTHS[arch], prelu=True)
    return reference.resnet18(x, arch)


@pytest.mark.parametrize("arch", ["resnet18A", "vgg_small"])
def test_blocks_of_every_kind_reach_onnx_runtime(arch, tmp_path):
    state, source = siman_state(arch), tmp_path / "checkpoint.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 1}, source)
    report = bitexport.export(source, path=tmp_path / "net.onnx")
    assert (report.family, report.arch) == ("siman", arch)
    x = images(32, 5)
    logits = onnxruntime.InferenceSession(report.output).run(None, {"input": x.numpy()})[0]
    expected = expected_logits(arch, state, x)
    pairs = zip(torch.from_numpy(logits), expected, strict=True)
    # A sign that rounding decides may move one image.
    assert sum(relative_error(a, b) > 1e-3 for a, b in pairs) <= 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_equals_the_formulas(arch):
    state = siman_state(arch)
    model = load_model(checkpoint_of(state))
    imagenet = arch in DEPTHS
    x = images(193 if imagenet else 32)
    with torch.no_grad():
        logits = model.module(x)
    assert (model.family, model.arch) == ("siman", arch)
    assert model.input_shape == ((3, 224, 224) if imagenet else (3, 32, 32))
    assert not model.notes
    assert relative_error(logits, expected_logits(arch, state, x)) <= 1e-5


def positive_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.abs() if k.endswith(".alpha") else v for k, v in state.items()}


MISTAKES: dict[str, Callable[[dict[str, Tensor], Tensor], Tensor]] = {
    "no mean": lambda s, x: expected_logits("resnet20", s, x, centering="none"),
    "mean of the batch": lambda s, x: expected_logits("resnet20", s, x, centering="batch"),
    "signs of the latent weight": lambda s, x: expected_logits(
        "resnet20", s, x, signs=lambda n: s[f"{n}.weight"].sign()
    ),
    "bit 0 as +1": lambda s, x: expected_logits(
        "resnet20", s, x, signs=lambda n: -stored_signs(s, n)
    ),
    "positive scales": lambda s, x: expected_logits("resnet20", positive_scales(s), x),
    "one shortcut a block": lambda s, x: Reference(s, lambda n: stored_signs(s, n)).resnet20(
        x, prelu=True, per_conv=False
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_seen(mistake):
    state = siman_state("resnet20")
    x = images(32)
    with torch.no_grad():
        logits = load_model(checkpoint_of(state)).module(x)
    # A hundred times what equal networks are allowed.
    assert relative_error(logits, MISTAKES[mistake](state, x)) > 1e-3


def test_both_shapes_of_the_bits_are_read():
    state = siman_state("resnet20")
    nested = {k: v.unsqueeze(1) if k.endswith(".B") else v for k, v in state.items()}
    first, second = (load_model(checkpoint_of(s)).module for s in (state, nested))
    x = images(32)
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


def test_latent_weights_and_percentages_are_dead():
    state = siman_state("resnet20")
    binary = [k.removesuffix(".B") for k in state if k.endswith(".B")]
    stripped = dict(state)
    for name in binary:
        del stripped[f"{name}.weight"], stripped[f"{name}.percent"]
    layer = load_model(checkpoint_of(stripped)).module.get_submodule(BINARY)
    assert isinstance(layer, BinaryConv2d)
    assert torch.equal(layer.weight.flatten(1), 2 * state[f"{BINARY}.B"] - 1)


@pytest.mark.parametrize("arch", ["resnet18A", "resnet18_imagenet"])
def test_dense_layers_have_their_reasons(arch):
    reasons = load_model(checkpoint_of(siman_state(arch))).dense_reasons
    shortcuts = {k for k, v in reasons.items() if "shortcut" in v}
    expected = {f"layer{i}.0.downsample.0" for i in (2, 3, 4)} if "imagenet" in arch else set()
    assert shortcuts == expected
    assert reasons.keys() - shortcuts == {"conv1", "fc" if "imagenet" in arch else "linear"}


def test_architecture_names_of_upstream_are_understood():
    options = LoadOptions(family="siman", arch="resnet20_1w1a")
    assert load_model(checkpoint_of(siman_state("resnet20")), options).arch == "resnet20"


Damage = Callable[[dict[str, Tensor]], object]
DAMAGES: dict[str, Damage] = {
    "no bits": lambda s: s.pop(f"{BINARY}.B"),
    "no scale": lambda s: s.pop("layer1.1.conv1.alpha"),
    "no BatchNorm": lambda s: s.pop("bn2.running_mean"),
    "unknown tensor": lambda s: s.update({"nonlinear.weight": torch.ones(16)}),
    "shape of bits": lambda s: s.update({f"{BINARY}.B": torch.ones(16, 143)}),
    "transposed bits": lambda s: s.update({f"{BINARY}.B": torch.ones(144, 16)}),
    "shape of scale": lambda s: s.update({f"{BINARY}.alpha": torch.ones(16)}),
    "shape of head": lambda s: s.update({"linear.weight": torch.ones(7)}),
    "NaN scale": lambda s: s[f"{BINARY}.alpha"].view(-1)[3:].fill_(torch.nan),
    "infinite BatchNorm": lambda s: s["bn1.weight"][3:].fill_(torch.inf),
    "NaN bit": lambda s: s[f"{BINARY}.B"].view(-1)[5:6].fill_(torch.nan),
    "half a bit": lambda s: s[f"{BINARY}.B"].view(-1)[5:6].fill_(0.5),
    "signs for bits": lambda s: s[f"{BINARY}.B"].mul_(2).sub_(1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage):
    state = siman_state("resnet20")
    DAMAGES[damage](state)
    with pytest.raises(UnsupportedModel):
        load_model(checkpoint_of(state))


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(activations="float"),
        LoadOptions(weights="float"),
        LoadOptions(arch="resnet21"),
        LoadOptions(arch="resnet18"),
        LoadOptions(family="rbnn"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(UnsupportedModel):
        load_model(checkpoint_of(siman_state("resnet20")), options)


def test_other_files_are_not_taken_for_siman():
    state = siman_state("resnet18")
    family = next(f for f in FAMILIES if f.name == "siman")
    dense = {k: v for k, v in state.items() if not k.endswith((".B", ".alpha", ".percent"))}
    wider = {k: torch.cat([v, v]) if k.endswith("conv1.alpha") else v for k, v in state.items()}
    assert family.detect(checkpoint_of(dense)) is None
    assert family.detect(checkpoint_of(wider)) is None
    assert family.detect(checkpoint_of({"B": torch.ones(2), "alpha": torch.ones(2)})) is None


@pytest.mark.parametrize(
    ("arch", "size"), [("vgg_small", 40), ("resnet18A", 16), ("resnet18_imagenet", 256)]
)
def test_images_of_a_wrong_size_are_refused(arch, size):
    module = load_model(checkpoint_of(siman_state(arch))).module
    with torch.no_grad(), pytest.raises(UnsupportedModel, match="input size"):
        module(torch.zeros(1, 3, size, size))
