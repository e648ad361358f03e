"""The gradients of the systems, against the formulas of their papers restated by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.layers import BinaryConv2d, SignConv2d, SignEstimator
from bitexport.models.rbnn import rotated_latent, standardized_filters
from training.estimators import BiReal, McDonnell, Rbnn, Relaxed, Siman, XnorNet, half_half_bits
from training.recipe import Stage
from training.systems import SYSTEMS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def weight_gradient(estimator: SignEstimator, rule: str = "filter-mean") -> tuple[Tensor, ...]:
    """A layer's latent weight, its gradient, and g = dL/d(scale * signs), by a dense twin."""
    layer = BinaryConv2d(3, 4, 3, padding=1, scale_rule=rule)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))
        if rule == "learned":
            layer.alpha.copy_(torch.randn_like(layer.alpha))
    layer.estimator = estimator
    x, probe = torch.randn(2, 3, 5, 5), torch.randn(2, 4, 5, 5)
    (layer(x) * probe).sum().backward()
    signs = estimator.weight_signs(layer.weight, layer.scale()).detach()
    binary = (layer.scale() * signs).detach().requires_grad_()
    (F.conv2d(x.sign(), binary, padding=1) * probe).sum().backward()
    assert layer.weight.grad is not None and binary.grad is not None
    return layer.weight.detach(), layer.weight.grad, binary.grad, layer.scale().detach()


def input_gradient(estimator: SignEstimator, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    estimator.activation_signs(x).sum().backward()
    assert x.grad is not None
    return x.grad


def test_mcdonnell_gradient_is_that_of_the_scaled_weight() -> None:
    layer = SignConv2d(3, 4, 3)
    layer.estimator = McDonnell()
    x, probe = torch.randn(2, 3, 5, 5), torch.randn(2, 4, 3, 3)
    (layer(x) * probe).sum().backward()
    binary = (math.sqrt(2 / 27) * layer.weight.sign()).detach().requires_grad_()
    (F.conv2d(x, binary) * probe).sum().backward()
    torch.testing.assert_close(layer.weight.grad, binary.grad)


def test_bireal_weight_gradient_is_magnitude_aware() -> None:
    w, gradient, g, _ = weight_gradient(BiReal())
    magnitude = w.abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, g * magnitude * (w.abs() < 1))
    assert (gradient == 0).any() and (gradient != 0).any()


def test_approx_sign_is_the_derivative_of_the_parabola() -> None:
    x = torch.linspace(-1.5, 1.5, 31)
    parabola = x.double().requires_grad_()
    y = torch.where(parabola < 0, 2 * parabola + parabola**2, 2 * parabola - parabola**2)
    y.sum().backward()
    assert parabola.grad is not None
    expected = torch.where(x.abs() < 1, parabola.grad.float(), torch.zeros(()))
    torch.testing.assert_close(input_gradient(BiReal(), x), expected)


def test_reactnet_shift_learns_through_approx_sign() -> None:
    layer = BinaryConv2d(2, 1, 1, shifted=True)
    layer.estimator = BiReal()
    assert layer.shift is not None
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -0.5]).reshape(1, 2, 1, 1))
        layer.shift.copy_(torch.tensor([0.25, -0.25]).reshape(1, 2, 1, 1))
    x = torch.tensor([0.25, 0.5]).reshape(1, 2, 1, 1)
    layer(x).sum().backward()
    # scale 0.75, signs +1 and -1, slopes 2 - 2 * |x + shift|.
    expected = torch.tensor([0.75 * (2 - 2 * 0.5), -0.75 * (2 - 2 * 0.25)])
    torch.testing.assert_close(layer.shift.grad.flatten(), expected)


def test_xnor_net_gradient_has_the_share_of_the_scale() -> None:
    w, gradient, g, _ = weight_gradient(XnorNet())
    alpha = w.abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, g * (1 / 27 + alpha * (w.abs() < 1)))
    x = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0])
    assert input_gradient(XnorNet(), x).tolist() == [0, 0, 1, 1, 1, 0]


def test_xnor_net_filter_of_zeros_has_no_infinite_gradient() -> None:
    layer = BinaryConv2d(2, 1, 1)
    layer.estimator = XnorNet()
    nn.init.zeros_(layer.weight)
    layer(torch.ones(1, 2, 1, 1)).sum().backward()
    assert layer.weight.grad is not None and torch.isfinite(layer.weight.grad).all()


