"""Sound files with the wrong tensors: keys, shapes, dtypes, values that no family would have."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from command_line import codebook_state, packed_state, wrn_state
from family_networks import MODULES
from torch import nn

from fuzz.bytewise import WORDS, number
from fuzz.targets import Input
from training.layouts import upstream_state

Seeds = dict[str, bytes]
State = dict[str, Any]

_DTYPES = (
    torch.float16, torch.float64, torch.bfloat16, torch.int8, torch.uint8, torch.int16,
    torch.int64, torch.bool, torch.complex64,
)  # fmt: skip
_MOST_ELEMENTS = 1 << 20


def seeds(folder: Path) -> Seeds:
    """States of a small network of every family, as pickles of plain tensors."""
    del folder
    torch.manual_seed(0)
    states: dict[str, State] = {"wide-resnet": wrn_state(), "packed": packed_state()}
    for name, (build, _) in MODULES.items():
        if name == "resnet":
            continue  # 45 MB: too large to write again and again
        family = "reactnet" if name.startswith("reactnet") else name
        states[name] = dict(upstream_state(family, build().eval()))
    states["kill-the-bits"] = codebook_state()
    return {name: pickle.dumps(state) for name, state in states.items()}


def mutate(given: Seeds, rng: random.Random) -> Input:
    """A state with a few things wrong, or one of random keys, in a sound container."""
    names = [name for name in given if len(given[name]) < 2_000_000] or list(given)
    name = rng.choice([*names, *names, *given])
    state: State = pickle.loads(given[name])
    if rng.random() < 0.1:
        other: State = pickle.loads(given[rng.choice(names)])
        state |= dict(rng.sample(sorted(other.items(), key=lambda item: item[0]), len(other) // 2))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        if state:
            key = rng.choice(list(state))
            rng.choice(_WAYS)(state, key, rng)
    return _saved(state, rng)


def _saved(state: State, rng: random.Random) -> Input:
    flat = all(isinstance(value, torch.Tensor) for value in state.values())
    if flat and rng.random() < 0.2:
        plain = {key: value.contiguous().clone() for key, value in state.items()}
        return Input(safetensors.torch.save(plain), ".safetensors")
    root: Any = state
    if rng.random() < 0.6:
        root = {rng.choice(("state_dict", "model")): state, "epoch": number(rng), **_claims(rng)}
    stream = io.BytesIO()
    torch.save(root, stream, _use_new_zipfile_serialization=rng.random() < 0.8)
    return Input(stream.getvalue(), ".pth")


def _claims(rng: random.Random) -> dict[str, Any]:
    """What a checkpoint of our training says about itself, wrongly."""
    if rng.random() < 0.6:
        return {}
    arches = ("wrn-8-1", "wrn-20-10", "wrn-1000004-1", "wrn-8-100000", "resnet18", "lenet5")
    said = {
        "bitexport_family": rng.choice((*MODULES, "wide-resnet", "kill-the-bits", *WORDS, 3)),
        "bitexport_arch": rng.choice((*arches, *WORDS, number(rng))),
        "bitexport_weights": rng.choice(("binary", "float", "auto", *WORDS)),
        "bitexport_activations": rng.choice(("binary", "float", "auto", *WORDS)),
        "bitexport_input": rng.choice(("3x32x32", "0x0x0", "3x999999x999999", "-1", *WORDS)),
        "bitexport_preprocessing": rng.choice(("{}", "[", "[" * 100_000, '{"a": 1e999}', *WORDS)),
    }
    return dict(rng.sample(sorted(said.items()), rng.randint(1, len(said))))


def _rename(state: State, key: str, rng: random.Random) -> None:
    new = rng.choice(
        (
            *WORDS, f"module.{key}", key.replace("0", "1"), key.replace("1", "999999"),
            f"{key}.weight", key.rpartition(".")[0], key.upper(), f"layer1.{key}",
            f"group{number(rng)}.block0.conv0",
        )
    )  # fmt: skip
    state[new] = state.pop(key)


def _drop(state: State, key: str, rng: random.Random) -> None:
    prefix = key[: rng.randrange(len(key) + 1)] if rng.random() < 0.3 else key
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _retype(state: State, key: str, rng: random.Random) -> None:
    if isinstance(state[key], torch.Tensor) and not state[key].is_complex():
        state[key] = state[key].to(rng.choice(_DTYPES))


def _reshape(state: State, key: str, rng: random.Random) -> None:
    value = state[key]
    if not isinstance(value, torch.Tensor):
        return
    way = rng.randrange(5)
    if way == 0:
        state[key] = value.flatten()
    elif way == 1:
        state[key] = value.unsqueeze(rng.randint(0, value.dim()))
    elif way == 2 and value.dim():
        axis = rng.randrange(value.dim())
        state[key] = value.narrow(axis, 0, rng.randint(0, value.shape[axis]))
    elif way == 3 and value.dim() > 1:
        state[key] = value.transpose(*rng.sample(range(value.dim()), 2))
    else:
        sizes = [rng.choice((0, 1, 2, 3, 16, 64, 300)) for _ in range(rng.randrange(6))]
        if torch.Size(sizes).numel() <= _MOST_ELEMENTS:
            state[key] = torch.zeros(sizes, dtype=value.dtype)


def _swap(state: State, key: str, rng: random.Random) -> None:
    other = rng.choice(list(state))
    state[key], state[other] = state[other], state[key]


def _poison(state: State, key: str, rng: random.Random) -> None:
    value = state[key]
    if isinstance(value, torch.Tensor) and value.numel():
        poisoned = value.clone(memory_format=torch.contiguous_format)
        bad = rng.choice((float("nan"), float("inf"), -1e38, 0.0, 1e-42, -1.0, 255.0))
        if not poisoned.is_floating_point():
            bad = float(rng.choice((0, 1, 100)))
        # By way of float64: float16 has an infinity for what is too large for it.
        special = torch.tensor(bad, dtype=torch.float64).to(value.dtype)
        poisoned.view(-1)[rng.randrange(value.numel())] = special
        state[key] = poisoned if rng.random() < 0.7 else special.expand_as(value).clone()


def _replace(state: State, key: str, rng: random.Random) -> None:
    state[key] = rng.choice(
        (None, number(rng), 0.5, True, rng.choice(WORDS), {}, {"weight": torch.ones(1)}, [1],
         torch.tensor(number(rng) % 2**31), torch.empty(0), nn.Parameter(torch.ones(2)))
    )  # fmt: skip


def _inner(state: State, key: str, rng: random.Random) -> None:
    """Within kill-the-bits' {layer: {centroids, assignments, ...}}."""
    if isinstance(state[key], dict) and state[key]:
        rng.choice(_WAYS[:-1])(state[key], rng.choice(list(state[key])), rng)


_WAYS: tuple[Callable[[State, str, random.Random], None], ...] = (
    _rename, _drop, _retype, _reshape, _swap, _poison, _replace, _inner,
)  # fmt: skip
