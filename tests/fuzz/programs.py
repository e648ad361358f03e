"""The programs that read the mutated files, and the table of targets."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime  # noqa: F401  (before a process is forked: mapping it is not the doing of an input)
import torch
import typer
from family_networks import export_family
from native_chains import Layer, layer_nodes, model_of_layers, serialized
from native_nodes import binary_node, feed_of
from single_node import model_of
from test_qonnx import Network

from bitexport.cli import main
from bitexport.cli.output import run
from bitexport.errors import RuntimeFailure
from bitexport.families import load
from bitexport.graph.passes.chain_signs import chain_signs
from bitexport.runtimes import runtime_named, session
from bitexport.runtimes.libraries import cpu_kernel
from bitexport.spec import ConvGeometry
from fuzz import checkpoint_files, key_sets, onnx_files
from fuzz.forked import fork_contained
from fuzz.targets import REFUSED_OR_DONE, Input, Target

_RECORDING = "recording.npz"
_FAILED_COMPARISON = 3
_reader = typer.Typer()


@_reader.command()
def read(file: Annotated[Path, typer.Argument()]) -> None:
    """What `bitexport onnx` does first: read a checkpoint, detect its family, build its model."""
    load(file)


def _command(*arguments: str | Path) -> None:
    sys.argv = ["bitexport", *map(str, arguments)]
    main()


def _read(path: Path) -> None:
    sys.argv = ["bitexport", str(path)]
    run(_reader)


def _export(path: Path) -> None:
    # As long as it takes to find out that a file is no good; a good one takes seconds.
    _command("onnx", path, "-o", "result.onnx", "--no-verify", "--input-size", "32")


def _inspect(path: Path) -> None:
    _command("inspect", path, "--json")


def _record() -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    np.savez(_RECORDING, input=images, logits=np.zeros((2, 10), np.float32))


def _verify(path: Path) -> None:
    _command("verify", path, "--inputs", _RECORDING)


def _import(path: Path) -> None:
    _command("onnx", path, "-o", "result.onnx")


def _prepare(path: Path) -> None:
    _command("trt", path, "-o", "result.engine", "--print-trtexec")


def _load_builder() -> None:
    """Its libraries are mapped once, and are not the doing of an input."""
    if not runtime_named("tensorrt-rtx").availability().ok:
        sys.stderr.write("note: no TensorRT-RTX, so that `trt` ends before it builds\n")


def _build(path: Path) -> None:
    _command("trt", path, "-o", "result.engine", "--backend", "tensorrt-rtx")


def _bench(path: Path) -> None:
    measure = ("--no-memory", "--duration", "0", "--json", "-")
    _command("bench", path, "--runtimes", "ort,ort-native", "--precisions", "fp32,int8", *measure)


def _evaluate(path: Path) -> None:
    _command("eval", path, "--dataset", "digits", "--limit", "10", "--runtime", "ort-native")


def _triton(path: Path) -> None:
    _command("triton", path, "-o", "repository")


def _pack(path: Path) -> None:
    _command("pack", path, "-o", "result.pth")


def _models(folder: Path) -> dict[str, bytes]:
    """Exported models with 1-bit weights, with 1-bit activations, with dense weights of 8 bits."""
    paths = [export_family(name, folder / f"{name}.onnx") for name in ("wide-resnet", "siman")]
    rounded = folder / "siman-int8.onnx"
    paths += [export_family("siman", rounded, dense_weights="int8")]
    return {path.stem: path.read_bytes() for path in paths}


def _qonnx(folder: Path) -> dict[str, bytes]:
    net = Network()
    x = net.bipolar("image")
    x = net.conv(x, net.bipolar(net.weight(8, 3, 3, 3), 0.5), pads=[1, 1, 1, 1])
    x = net.node("Relu", net.norm(x, 8))
    x = net.quant(x)
    x = net.conv(x, net.bipolar(net.weight(8, 8, 3, 3)), pads=[1, 1, 1, 1])
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return {"qonnx": net.save(folder / "qonnx.onnx", x).read_bytes()}


# ---- The op library -----------------------------------------------------------------------------

_NODES = (
    ("BinaryConv", 40, 24, (3, 3), ConvGeometry(pads=(1, 1, 1, 1)), (2, 40, 7, 6)),
    ("BinaryConvAdd", 32, 32, (3, 3), ConvGeometry(pads=(1, 1, 1, 1)), (1, 32, 5, 5)),
    ("BinaryConv", 64, 8, (1, 1), ConvGeometry(), (1, 64, 4, 4)),
    ("BinaryConv", 12, 12, (3, 3), ConvGeometry(group=12, pads=(1, 1, 1, 1)), (1, 12, 6, 6)),
    ("BinaryConvAddPRelu", 33, 8, (3, 2), ConvGeometry((2, 1), dilations=(2, 3)), (2, 33, 7, 6)),
    ("BinaryConvClip", 48, 12, (3, 3), ConvGeometry(group=4, pads=(2, 0, 1, 3)), (1, 48, 5, 6)),
)
# And behind them in number, convolutions that hand signs on.
_CHAIN = (Layer(33), Layer(40, (1, 1), ConvGeometry(), "BinaryConvClip"), Layer(8))
_CHAIN_SHAPE = (2, 12, 5, 6)
_KERNEL = "BITEXPORT_CPU_KERNEL"
_KERNELS = ("portable", "avx2", "avx512", "avx512-vpopcntdq", "amx", "neon")


def _op_nodes(folder: Path) -> dict[str, bytes]:
    del folder
    made = {}
    for i, (op, channels, outputs, kernel, geometry, _) in enumerate(_NODES):
        model = model_of(binary_node(op, channels, outputs, kernel, geometry), 4)
        made[f"{op}{i}"] = model.SerializeToString()
    chain = model_of_layers(layer_nodes(_CHAIN_SHAPE[1], list(_CHAIN)))
    chain_signs(chain)
    made[f"Chain{len(_NODES)}"] = serialized(chain)
    return made


def _mutated_node(given: dict[str, bytes], rng: random.Random) -> Input:
    """The suffix says which inputs to feed, those of a node by its index, and to which kernel."""
    name = rng.choice(list(given))
    # How much memory ONNX Runtime gives to other operators is not on trial.
    data = onnx_files.mutate({name: given[name]}, rng, hungry=False).data
    return Input(data, f".node{name[-1]}.{rng.choice(_kernels())}.onnx")


@functools.cache
def _kernels() -> tuple[str, ...]:
    """Names of the kernels that run on this CPU."""
    usable, chosen = [], os.environ.get(_KERNEL, "")
    for name in _KERNELS:
        os.environ[_KERNEL] = name
        with contextlib.suppress(RuntimeFailure):
            usable.append(cpu_kernel())
    os.environ[_KERNEL] = chosen
    return tuple(usable)


@functools.cache
def _feed(index: int) -> dict[str, np.ndarray]:
    if index == len(_NODES):
        return feed_of(layer_nodes(_CHAIN_SHAPE[1], list(_CHAIN))[0], _CHAIN_SHAPE)
    op, channels, outputs, kernel, geometry, shape = _NODES[index]
    return feed_of(binary_node(op, channels, outputs, kernel, geometry), shape)


def _run_op(path: Path) -> None:
    """A session with the op library: it runs, or ONNX Runtime says why not."""
    node, kernel = path.suffixes[-3:-1]
    feed = _feed(int(node[-1]))
    os.environ[_KERNEL] = kernel[1:]
    logging.disable(logging.ERROR)  # as every command does
    try:
        opened = session(path.read_bytes(), threads=1)
        names = [given.name for given in opened.get_inputs()]
        arrays = dict(zip(names, feed.values(), strict=False))
        opened.run(None, arrays)
        smaller = {name: array[:, :, :3, :2] for name, array in arrays.items()}
        opened.run(None, smaller)
    except Exception as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())[:1000]!a}\n")
        sys.exit(2)


def table(op_library: Path | None = None) -> tuple[Target, ...]:
    """All targets.

    Args:
        op_library: Instead of the installed one; a sanitized one needs its runtime preloaded.
    """
    if op_library is not None:
        os.environ["BITEXPORT_OP_LIBRARY"] = str(op_library)
    torch.set_num_threads(1)
    fork_contained()
    verified = REFUSED_OR_DONE | {_FAILED_COMPARISON}
    checkpoints = (checkpoint_files.seeds, checkpoint_files.mutate)
    keys = (key_sets.seeds, key_sets.mutate)
    return (
        Target("reader", *checkpoints, _read, share=490),
        Target("keys", *keys, _read, share=130),
        Target("export", *keys, _export, share=2, output=("result.onnx",)),
        Target("inspect", _models, onnx_files.mutate, _inspect, share=140),
        Target("verify", _models, onnx_files.mutate, _verify, 50, verified, prepare=_record),
        Target("import", _qonnx, onnx_files.mutate, _import, 40, verified, ("result.onnx",)),
        Target("prepare", _models, onnx_files.mutate, _prepare, share=20),
        Target("triton", _models, onnx_files.mutate, _triton, share=5, output=("repository",)),
        Target("eval", _models, onnx_files.mutate, _evaluate, share=5),
        Target("bench", _models, onnx_files.mutate, _bench, share=4),
        Target(
            "trt",
            _models,
            onnx_files.mutate,
            _build,
            share=4,
            output=("result.engine", "result.engine.json"),
            prepare=_load_builder,
        ),
        Target("pack", *keys, _pack, share=10, output=("result.pth",)),
        Target("ops", _op_nodes, _mutated_node, _run_op, share=100, limited=op_library is None),
    )
