"""What a comparison counts as equal, and how it counts flipped bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bitexport
from bitexport.comparison import (
    Tolerance,
    compare_bits,
    compare_logits,
    compare_outputs,
    relative_l2,
)
from bitexport.comparison.figures import largest_difference
from bitexport.export_options import ExportOptions
from bitexport.graph.constants import set_input_constant
from bitexport.graph.read import read_onnx
from bitexport.layers import BinaryConv2d
from bitexport.runtimes import runtime_named

SEED = 20
BINARY = Tolerance.for_model(binary_activations=True, float16=False)
REAL = Tolerance.for_model(binary_activations=False, float16=False)


def logits() -> np.ndarray:
    """[8, 5], the classes of each sample far apart."""
    rng = np.random.default_rng(SEED)
    return rng.permuted(np.tile(np.arange(1, 6, dtype=np.float32), (8, 1)), axis=1)


@pytest.mark.parametrize(("moved", "ok"), [(2, True), (3, False)])
def test_flipped_bits_may_move_a_quarter_of_the_samples(moved: int, ok: bool) -> None:
    got = logits()
    got[-moved:] *= np.float32(1.01)
    compared = compare_logits(got, logits(), BINARY)
    assert compared.ok is ok and compared.top1_agreement == 1
    assert not compare_logits(got, logits(), REAL).ok


@pytest.mark.parametrize(("other", "ok"), [(2, True), (3, False)])
def test_the_least_share_of_classes(other: int, ok: bool) -> None:
    got = logits()
    got[:other] = np.roll(got[:other], 1, axis=1)
    compared = compare_logits(got, logits(), Tolerance(rel_l2=10, top1=0.75))
    assert compared.ok is ok and compared.top1_agreement == 1 - other / 8


def test_classes_below_zero_whose_logits_are_the_same_but_for_rounding() -> None:
    above = np.nextafter(np.float32(-1), np.float32(0))
    expected = np.array([[-1, above, -2]], np.float32)
    assert compare_logits(expected[:, [1, 0, 2]], expected, REAL).ok


def test_the_last_of_many_numbers_counts() -> None:
    expected = np.ones((1, (1 << 20) + 2), np.float32)
    got = expected.copy()
    got[0, -1] = 3
    assert largest_difference(got, expected) == 2
    assert relative_l2(got, expected) == pytest.approx(2 / np.sqrt(expected.size))


@pytest.mark.parametrize("block", [0, 1])
def test_a_number_that_is_none_is_never_within_a_tolerance(block: int) -> None:
    got = np.ones((1, (1 << 20) + 2), np.float32)
    got[0, -1 if block else 0] = np.nan
    expected = np.ones_like(got)
    assert np.isnan(largest_difference(got, expected)) and np.isnan(relative_l2(got, expected))


def test_numbers_that_are_too_small_or_of_the_wrong_sign_differ() -> None:
    x = np.arange(1, 5, dtype=np.float32)
    assert relative_l2(-x, x) == 2 and largest_difference(-x, x) == 8


def test_squares_beyond_float32_still_count() -> None:
    x = np.array([1e30, 2e30], np.float32)
    assert relative_l2(x * np.float32(1.25), x) == pytest.approx(0.25)


def test_nothing_but_zeros_is_only_equal_to_itself() -> None:
    zeros = np.zeros(3, np.float32)
    assert relative_l2(zeros, zeros) == 0 and relative_l2(zeros + 1, zeros) == np.inf


@pytest.mark.parametrize(("scale", "ok"), [(1.009, True), (1.011, False)])
def test_half_precision_may_move_logits_by_a_hundredth(scale: float, ok: bool) -> None:
    tolerance = Tolerance.for_model(binary_activations=False, float16=True)
    assert compare_logits(logits() * np.float32(scale), logits(), tolerance).ok is ok


@pytest.mark.parametrize(("other", "ok"), [(4, True), (5, False)])
def test_half_precision_of_bits_leaves_half_of_the_classes(other: int, ok: bool) -> None:
    tolerance = Tolerance.for_model(binary_activations=True, float16=True)
    got = logits() * np.float32(1.4)
    got[:other] = np.roll(got[:other], 1, axis=1)
    compared = compare_logits(got, logits(), tolerance)
    assert compared.ok is ok and compared.rel_l2 < tolerance.rel_l2


@pytest.mark.parametrize(("pixels", "ok"), [(1, True), (2, False)])
def test_a_pixel_of_a_hundred_may_have_another_strongest_channel(pixels: int, ok: bool) -> None:
    strong, weak = np.ones((1, 1, 10, 10)), np.full((1, 1, 10, 10), 0.99999)
    expected = np.hstack([strong, weak]).astype(np.float32)
    got = expected.copy()
    got[:, :, 0, :pixels] = got[:, ::-1, 0, :pixels]
    maps = {"a": expected, "b": expected}
    compared = compare_outputs(maps | {"b": got}, maps, REAL)
    assert compared.ok is ok and compared.rel_l2 < REAL.rel_l2


def test_flipped_bits_and_zeros_are_counted(tmp_path: Path) -> None:
    """Of a channel that differs in most bits those count that do not, as a fold may turn it."""
    torch.manual_seed(SEED)
    module = nn.Sequential(BinaryConv2d(3, 4, 3), nn.Flatten()).eval()
    path = tmp_path / "m.onnx"
    options = ExportOptions(zero_activations="plus-one")
    bitexport.export(module, torch.zeros(1, 3, 6, 6), path, options=options)
    model, _ = read_onnx(path)
    images = np.random.default_rng(SEED).standard_normal((5, 3, 6, 6), dtype=np.float32)
    images[:, 2, :2, 0] = 0
    runtime = runtime_named("ort")
    same = compare_bits(model, module, images, runtime)
    assert same is not None and (same.flip_rate, same.zeros) == (0, 10)
    (conv,) = (node for node in model.graph if node.op_type == "BinaryConv")
    threshold = np.array([0.5, 0, 0], np.float32).reshape(1, 3, 1, 1)
    set_input_constant(conv, 2, threshold, "Th")
    moved = compare_bits(model, module, images, runtime)
    between = int(((images[:, 0] >= 0) & (images[:, 0] < 0.5)).sum())
    assert moved is not None and moved.flip_rate == between / images.size > 0
    everywhere = np.array([0, np.inf, 0], np.float32).reshape(1, 3, 1, 1)
    set_input_constant(conv, 2, everywhere, "Th")
    above = int((images[:, 1] >= 0).sum())
    turned = compare_bits(model, module, images, runtime)
    few = min(above, images[:, 1].size - above)
    assert turned is not None and turned.flip_rate == few / images.size > 0
