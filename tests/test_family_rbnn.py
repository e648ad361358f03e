"""RBNN checkpoints: the network they stand for, and the ones we refuse."""

from __future__ import annotations

import functools
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
from bitexport.layers import BinaryConv2d, SignConv2d

DEPTHS = {"resnet18_imagenet": (2, 2, 2, 2), "resnet34_imagenet": (3, 4, 6, 3)}
RESNET20 = ("resnet20", "resnet20_bireal")
ARCHITECTURES = (*RESNET20, *RESNET18_WIDTHS, "vgg_small", *DEPTHS)
BINARY = "layer1.0.conv1"
# K = Ci * kh * kw -> (a, b): a is the largest divisor of K up to its square root.
FACTORS = {
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
    144: (12, 12),
    256: (16, 16),
    288: (16, 18),
    576: (24, 24),
    1152: (32, 36),
    2304: (48, 48),
    4608: (64, 72),
}


def rbnn_fields(generator: torch.Generator, name: str, weight: Tensor) -> dict[str, Tensor]:
    rows, columns = FACTORS[weight[0].numel()]
    rotations = [
        torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in (rows, columns)
    ]
    angle = torch.rand(len(weight), 1, 1, 1, generator=generator) * 6 - 3
    return {f"{name}.R1": rotations[0], f"{name}.R2": rotations[1], f"{name}.rotate": angle}


def rbnn_state(arch: str) -> dict[str, Tensor]:
    """A state that the test may change."""
    return {k: v.clone() for k, v in made_state(arch).items()}


@functools.lru_cache(maxsize=2)
def made_state(arch: str) -> dict[str, Tensor]:
    maker = StateMaker(rbnn_fields)
    if arch in RESNET20:
        maker.resnet20(prelu=False)
    elif arch == "vgg_small":
        maker.vgg_small(prelu=False)
    elif arch in DEPTHS:
        maker.imagenet(DEPTHS[arch], prelu=False)
        maker.batch_norm("bn3", 7)
    else:
        maker.resnet18(arch)
    return maker.state


def rotated_signs(
    state: dict[str, Tensor],
    name: str,
    *,
    rotate: bool = True,
    blend: bool = True,
    transpose: bool = False,
    unbiased: bool = True,
) -> Tensor:
    weight = state[f"{name}.weight"]
    deviation = weight - weight.mean((1, 2, 3), keepdim=True)
    standard = deviation / deviation.std((1, 2, 3), keepdim=True, unbiased=unbiased)
    left, right = state[f"{name}.R1"], state[f"{name}.R2"]
    if transpose:
        left, right = left.t(), right.t()
    matrices = standard.reshape(len(weight), len(left), len(right))
    turned = (left.t() @ matrices @ right).reshape(weight.shape)
    share = state[f"{name}.rotate"].sin().abs() if blend else 1.0
    return (standard + share * (turned - standard)).sign() if rotate else standard.sign()


def expected_logits(arch: str, state: dict[str, Tensor], x: Tensor, **change: Any) -> Tensor:
    reference = Reference(state, **({"signs": lambda n: rotated_signs(state, n)} | change))
    if arch in RESNET20:
        return reference.resnet20(x, prelu=False, per_conv=arch != "resnet20")
    if arch == "vgg_small":
        return reference.vgg_small(x, prelu=False)
    if arch in DEPTHS:
        return reference.imagenet(x, DEPTHS[arch], prelu=False)
    return reference.resnet18(x, arch)


@pytest.mark.parametrize(
    ("arch", "activations"),
    [(arch, "binary") for arch in ARCHITECTURES]
    + [(arch, "float") for arch in (*RESNET20, "resnet18A", "vgg_small", "resnet18_imagenet")],
)
def test_equals_the_formulas(arch, activations):
    state = rbnn_state(arch)
    model = load_model(
        checkpoint_of(state, model=f"{arch}_1w1a"), LoadOptions(activations=activations)
    )
    imagenet = arch in DEPTHS
    x = images(193 if imagenet else 32)
    with torch.no_grad():
        logits = model.module(x)
    assert (model.family, model.arch) == ("rbnn", arch)
    assert model.input_shape == ((3, 224, 224) if imagenet else (3, 32, 32))
    assert model.binary_activations == (activations == "binary")
    assert not model.notes
    expected = expected_logits(arch, state, x, real=activations == "float")
    assert relative_error(logits, expected) <= 1e-5


STATED = {"bitexport_arch": "resnet20", "bitexport_activations": "float"}