def test_siman_bits_are_the_top_half_by_magnitude() -> None:
    w = torch.tensor([[0.1, -0.9, 0.5, -0.2], [-4.0, 3.0, 1.0, 2.0]])
    assert half_half_bits(w.abs()).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]


def test_siman_bits_have_the_smallest_angle_for_laplace_weights() -> None:
    """What half and half rests on: no other share of +1 has a smaller angle to the magnitudes."""
    magnitudes = torch.distributions.Laplace(0, 1).sample((100_000,)).abs().sort(descending=True)[0]
    counts = torch.arange(1, len(magnitudes) + 1)
    cosine = magnitudes.cumsum(0) / counts.sqrt()
    share = float(cosine.argmax() + 1) / len(magnitudes)
    # Maximal where the mean of the top equals twice its smallest member: at e^-1 + ... of Laplace
    # magnitudes, a flat maximum. Half and half is within 3 % of it.
    half = cosine[len(magnitudes) // 2]
    assert 0.2 < share < 0.5
    assert half > 0.96 * cosine.max()


def test_siman_gradient_passes_through_the_standardized_magnitude() -> None:
    w, gradient, g, scale = weight_gradient(Siman(), rule="learned")
    latent = w.clone().requires_grad_()
    centered = latent - latent.mean(dim=(1, 2, 3), keepdim=True)
    std = torch.sqrt(centered.var(dim=(1, 2, 3), keepdim=True) + 1e-5)
    ((centered / std).abs() * (scale * g)).sum().backward()
    torch.testing.assert_close(gradient, latent.grad)
    signs = Siman().weight_signs(w, scale)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert (signs.flatten(1).sum(dim=1).abs() <= 1).all()


def test_siman_activation_gradient_is_taken_on_the_standardized_sample() -> None:
    x = torch.randn(2, 3, 4, 4) * 5
    probe = torch.randn_like(x)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (Siman().activation_signs(a) * probe).sum().backward()
    standardized = b / torch.sqrt(b.var(dim=(1, 2, 3), keepdim=True) + 1e-5)
    slope = (2 - (2 * standardized).abs()).clamp(min=0).detach()
    (standardized * slope * probe).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("t", [0.01, 0.1, 1.0, 10.0])
def test_rbnn_slope_is_the_derivative_of_its_approximation(t: float) -> None:
    estimator = Rbnn(torch.randn(2, 4, 3, 3))
    estimator.t = t
    k = max(1 / t, 1)
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).requires_grad_()
    f = k * (-x.sign() * t**2 * x**2 / 2 + math.sqrt(2) * t * x)
    inside = torch.where(x.abs() < math.sqrt(2) / t, f, k * x.sign())
    inside.sum().backward()
    torch.testing.assert_close(estimator.slope(x), x.grad, rtol=1e-6, atol=1e-9)
    # Activations see the slope of t = 1 until the weights' t has grown to it.
    sample = torch.randn(2, 3, 4, 4)
    expected = Rbnn(torch.randn(2, 4, 3, 3))
    expected.t = max(t, 1.0)
    centered = sample - sample.mean(dim=(1, 2, 3), keepdim=True)
    a, b = centered.clone().requires_grad_(), centered.clone().requires_grad_()
    estimator.activation_signs(a).sum().backward()
    standardized = b / b.std(dim=(1, 2, 3), keepdim=True)
    (standardized * expected.slope(standardized)).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_rbnn_gradients_of_latent_and_angle() -> None:
    w = torch.randn(4, 4, 3, 3)
    estimator, probe = Rbnn(w), torch.randn(4, 4, 3, 3)
    latent = w.clone().requires_grad_()
    (estimator.weight_signs(latent, torch.ones(())) * probe).sum().backward()
    again, angle = w.clone().requires_grad_(), estimator.rotate.detach().clone().requires_grad_()
    standardized = standardized_filters(again)
    rows, columns = estimator.R1.shape[0], estimator.R2.shape[0]
    rotated = torch.einsum(
        "ia,nij,jb->nab",
        estimator.R1,
        standardized.detach().reshape(4, rows, columns),
        estimator.R2,
    ).reshape_as(w)
    blended = standardized + angle.sin().abs() * (rotated - standardized)
    slope = estimator.slope(blended)
    (blended * slope * probe).sum().backward()
    torch.testing.assert_close(latent.grad, again.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(estimator.rotate.grad, angle.grad, rtol=1e-4, atol=1e-5)


def test_rbnn_rotations_stay_orthogonal_and_approach_the_signs() -> None:
    w = torch.randn(16, 8, 3, 3)
    estimator = Rbnn(w)

    def alignment() -> float:
        full = torch.full((16, 1, 1, 1), math.pi / 2)
        v = rotated_latent(standardized_filters(w), estimator.R1, estimator.R2, full)
        return float(v.abs().sum())

    before = alignment()
    for _ in range(3):
        estimator.update_rotation(w)
        after = alignment()
        assert after > before
        before = after
    for rotation in (estimator.R1, estimator.R2):
        torch.testing.assert_close(
            rotation @ rotation.T, torch.eye(len(rotation)), atol=1e-5, rtol=0
        )


def test_relaxed_layer_is_the_real_one() -> None:
    layer = BinaryConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 5) * 2
    layer.estimator = Relaxed(BiReal(), weights=True, activations=True)
    expected = F.conv2d(x.clamp(-1, 1), layer.weight, padding=1)
    torch.testing.assert_close(layer(x), expected)
    layer.estimator = Relaxed(BiReal(), weights=True, activations=False)
    torch.testing.assert_close(layer(x), F.conv2d(x.sign(), layer.weight, padding=1))
    layer(x).sum().backward()
    real = layer.weight.detach().requires_grad_()
    F.conv2d(x.sign(), real, padding=1).sum().backward()
    torch.testing.assert_close(layer.weight.grad, real.grad)


