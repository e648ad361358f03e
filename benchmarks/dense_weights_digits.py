"""What ``--dense-weights int8`` costs in accuracy, and saves in bytes, on scikit-learn's digits.

    python benchmarks/dense_weights_digits.py --out benchmarks/results/dense-weights-digits.json
    python benchmarks/dense_weights_digits.py --table benchmarks/results/dense-weights-digits.json

The systems with 1-bit weights of ``training_digits.py``, trained as there. Each checkpoint is
exported with and without the option, and both files classify the same held-out images in ONNX
Runtime. A run appends to its file; what is there already is not repeated.
"""

from __future__ import annotations

import statistics
from typing import Any

from training_digits import SYSTEMS, Context, command, spread

import bitexport
from bitexport.export_options import ExportOptions
from training.evaluation import run_exported
from training.prediction import accuracy, predict
from training.recipe import load_recipe

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


if __name__ == "__main__":
    command(__doc__, "dense-weights-digits.json", SYSTEMS, measure, table)
