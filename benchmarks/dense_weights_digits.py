"""What ``--dense-weights int8`` costs in accuracy, and saves in bytes, on scikit-learn's digits.

    python benchmarks/dense_weights_digits.py --out benchmarks/results/dense-weights-digits.json
    python benchmarks/dense_weights_digits.py --table benchmarks/results/dense-weights-digits.json

The systems with 1-bit weights of ``training_digits.py``, trained as there. Each checkpoint is
exported with and without the option, and both files classify the same held-out images in ONNX
Runtime. A run appends to its file; what is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from training_digits import GOAL_SEEDS, SYSTEMS, Context, spread

import bitexport
from bitexport.export_options import ExportOptions
from training.evaluation import run_exported
from training.prediction import accuracy, predict
from training.recipe import load_recipe
from training.trainer import RunOptions, threads

OPTIONS = {"exact": ExportOptions(), "int8": ExportOptions(dense_weights="int8")}


def measure(name: str, context: Context) -> dict[str, Any]:
    """Train one system, export it both ways, and classify."""
    recipe = load_recipe(SYSTEMS[name][0], "digits")
    teacher = None
    if any(stage.loss == "distillation" for stage in recipe.stages.values()):
        trained, _ = context.train(load_recipe("resnet18", "digits"), "teacher")
        teacher = trained.checkpoint
    outcome, _ = context.train(recipe, name, teacher=teacher)
    data = context.data(recipe)
    _, labels = predict(outcome.model, data.test)
    row: dict[str, Any] = {}
    predicted = {}
    for kind, options in OPTIONS.items():
        path = context.folder / f"{kind}.onnx"
        report = bitexport.export(outcome.checkpoint, path=path, options=options)
        logits = run_exported(path, data)
        predicted[kind] = logits.argmax(dim=1)
        row[kind] = {"bytes": report.bytes, "accuracy": accuracy(logits, labels)}
    row["changed"] = int((predicted["exact"] != predicted["int8"]).sum())
    row["images"] = len(labels)
    return row


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| network | exact, % | 8 bits, % | other predictions | exact | 8 bits |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results["runs"].items():
        rows = [*runs.values()]
        cells = [
            f"{name} ({len(rows)} seeds)",
            *(spread([100 * r[kind]["accuracy"] for r in rows]) for kind in OPTIONS),
            f"{sum(r['changed'] for r in rows)} of {sum(r['images'] for r in rows)}",
            *(f"{statistics.mean(r[k]['bytes'] for r in rows) / 1024:.0f} KiB" for k in OPTIONS),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=Path("dense-weights-digits.json"))
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
    results["versions"] = {"torch": torch.__version__, "bitexport": bitexport.__version__}
    for seed in range(arguments.seeds):
        for name in arguments.systems or SYSTEMS:
            runs = results["runs"].setdefault(name, {})
            if str(seed) in runs:
                continue
            with tempfile.TemporaryDirectory() as folder, threads(1):
                options = RunOptions(Path(folder), seed=seed, device="cpu", threads=1)
                runs[str(seed)] = measure(name, Context(seed, Path(folder), options))
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{name}, seed {seed}: {runs[str(seed)]}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
