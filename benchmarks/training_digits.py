"""Accuracy, size and time of every system on scikit-learn's digits: the table in ``results``.

    python benchmarks/training_digits.py --out benchmarks/results/training-digits.json
    python benchmarks/training_digits.py --table benchmarks/results/training-digits.json

Each system is trained with its recipe's ``[digits]`` settings, on one thread, five seeds. Its twin
is the same network with real weights (and clipped activations where the system binarizes them),
trained as long. Every checkpoint is exported, and
the accuracy is that of the ONNX file in ONNX Runtime. A run appends to its file; what is there
already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import bitexport
from bitexport.exporter import float32_bytes
from bitexport.families import load
from training.datasets import DataOptions, ImageData, open_data
from training.evaluation import run_exported
from training.prediction import accuracy, predict
from training.product_quantization.plan import load_plan
from training.product_quantization.quantize import QuantizeOptions, quantize
from training.recipe import Recipe, load_recipe
from training.trainer import RunOptions, threads, train

# Row of the table -> recipe, and by how many points it may be below its twin.
SYSTEMS = {
    "1-bit WRN-14-1": ("wrn20-10-1bit", 0.5),
    "Bi-Real Net": ("birealnet18", 2.0),
    "ReActNet": ("reactnet18", 2.0),
    "XNOR-Net LeNet-5": ("xnor-lenet5", 2.0),
    "SiMaN ResNet-20": ("siman-resnet20", 2.0),
    "RBNN ResNet-20": ("rbnn-resnet20", 2.0),
}
PQ = {"PQ ResNet-18, small blocks": ("small", 0.5)}
# The goals are for the mean over so many seeds.
GOAL_SEEDS = 5
GOALS = {name: goal for name, (_, goal) in {**SYSTEMS, **PQ}.items()}


@dataclass(frozen=True)
class Context:
    """One seed: where its files are, and what runs share."""

    seed: int
    folder: Path
    options: RunOptions

    def data(self, recipe: Recipe) -> ImageData:
        """The digits as a recipe wants them."""
        return open_data(
            DataOptions("digits", Path(), False, recipe.input_shape, recipe.augmentation)
        )

    def train(self, recipe: Recipe, name: str, teacher: Path | None = None) -> tuple[Any, float]:
        """Train, and say how long it took."""
        run = replace(self.options, out=self.folder / name, teacher=teacher)
        outcome = train(recipe, self.data(recipe), run)
        return outcome, outcome.seconds


def twin_of(recipe: Recipe) -> Recipe:
    """The same network, real throughout, as a single stage like the last one."""
    last = [*recipe.stages.values()][-1]
    stage = replace(
        last,
        loss="cross-entropy",
        weights="real",
        activations="real",
    )
    return replace(recipe, stages={"real": stage})


def run_system(context: Context, name: str, teacher: Path | None) -> dict[str, Any]:
    """Train a system and its twin, export, and measure."""
    recipe = load_recipe(SYSTEMS[name][0], "digits")
    distils = any(stage.loss == "distillation" for stage in recipe.stages.values())
    outcome, seconds = context.train(recipe, name, teacher=teacher if distils else None)
    twin, twin_seconds = context.train(twin_of(recipe), f"{name} twin")
    return {
        **exported(context, outcome.checkpoint, context.data(recipe), outcome.model),
        "twin_accuracy": twin.test_accuracy,
        "seconds": seconds,
        "twin_seconds": twin_seconds,
    }


def run_pq(context: Context, name: str, teacher: Path, teacher_accuracy: float) -> dict[str, Any]:
    """Quantize a trained ResNet, export, and measure."""
    plan = load_plan(PQ[name][0], "resnet18", "digits")
    data = open_data(DataOptions("digits", Path(), False, plan.input_shape, plan.augmentation))
    options = QuantizeOptions(context.folder / name, "resnet18", context.seed)
    outcome = quantize(load(teacher).module, data, plan, options)
    return {
        **exported(context, outcome.checkpoint, data, outcome.model),
        "twin_accuracy": teacher_accuracy,
        "seconds": outcome.seconds,
        "empty_clusters": outcome.resolved,
    }


def exported(
    context: Context, checkpoint: Path, data: ImageData, model: torch.nn.Module
) -> dict[str, Any]:
    """Export a checkpoint without a flag; the file must predict what torch predicts."""
    onnx = context.folder / "model.onnx"
    report = bitexport.export(checkpoint, path=onnx)
    logits, labels = predict(model, data.test)
    got = run_exported(onnx, data)
    different = int((got.argmax(dim=1) != logits.argmax(dim=1)).sum())
    if different:
        raise SystemExit(f"{checkpoint}: {different} images have another class in ONNX Runtime")
    return {
        "accuracy": accuracy(got, labels),
        "onnx_bytes": report.bytes,
        "float32_bytes": float32_bytes(load(checkpoint).module),
    }


def run_row(
    name: str,
    seeds: int,
    results: dict[str, Any],
    out: Path,
    measure: Callable[[str, Context], dict[str, Any]],
) -> None:
    """The seeds of one row that are not there yet, each written when it is done."""
    runs = results["runs"].setdefault(name, {})
    for seed in range(seeds):
        if str(seed) in runs:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, threads(1):
            options = RunOptions(Path(folder), seed=seed, device="cpu", threads=1)
            runs[str(seed)] = measure(name, Context(seed, Path(folder), options))
        out.write_text(json.dumps(results, indent=1) + "\n")
        took = time.perf_counter() - started
        print(f"{name}, seed {seed}: {json.dumps(runs[str(seed)])} in {took:.0f} s", flush=True)


def run_one(name: str, context: Context) -> dict[str, Any]:
    """One row and seed; a ResNet-18 is trained first where one is taught by it or made from it."""
    if name not in PQ and name != "ReActNet":
        return run_system(context, name, None)
    trained, seconds = context.train(load_recipe("resnet18", "digits"), "teacher")
    if name in PQ:
        row = run_pq(context, name, trained.checkpoint, trained.test_accuracy)
    else:
        row = run_system(context, name, trained.checkpoint)
    return {**row, "teacher_seconds": seconds}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| network | float32 twin, % | exported, % | points | goal | float32 | file | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, goal in GOALS.items():
        rows = [*results["runs"].get(name, {}).values()]
        if not rows:
            continue
        gap = statistics.mean(100 * (r["twin_accuracy"] - r["accuracy"]) for r in rows)
        met = "met" if gap <= goal else "missed"
        met = met if len(rows) >= GOAL_SEEDS else f"open, {met} so far"
        cells = [
            f"{name} ({len(rows)} seeds)",
            spread([100 * r["twin_accuracy"] for r in rows]),
            spread([100 * r["accuracy"] for r in rows]),
            f"{0.0 - round(gap, 2):+.2f}",
            f"{goal} {met}",
            f"{rows[0]['float32_bytes'] / 1024:.0f} KiB",
            f"{statistics.mean(r['onnx_bytes'] for r in rows) / 1024:.0f} KiB",
            f"{statistics.mean(r['seconds'] for r in rows):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} +- {deviation:.2f}"


def command(
    description: str,
    out: str,
    names: Iterable[str],
    measure: Callable[[str, Context], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Run the rows of a table, or print it.

    Args:
        description: What the program does.
        out: Its file of results, by default.
        names: The rows.
        measure: One row and seed.
        table: The results as Markdown.
    """
    parser = argparse.ArgumentParser(description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seeds", type=int, default=GOAL_SEEDS)
    parser.add_argument("--systems", nargs="*", help="rows of the table; all by default")
    parser.add_argument("--table", type=Path, help="print the table of these results, and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text())))
        return
    results: dict[str, Any] = {"runs": {}}
    if arguments.out.exists():
        results = json.loads(arguments.out.read_text())
    results.setdefault(
        "machine", f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    )
    results["versions"] = {"torch": torch.__version__, "bitexport": bitexport.__version__}
    for name in arguments.systems or names:
        run_row(name, arguments.seeds, results, arguments.out, measure)
    print(table(results))


if __name__ == "__main__":
    command(__doc__, "training-digits.json", GOALS, run_one, table)
