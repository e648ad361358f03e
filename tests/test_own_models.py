"""Models that users write themselves: what is exported, what is refused, and in which words."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitexport
from bitexport.errors import ComparisonFailure, InputError, UnsupportedModel
from bitexport.layers import BinaryConv2d, SignConv2d
from bitexport.spec import BinaryConvSpec, CodebookLinearSpec, ConvGeometry, SignConvSpec

IMAGES = torch.zeros(1, 3, 8, 8)
FEATURES, CLASSES = 64, 10


def sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


class BinaryLinear(nn.Module):
    """1-bit weights on 1-bit activations, with vectors going in and out."""

    def __init__(self, centered: bool = False, zeros: bool = False) -> None:
        super().__init__()
        latent = torch.randn(CLASSES, FEATURES)
        if zeros:
            latent[::3, ::5] = 0
        self.latent, self.centered = nn.Parameter(latent), centered

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True) if self.centered else x
        return F.linear(sign(x), self.latent.sign())


class RealInputLinear(BinaryLinear):
    """The same on real activations."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.latent.sign())


class Mistaken(nn.Module):
    """A layer with one thing in its spec that is not so."""

    def __init__(self, **wrong: object) -> None:
        super().__init__()
        self.latent, self.wrong = nn.Parameter(torch.randn(4, 3, 1, 1)), wrong

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(sign(x), self.latent.sign())


def of_one_pixel(layer: BinaryLinear) -> SignConvSpec:
    signs = layer.latent.detach().sign().numpy().astype(np.int8)[:, :, None, None]
    return SignConvSpec(signs, np.ones(CLASSES, np.float32), np.zeros(CLASSES, np.float32))


def binary_of_one_pixel(layer: BinaryLinear) -> BinaryConvSpec:
    spec, threshold = of_one_pixel(layer), np.zeros(FEATURES, np.float32)
    return BinaryConvSpec(
        spec.signs, spec.scale, spec.bias, threshold=threshold, centered=layer.centered
    )


def mistaken(layer: Mistaken) -> BinaryConvSpec:
    right = BinaryConvSpec(
        layer.latent.detach().sign().numpy().astype(np.int8),
        np.ones(4, np.float32),
        np.zeros(4, np.float32),
        threshold=np.zeros(3, np.float32),
    )
    return replace(right, **layer.wrong)


bitexport.register_layer(BinaryLinear, binary_of_one_pixel)
bitexport.register_layer(RealInputLinear, of_one_pixel)
bitexport.register_layer(Mistaken, mistaken)