@pytest.mark.parametrize("stated", [STATED, {"bitexport_family": "rbnn"} | STATED])
@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(family="rbnn"),
        LoadOptions(arch="resnet20"),
        LoadOptions(arch="resnet20_1w1a"),
        LoadOptions(weights="binary"),
        LoadOptions(family="rbnn", arch="resnet20_1w1a", weights="binary"),
    ],
)
def test_another_option_leaves_what_the_file_states(options, stated):
    model = load_model(checkpoint_of(made_state("resnet20"), **stated), options)
    assert (model.arch, model.binary_activations, model.notes) == ("resnet20", False, ())


def test_a_stated_network_of_another_family_is_refused():
    checkpoint = checkpoint_of(made_state("resnet20"), bitexport_arch="wrn-8-1")
    with pytest.raises(UnsupportedModel, match=r"got wrn-8-1.*resnet20.*--arch"):
        load_model(checkpoint, LoadOptions(family="rbnn"))
    model = load_model(checkpoint, LoadOptions(family="rbnn", arch="resnet20"))
    assert model.arch == "resnet20"


def test_the_precision_stated_holds_for_a_corrected_network():
    checkpoint = checkpoint_of(made_state("resnet20"), bitexport_family="rbnn", **STATED)
    model = load_model(checkpoint, LoadOptions(arch="resnet20_bireal"))
    assert (model.arch, model.binary_activations, model.notes) == ("resnet20_bireal", False, ())
    assert load_model(checkpoint, LoadOptions(activations="binary")).binary_activations


def signs_changed_by(**mistake: bool) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda s, x: expected_logits(
        "resnet20", s, x, signs=lambda n: rotated_signs(s, n, **mistake)
    )


MISTAKES: dict[str, Callable[[dict[str, Tensor], Tensor], Tensor]] = {
    "no mean": lambda s, x: expected_logits("resnet20", s, x, centering="none"),
    "mean of the batch": lambda s, x: expected_logits("resnet20", s, x, centering="batch"),
    "no rotation": signs_changed_by(rotate=False),
    "transposed rotation": signs_changed_by(transpose=True),
    "no blend": signs_changed_by(blend=False),
    "real activations": lambda s, x: expected_logits("resnet20", s, x, real=True),
    "shortcut around each convolution": lambda s, x: expected_logits("resnet20_bireal", s, x),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_seen(mistake):
    state = rbnn_state("resnet20")
    x = images(32)
    with torch.no_grad():
        logits = load_model(checkpoint_of(state, model="resnet20_1w1a")).module(x)
    # A hundred times what equal networks are allowed.
    assert relative_error(logits, MISTAKES[mistake](state, x)) > 1e-3


def test_signs_are_those_of_one_filter_after_another():
    state = rbnn_state("resnet20")
    module = load_model(checkpoint_of(state)).module
    names = [k.removesuffix(".R1") for k in state if k.endswith(".R1")]
    differing = 0
    for name in names:
        left, right = state[f"{name}.R1"], state[f"{name}.R2"]
        signs = module.get_parameter(f"{name}.weight")
        for filter_, angle, got in zip(
            state[f"{name}.weight"], state[f"{name}.rotate"], signs, strict=True
        ):
            flat = (filter_ - filter_.mean()) / filter_.std()
            turned = torch.linalg.multi_dot([left.T, flat.reshape(len(left), -1), right])
            blended = flat.flatten().lerp(turned.flatten(), angle.sin().abs().reshape(()))
            differing += int((blended.sign() != got.flatten()).sum())
    assert len(names) == 18
    # Another order of summation may turn a weight next to 0.
    assert differing <= 2


def test_a_filter_of_equal_weights_has_no_signs():
    state = rbnn_state("resnet20")
    state[f"{BINARY}.weight"][2] = 0.25
    layer = load_model(checkpoint_of(state)).module.get_submodule(BINARY)
    assert isinstance(layer, BinaryConv2d)
    assert not layer.weight[2].any()
    assert layer.weight[3].all()


@pytest.mark.parametrize("arch", ["resnet20_bireal", "vgg_small"])
def test_blocks_of_every_kind_reach_onnx_runtime(arch, tmp_path):
    state, source = rbnn_state(arch), tmp_path / "checkpoint.pth.tar"
    keys = {f"module.{k}": v for k, v in state.items()}
    torch.save({"state_dict": keys, "model": f"{arch}_1w1a"}, source)
    report = bitexport.export(source, path=tmp_path / "net.onnx")
    assert (report.family, report.arch) == ("rbnn", arch)
    x = images(32, 5)
    logits = onnxruntime.InferenceSession(report.output).run(None, {"input": x.numpy()})[0]
    pairs = zip(torch.from_numpy(logits), expected_logits(arch, state, x), strict=True)
    # A sign that rounding decides may move one image.
    assert sum(relative_error(a, b) > 1e-3 for a, b in pairs) <= 1


def test_real_activations_reach_onnx_runtime(tmp_path):
    state = rbnn_state("resnet20")
    source = tmp_path / "net.pth.tar"
    torch.save({"state_dict": state, "model": "resnet20_1w1a"}, source)
    load_options = LoadOptions(activations="float")
    report = bitexport.export(
        source, path=tmp_path / "net.onnx", options=bitexport.ExportOptions(load=load_options)
    )
    x = images(32)
    logits = onnxruntime.InferenceSession(report.output).run(None, {"input": x.numpy()})[0]
    expected = expected_logits("resnet20", state, x, real=True)
    assert relative_error(torch.from_numpy(logits), expected) <= 1e-4
    assert sum(layer.op == "SignConv" for layer in report.layers) == 18


@pytest.mark.parametrize(
    ("saved", "options", "arch", "notes"),
    [
        ({"model": "resnet20_1w1a"}, {}, "resnet20", ("activations",)),
        ({"model": "resnet20_bireal_1w1a"}, {}, "resnet20_bireal", ("activations",)),
        ({}, {}, "resnet20_bireal", ("--arch resnet20 ", "activations")),
        ({"model": "mine"}, {}, "resnet20_bireal", ("--arch resnet20 ", "activations")),
        ({}, {"arch": "resnet20"}, "resnet20", ("activations",)),
        ({"model": "resnet20_1w1a"}, {"arch": "resnet20_bireal_1w1a"}, "resnet20_bireal", ("a",)),
        ({}, {"arch": "resnet20", "activations": "float"}, "resnet20", ()),
    ],
    ids=str,
)
def test_what_the_file_leaves_open_is_noted(saved, options, arch, notes):
    model = load_model(checkpoint_of(rbnn_state("resnet20"), **saved), LoadOptions(**options))
    assert model.arch == arch
    assert len(model.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, model.notes, strict=True))


