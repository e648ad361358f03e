"""Random networks leave the exporter as they came: the passes do not change a bit of the logits."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from random_networks import IMAGE, RandomNetwork, images

import bitexport
from bitexport import ExportOptions
from bitexport.comparison import relative_l2
from bitexport.runtimes import runtime_named

BATCHES = (1, 3)
# What float32 rounds away where a network's sums outgrow its 24 bits.
CLOSE = 1e-5
FLOAT16 = 2e-2


def sessions(path):
    yield onnxruntime.InferenceSession(path)
    if runtime_named("ort-native").availability().ok:
        yield bitexport.session(path)


def check(network: RandomNetwork, path, *, limit: float = CLOSE, bits: bool = True) -> None:
    """Logits in every session and batch size against torch's."""
    wide = RandomNetwork(network.seed, binary_activations=network.binary_activations).double()
    for session in sessions(path):
        for samples in BATCHES:
            x = images(network.seed, samples)
            with torch.no_grad():
                want, in_float64 = network(x), wide(x.double())
            (got,) = session.run(None, {"input": x.numpy()})
            if bits and torch.equal(want.double(), in_float64):
                np.testing.assert_array_equal(got, want.numpy())
            assert relative_l2(got, want.numpy()) <= limit


def export(network: RandomNetwork, path, **options: bool) -> None:
    exact = ExportOptions(zero_activations="exact", **options)
    bitexport.export(network, torch.zeros(1, *IMAGE), path, options=exact)


@pytest.mark.parametrize("seed", range(6))
def test_not_a_bit_changes(seed, tmp_path):
    network = RandomNetwork(seed)
    export(network, tmp_path / "m.onnx")
    check(network, tmp_path / "m.onnx")


@pytest.mark.parametrize("seed", range(100, 102))
def test_not_a_bit_changes_in_plain_files(seed, tmp_path):
    network = RandomNetwork(seed)
    export(network, tmp_path / "m.onnx", plain=True)
    check(network, tmp_path / "m.onnx")


@pytest.mark.parametrize("seed", range(200, 202))
def test_float16_is_close(seed, tmp_path):
    # A rounding to 11 bits flips signs, so without binary activations.
    network = RandomNetwork(seed, binary_activations=False)
    export(network, tmp_path / "m.onnx", float16=True)
    check(network, tmp_path / "m.onnx", limit=FLOAT16, bits=False)


def test_most_of_the_networks_are_exact():
    """Or else the tests above would compare within a tolerance only."""
    exact = 0
    for seed in range(6):
        x = images(seed, 3)
        with torch.no_grad():
            exact += torch.equal(
                RandomNetwork(seed)(x).double(), RandomNetwork(seed).double()(x.double())
            )
    assert exact >= 4