@pytest.mark.parametrize("behind", ["nothing", "BatchNorm1d"])
@pytest.mark.parametrize(
    ("make", "op"),
    [
        (BinaryLinear, "BinaryConv"),
        (lambda: BinaryLinear(centered=True), "BinaryConv"),
        (lambda: BinaryLinear(zeros=True), "BinaryConv"),
        (RealInputLinear, "SignConv"),
    ],
    ids=["binary", "centered", "zero weights", "real activations"],
)
def test_a_linear_layer_is_a_convolution_of_one_pixel(make, op, behind, tmp_path):
    torch.manual_seed(3)
    head = [make(), *([nn.BatchNorm1d(CLASSES)] if behind != "nothing" else [])]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.Flatten(), *head).eval()
    path = tmp_path / "m.onnx"
    report = bitexport.export(model, IMAGES, path)
    assert report.verify is not None and report.verify.ok
    assert [layer.op for layer in report.layers if not layer.dense] == [op]
    images = torch.randn(5, 3, 8, 8)
    for session in (bitexport.session(path), onnxruntime.InferenceSession(path)):
        (logits,) = session.run(None, {"input": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-4, atol=1e-4)


def test_a_convolution_that_gets_vectors_is_refused_in_our_words(tmp_path):
    model = nn.Sequential(nn.Flatten(), SignConv2d(192, 4, 3, padding=1)).eval()
    with pytest.raises(UnsupportedModel, match=r"got \['N', 192\], expected \[N, 192, H, W\]\)"):
        bitexport.export(model, IMAGES, tmp_path / "m.onnx")


def test_a_convolution_of_one_pixel_that_torch_gives_no_vectors_is_refused(tmp_path):
    model = nn.Sequential(nn.Flatten(), SignConv2d(192, 4, 1)).eval()
    with pytest.raises(UnsupportedModel, match="torch cannot run the model"):
        bitexport.export(model, IMAGES, tmp_path / "m.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("training", [True, False])
def test_an_export_leaves_every_layer_in_its_mode(training, tmp_path):
    model = nn.Sequential(SignConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train(training)
    model[1].eval()
    bitexport.export(model, IMAGES, tmp_path / "m.onnx")
    assert [layer.training for layer in model.modules()] == [training, training, False, training]


def test_a_failed_export_does_too(tmp_path):
    model = nn.Sequential(nn.Flatten(), SignConv2d(3, 4, 3)).train()
    with pytest.raises(UnsupportedModel):
        bitexport.export(model, IMAGES, tmp_path / "m.onnx")
    assert all(layer.training for layer in model.modules())


class Unspecified(SignConv2d):
    """A layer whose adapter gives a table instead of a spec."""


bitexport.register_layer(Unspecified, lambda layer: {"signs": layer.weight.sign()})


def test_an_adapter_that_returns_no_spec_is_named(tmp_path):
    with pytest.raises(UnsupportedModel, match="Unspecified returns no spec"):
        bitexport.export(nn.Sequential(Unspecified(3, 4, 3)), IMAGES, tmp_path / "m.onnx")


class Returning(nn.Module):
    """Gives back its convolution's result in some container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = SignConv2d(3, 4, 3), kind

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        return {"tuple": (y, y + 1), "list": [y], "dict": {"logits": y}}[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_other_returns_than_a_tensor_are_refused(kind, tmp_path):
    with pytest.raises(UnsupportedModel, match="forward returns the logits alone"):
        bitexport.export(Returning(kind).eval(), IMAGES, tmp_path / "m.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "example", [np.zeros((1, 3, 8, 8), np.float32), torch.zeros(3, 8, 8), "images", [1, 2]]
)
def test_an_example_that_is_no_batch_of_images(example, tmp_path):
    with pytest.raises(InputError, match=r"expected a torch.Tensor \[N, C, H, W\]"):
        bitexport.export(SignConv2d(3, 4, 3), example, tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("scale", torch.ones(4), "layer '0': scale is no numpy array"),
        ("scale", nn.Parameter(torch.ones(4)), "layer '0': scale is no numpy array"),
        ("bias", 0.0, "layer '0': bias is no numpy array"),
        ("scale", np.ones(4), r"layer '0': scale has a wrong type \(got float64"),
        ("threshold", np.zeros(3), r"layer '0': threshold has a wrong type \(got float64"),
        ("signs", torch.ones(4, 3, 1, 1), "layer '0': signs is no numpy array"),
        ("signs", np.ones((4, 3, 1, 1), np.bool_), "layer '0': sign weights are truth values"),
    ],
)
def test_a_spec_of_other_things_than_arrays(field, value, words, tmp_path):
    with pytest.raises(UnsupportedModel, match=words):
        bitexport.export(nn.Sequential(Mistaken(**{field: value})), IMAGES, tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("field", "value"),
    [("codes", [[0, 1], [1, 0]]), ("codes", torch.zeros(2, 2)), ("codebook", torch.zeros(2, 3))],
)
def test_a_codebook_of_other_things_than_arrays(field, value):
    ones = np.ones(2, np.float32)
    codes, codebook = np.array([[0, 1], [1, 0]], np.uint16), np.zeros((2, 3), np.float16)
    right = CodebookLinearSpec(codes, codebook, (2, 6), ones, ones)
    with pytest.raises(UnsupportedModel, match=f"{field} is no numpy array"):
        replace(right, **{field: value})


@pytest.mark.parametrize(
    "wrong", [{"pads": (1, 1)}, {"pads": 1}, {"strides": 2}, {"dilations": [1, 1]}]
)
def test_a_geometry_of_other_lengths(wrong):
    with pytest.raises(UnsupportedModel, match=f"{next(iter(wrong))} of a convolution are wrong"):
        ConvGeometry(**wrong)


def test_a_spec_that_says_something_else_is_not_blamed_on_the_exporter(tmp_path):
    model = nn.Sequential(Mistaken(scale=np.full(4, 2, np.float32)))
    with pytest.raises(ComparisonFailure, match="Check that the spec of the layer") as caught:
        bitexport.export(model, IMAGES, tmp_path / "m.onnx")
    assert "report this" not in str(caught.value)


def test_what_is_registered_is_a_class_and_a_function() -> None:
    """A layer would be registered without a word, and its layers exported as dense ones."""
    for wrong in ((RealInputLinear(), of_one_pixel), (int, of_one_pixel), (nn.Bilinear, {})):
        with pytest.raises(InputError, match=r"Call bitexport\.register_layer\(MyLayer, to_spec"):
            bitexport.register_layer(*wrong)


class Inside(nn.Module):
    """A network with another one inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("wrap", "advice"),
    [
        (torch.compile, r"Give model\._orig_mod\."),
        (nn.DataParallel, r"Give model\.module\."),
    ],
)
def test_what_training_wraps_a_model_in_is_named(wrap, advice, tmp_path) -> None:
    model = nn.Sequential(SignConv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(InputError, match=advice):
        bitexport.export(wrap(model), IMAGES, tmp_path / "m.onnx")


def test_compiled_parts_run_as_they_are(tmp_path) -> None:
    """Watched layers recorded numbers out of compiled code, where torch asserts."""
    torch.manual_seed(0)
    in_place = nn.Sequential(BinaryConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    in_place.compile()
    outer = torch.compile(nn.Sequential(BinaryConv2d(4, 4, 3), nn.Flatten()).eval())
    report = bitexport.export(nn.Sequential(in_place, outer), IMAGES, tmp_path / "m.onnx")
    assert [layer.op for layer in report.layers] == ["BinaryConv", "BinaryConv"]
    assert report.verify.ok


def test_scripted_models_are_named(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch deprecate it
        scripted = torch.jit.trace(nn.Conv2d(3, 4, 3), IMAGES)
    with pytest.raises(InputError, match="Give the module that it was made from"):
        bitexport.export(Inside(scripted), IMAGES, tmp_path / "m.onnx")