def test_dense_layers_have_their_reasons():
    state = rbnn_state("resnet18_imagenet")
    for activations in ("binary", "float"):
        model = load_model(checkpoint_of(state), LoadOptions(activations=activations))
        shortcuts = {f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)}
        assert model.dense_reasons.keys() == {"conv1", "fc"} | shortcuts
        layers = [m for m in model.module.modules() if isinstance(m, SignConv2d)]
        assert len(layers) == 16


Damage = Callable[[dict[str, Tensor]], object]
DAMAGES: dict[str, Damage] = {
    "no rotation": lambda s: s.pop(f"{BINARY}.R2"),
    "no angle": lambda s: s.pop(f"{BINARY}.rotate"),
    "no weight": lambda s: s.pop(f"{BINARY}.weight"),
    "no scale": lambda s: s.pop("layer1.1.conv1.alpha"),
    "no BatchNorm": lambda s: s.pop("bn2.running_mean"),
    "unknown tensor": lambda s: s.update({"bn3.weight": torch.ones(7)}),
    "shape of rotation": lambda s: s.update({f"{BINARY}.R1": torch.ones(9, 16)}),
    "shape of weight": lambda s: s.update({f"{BINARY}.weight": torch.ones(16, 144)}),
    "shape of angle": lambda s: s.update({f"{BINARY}.rotate": torch.ones(16)}),
    "shape of scale": lambda s: s.update({f"{BINARY}.alpha": torch.ones(16)}),
    "shape of head": lambda s: s.update({"linear.weight": torch.ones(7)}),
    "NaN weight": lambda s: s[f"{BINARY}.weight"].view(-1)[9:10].fill_(torch.nan),
    "NaN angle": lambda s: s[f"{BINARY}.rotate"].view(-1)[3:].fill_(torch.nan),
    "infinite rotation": lambda s: s[f"{BINARY}.R1"][3].fill_(torch.inf),
    "NaN scale": lambda s: s[f"{BINARY}.alpha"].view(-1)[3:].fill_(torch.nan),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage):
    state = rbnn_state("resnet20")
    DAMAGES[damage](state)
    with pytest.raises(UnsupportedModel):
        load_model(checkpoint_of(state))


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(weights="float"),
        LoadOptions(arch="resnet56"),
        LoadOptions(arch="resnet18"),
        LoadOptions(family="siman"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(UnsupportedModel):
        load_model(checkpoint_of(rbnn_state("resnet20")), options)


def test_other_files_are_not_taken_for_rbnn():
    state = rbnn_state("resnet18A")
    family = next(f for f in FAMILIES if f.name == "rbnn")
    own = (".R1", ".R2", ".rotate", ".alpha")
    assert family.detect(checkpoint_of(state)) == "resnet18A"
    assert family.detect(checkpoint_of({k: v for k, v in state.items() if own[3] in k})) is None
    dense = {k: v for k, v in state.items() if not k.endswith(own)}
    assert family.detect(checkpoint_of(dense)) is None
    assert family.detect(checkpoint_of({"R1": torch.ones(2), "alpha": torch.ones(2)})) is None