@pytest.mark.parametrize("estimator", [BiReal(), XnorNet(), McDonnell()])
def test_values_are_signs_whatever_the_gradient(estimator: SignEstimator) -> None:
    layer = BinaryConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 5)
    plain = layer(x)
    layer.estimator = estimator
    assert torch.equal(layer(x), plain)


# --- around the step ---


def test_xnor_net_latents_are_centered_and_clamped() -> None:
    model = nn.Module()
    model.add_module("conv", BinaryConv2d(4, 2, 3))
    model.add_module("bin_ip1", nn.Sequential(BinaryConv2d(4, 2, 3)))
    model.add_module("bn", nn.BatchNorm2d(4))
    conv, linear, norm = (model.get_submodule(n) for n in ("conv", "bin_ip1.0", "bn"))
    with torch.no_grad():
        conv.weight.mul_(20).add_(1)  # type: ignore[operator, union-attr]
        linear.weight.add_(0.5)  # type: ignore[operator, union-attr]
        norm.weight.fill_(-1)  # type: ignore[operator, union-attr]
    before = linear.weight.detach().clone()  # type: ignore[operator, union-attr]
    SYSTEMS["xnor-net"]().after_step(model)
    assert isinstance(conv, nn.Conv2d) and isinstance(linear, nn.Conv2d)
    assert conv.weight.abs().max() <= 1 and (conv.weight.abs() == 1).any()
    # The linear layer is centered over its whole filter, not tap by tap.
    torch.testing.assert_close(
        linear.weight.detach(), (before - before.mean(dim=(1, 2, 3), keepdim=True))
    )
    assert isinstance(norm, nn.BatchNorm2d) and (norm.weight == 0.01).all()


def test_siman_clips_magnitudes_less_and_less() -> None:
    model = nn.Sequential(BinaryConv2d(8, 8, 3, scale_rule="learned"))
    system = SYSTEMS["siman"]()
    latent = model[0].weight
    with torch.no_grad():
        latent.copy_(torch.randn_like(latent))
    system.begin_epoch(model, Stage(epochs=10), 0)
    system.after_step(model)
    assert isinstance(latent, Tensor)
    share = (latent.abs() == latent.abs().max()).float().mean()
    assert share == pytest.approx(0.05, abs=0.005)
    with torch.no_grad():
        latent.copy_(torch.randn_like(latent))
    system.begin_epoch(model, Stage(epochs=10), 10)
    system.after_step(model)
    assert (latent.abs() == latent.abs().max()).sum() == 1
