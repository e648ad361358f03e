"""A fixed share of the random QONNX files, and proof that they notice what they look for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from fuzz.qonnx import Batch, Outcome, replay, run_batch
from fuzz.qonnx_graphs import random_graph

from bitexport.graph.passes import expand_quantizers, fold_batch_norm, fuse_quantizers

pytest.importorskip("qonnx", reason="QONNX's executor: pip install qonnx")
COUNT = 240
# A fifth, as QONNX's executor computes some of them otherwise on the oldest ONNX Runtime.
MOST_REFUSED = 0.2
NOTICED_AMONG = 40


def test_graphs_of_a_fixed_seed(tmp_path: Path) -> None:
    outcomes = run_batch(Batch(1, 0, COUNT, tmp_path))
    findings = [outcome.detail for outcome in outcomes if outcome.kind == "finding"]
    assert not findings and not list(tmp_path.iterdir())
    # What is refused or decided by rounding is not compared.
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert kinds["same"] >= (1 - MOST_REFUSED) * COUNT, kinds


def test_a_seed_gives_the_same_graphs() -> None:
    first, again = (random_graph("5/3").SerializeToString() for _ in range(2))
    assert first == again != random_graph("5/4").SerializeToString()


def without_narrow(function: Callable[..., Any]) -> Callable[..., Any]:
    def grid(node: Any) -> Any:
        node.attributes.pop("narrow", None)
        return function(node)

    return grid


def without_shift(function: Callable[..., Any]) -> Callable[..., Any]:
    def affine(node: Any) -> Any:
        scale, shift = function(node)
        return scale, 0 * shift

    return affine


def without_signs(function: Callable[..., Any]) -> Callable[..., Any]:
    def grid(node: Any) -> Any:
        found = function(node)
        return replace(found, rounding=found.rounding and replace(found.rounding, of_size=False))

    return grid


def without_bounds(function: Callable[..., Any]) -> Callable[..., Any]:
    def truncation(node: Any) -> Any:
        found = function(node)
        return replace(found, grid=replace(found.grid, low=-np.inf, high=np.inf))

    return truncation


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (expand_quantizers, "integer_grid", without_narrow(expand_quantizers.integer_grid)),
        (expand_quantizers, "integer_grid", without_signs(expand_quantizers.integer_grid)),
        (expand_quantizers, "truncation", without_bounds(expand_quantizers.truncation)),
        (fold_batch_norm, "_affine", without_shift(fold_batch_norm._affine)),
        (fuse_quantizers, "_bipolar_input", lambda value: (value.producer().inputs[0], 0.5)),
    ],
)
def test_it_notices_what_it_looks_for(
    tmp_path: Path, module: Any, name: str, broken: Callable[..., Any]
) -> None:
    with mock.patch.object(module, name, broken):
        outcomes = run_batch(Batch(2, 0, NOTICED_AMONG, tmp_path))
    kept = sorted(tmp_path.iterdir())
    assert kept and len(kept) == sum(outcome.kind == "finding" for outcome in outcomes)
    # Mended, the same file is none.
    assert replay(kept[0]) == Outcome("same")
    assert onnx.load(kept[0]).graph.node
