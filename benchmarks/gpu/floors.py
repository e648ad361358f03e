"""The least time a layer can take: its bytes at the copy rate, its operations at the MMA rate.

A measured time near its floor has nothing left to win; a floor of ours near that of float16 says
that no kernel can be much faster than cuDNN's there, however good.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.networks import LayerShape

__all__ = ["Rates", "Traffic", "float16_traffic", "floor_us", "plugin_traffic"]

HALF_BYTES = 2
FLOAT_BYTES = 4
WORD_CHANNELS = 32


@dataclass(frozen=True)
class Rates:
    """What this GPU was measured to do: bytes and operations a second."""

    copy: float
    half: float
    tf32: float
    int8: float
    binary: float


@dataclass(frozen=True)
class Traffic:
    """Bytes that must be moved, and operations with the rate they are done at."""

    bytes: int
    operations: int
    rate: str


def plugin_traffic(layer: LayerShape, batch: int) -> Traffic:
    """Of our op: float16 activations, the weight as it lies in the file."""
    constants = 2 * FLOAT_BYTES * layer.out_channels
    if layer.is_binary:
        constants += FLOAT_BYTES * layer.in_channels
    rate = "binary" if layer.is_binary else "half"
    moved = _activations(layer, batch) + _packed_weight(layer) + constants
    return Traffic(moved, layer.operations(batch), rate)


def float16_traffic(layer: LayerShape, batch: int) -> Traffic:
    """Of the dense layer in float16."""
    moved = _activations(layer, batch) + HALF_BYTES * (layer.weights + layer.out_channels)
    return Traffic(moved, layer.operations(batch), "half")


def floor_us(traffic: Traffic, rates: Rates) -> float:
    """Microseconds: the longer of moving and computing, which overlap at best."""
    moving = traffic.bytes / rates.copy
    computing = traffic.operations / getattr(rates, traffic.rate)
    return 1e6 * max(moving, computing)


def _activations(layer: LayerShape, batch: int) -> int:
    inputs = batch * layer.in_channels * layer.size**2
    outputs = batch * layer.out_channels * layer.out_size**2
    return HALF_BYTES * (inputs + outputs * (2 if layer.has_residual else 1))


def _packed_weight(layer: LayerShape) -> int:
    if not layer.entries:
        words = -(-layer.in_channels // WORD_CHANNELS)
        return FLOAT_BYTES * layer.out_channels * layer.kernel**2 * words
    code_bytes = 1 if layer.op == "CodebookConv" else 2
    codes = layer.weights // layer.depth
    return code_bytes * codes + HALF_BYTES * layer.entries * layer.depth
