"""What `make gpu-bench` measures, on a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import dense
from benchmarks.gpu.floors import Rates, float16_traffic, floor_us, plugin_traffic
from benchmarks.gpu.networks import NETWORKS, LayerShape
from benchmarks.gpu.plugin_layer import LayerFailure, PluginLayer, PluginLibrary
from benchmarks.gpu.timing import capture, in_turns, synchronize

__all__ = ["measure"]

# Float16 products of a whole layer; an error of a kernel would be of the size of Y itself.
MOST_RELATIVE_ERROR = 5e-3
RATE_SIZE = 8192
COPY_BYTES = 1 << 30
# The widest binary layer: enough work for any GPU.
BINARY_RATE_LAYER = LayerShape("rate", "BinaryConv", 4096, 4096, 64)


class Runner:
    """A layer of ours with buffers, at its fastest tactic."""

    def __init__(self, library: PluginLibrary, shape: LayerShape, batch: int) -> None:
        node = shape.node()
        self.shape, self.node = shape, node
        self.layer = PluginLayer(
            library,
            node,
            shape.input_shape(batch),
            torch.float16,
            nhwc8=not shape.is_linear,
            device=str(torch.get_default_device()),
        )
        self.x = torch.randn(shape.input_shape(batch), dtype=torch.float16)
        self.activations = {"X": self.layer.to_memory(self.x)}
        y = torch.zeros(shape.output_shape(batch), dtype=torch.float16)
        self.r = torch.randn_like(y) if shape.has_residual else None
        if self.r is not None:
            self.activations["R"] = self.layer.to_memory(self.r)
        self.y = self.layer.to_memory(y)
        self.tactic = self._fastest()

    def launch(self, stream: int) -> None:
        """Enqueue once."""
        self.layer.enqueue(self.tactic, self.activations, self.y, stream)

    def _fastest(self) -> int:
        graphs = {}
        for tactic in self.layer.tactics():
            self.check(tactic)
            self.tactic = tactic
            graphs[str(tactic)] = capture(self.launch)
        times = in_turns(graphs, 5)
        return int(min(times, key=lambda tactic: times[tactic].median))

    def check(self, tactic: int) -> None:
        """Refuse to time a kernel that is wrong, on the first image of the batch."""
        self.layer.enqueue(tactic, self.activations, self.y)
        synchronize()
        got = self.layer.from_memory(self.y, self.shape.out_channels)[:1].double()
        r = self.r[:1] if self.r is not None else None
        wanted = dense.reference(self.node, self.x[:1], r)
        error = float((got - wanted).norm() / wanted.norm())
        if not error <= MOST_RELATIVE_ERROR:
            raise LayerFailure(f"{self.shape}, tactic {tactic}: relative error {error:.2g}")


def measure(path: Path, device: Any, arguments: argparse.Namespace) -> dict[str, Any]:  # noqa: ANN401
    """All figures of the report, of the library at ``path``."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    library = PluginLibrary(path)
    rates = _rates(library)
    result: dict[str, Any] = {
        "gpu": asdict(device),
        "versions": {
            "torch": torch.__version__,
            "CUDA": torch.version.cuda,
            "cuDNN": str(torch.backends.cudnn.version()),
            "driver": device.driver,
        },
        "rates": asdict(rates),
        "layers": [],
        "networks": [],
    }
    for name in arguments.networks:
        for batch in arguments.batches:
            print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
            layers, network = _measure_network(library, name, batch, rates, arguments.replays)
            result["layers"] += layers
            result["networks"].append(network)
    return result


def _measure_network(
    library: PluginLibrary, name: str, batch: int, rates: Rates, replays: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    # Layers of one shape are timed once.
    kinds: dict[LayerShape, list[LayerShape]] = {}
    for layer in NETWORKS[name]:
        kinds.setdefault(replace(layer, name=""), []).append(layer)
    rows, chain = [], {}
    with ExitStack() as stack:
        for kind, alike in kinds.items():
            runner = Runner(library, kind, batch)
            stack.enter_context(runner.layer)
            launches = _launches(runner, batch)
            chain[kind] = launches
            times = in_turns({key: capture(launch) for key, launch in launches.items()}, replays)
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "layer": alike[0].name,
                    "count": len(alike),
                    "shape": asdict(alike[0]),
                    "tactic": runner.tactic,
                    **{key: times[key].as_dict() for key in times},
                    "floor_us": floor_us(plugin_traffic(kind, batch), rates),
                    "float16_floor_us": floor_us(float16_traffic(kind, batch), rates),
                }
            )
        whole = [chain[replace(layer, name="")] for layer in NETWORKS[name]]
        keys = [key for key in ("ours", "float16", "tf32", "int8") if all(key in w for w in whole)]
        graphs = {key: capture(_in_sequence([w[key] for w in whole])) for key in keys}
        times = in_turns(graphs, replays)
    network = {
        "network": name,
        "batch": batch,
        **{key: times[key].as_dict() for key in times},
        "floor_us": sum(row["floor_us"] * row["count"] for row in rows),
        "float16_floor_us": sum(row["float16_floor_us"] * row["count"] for row in rows),
    }
    return rows, network


def _launches(runner: Runner, batch: int) -> dict[str, Callable[[int], None]]:
    launches: dict[str, Callable[[int], None]] = {
        "ours": runner.launch,
        "float16": dense.float16_launch(runner.shape, batch),
        "tf32": dense.tf32_launch(runner.shape, batch),
    }
    int8 = dense.int8_launch(runner.shape, batch)
    return launches if int8 is None else {**launches, "int8": int8}


def _in_sequence(launches: list[Callable[[int], None]]) -> Callable[[int], None]:
    def launch(stream: int) -> None:
        for each in launches:
            each(stream)

    return launch


def _rates(library: PluginLibrary) -> Rates:
    source = torch.empty(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    operations = 2 * RATE_SIZE**3

    def matrices(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (RATE_SIZE, RATE_SIZE)
        if dtype == torch.int8:
            whole = torch.randint(-8, 8, (2, *shape), dtype=dtype)
        else:
            whole = torch.randn((2, *shape), dtype=dtype)
        return whole[0], whole[1].t()

    def product(dtype: torch.dtype) -> Callable[[int], object]:
        a, b = matrices(dtype)
        return (lambda _: torch._int_mm(a, b)) if dtype == torch.int8 else (lambda _: a @ b)

    launches: dict[str, Callable[[int], object]] = {
        "copy": lambda _: target.copy_(source),
        "half": product(torch.float16),
        "tf32": product(torch.float32),
        "int8": product(torch.int8),
    }
    seconds = {}
    for key, launch in launches.items():
        seconds[key] = in_turns({key: capture(launch)}, 10)[key].least / 1e6
    runner = Runner(library, BINARY_RATE_LAYER, 1)
    with runner.layer:
        binary = in_turns({"binary": capture(runner.launch)}, 10)["binary"].least / 1e6
    int8 = operations / seconds["int8"]
    return Rates(
        copy=2 * COPY_BYTES / seconds["copy"],
        half=operations / seconds["half"],
        tf32=operations / seconds["tf32"],
        int8=int8,
        binary=max(int8, BINARY_RATE_LAYER.operations(1) / binary),
    )
