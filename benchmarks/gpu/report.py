"""The figures as JSON and as Markdown tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.mma_rates import table_rows

__all__ = ["geometric_mean", "markdown", "slug", "write"]

BASELINES = ("float16", "tf32", "int8")


def slug(name: str) -> str:
    """A GPU's name as part of a file name: "NVIDIA H200" -> "nvidia-h200"."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(words)


def geometric_mean(ratios: Iterable[float]) -> float:
    """Of positive numbers, at least one."""
    logs = [math.log(ratio) for ratio in ratios]
    if not logs:
        raise ValueError("no ratios")
    return math.exp(sum(logs) / len(logs))


def write(result: dict[str, Any], stem: Path) -> list[Path]:
    """Write ``stem``.json and ``stem``.md, each whole or not at all; their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in ((".json", json.dumps(result, indent=1)), (".md", markdown(result))):
        path = stem.with_name(stem.name + suffix)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text if text.endswith("\n") else text + "\n")
        partial.replace(path)
        written.append(path)
    return written


def markdown(result: dict[str, Any]) -> str:
    """Two tables: whole networks, and every layer."""
    rates = result["rates"]
    lines = [
        f"# TensorRT plugins on {result['gpu']['name']}",
        "",
        "Microseconds of a launch: the median over CUDA-graph replays that take turns. cuDNN and",
        "cuBLAS through torch: float16 and TF32 in channels-last order with bias, the residual",
        "added where ours adds one; int8 is the bare matrix product of the layer's size. Floors",
        "are the longer of moving the layer's bytes and computing its products at the measured",
        "rates. Buffers stay in the L2 cache where they fit.",
        "",
        *_table(
            ("copy", "float16 MMA", "TF32 MMA", "int8 MMA", "binary, best seen"),
            [
                (
                    f"{rates['copy'] / 1e12:.2f} TB/s",
                    *(f"{rates[k] / 1e12:.0f} Top/s" for k in ("half", "tf32", "int8", "binary")),
                )
            ],
        ),
        "",
        *_instructions(result.get("mma")),
        "## Networks",
        "",
        "The layers that are ops of ours, one after the other in one graph.",
        "",
        *_table(
            ("network", "batch", "ours", "floor", *BASELINES, "float16's floor", "against float16"),
            [
                (row["network"], row["batch"], *_figures(row), _ratio(row))
                for row in result["networks"]
            ],
        ),
        "",
        "## Layers",
        "",
    ]
    for network, batch in dict.fromkeys((r["network"], r["batch"]) for r in result["layers"]):
        rows = [r for r in result["layers"] if (r["network"], r["batch"]) == (network, batch)]
        mean = geometric_mean(r["float16"]["median"] / r["ours"]["median"] for r in rows)
        lines += [
            f"### {network}, batch {batch}: {mean:.2f}x float16 (geometric mean)",
            "",
            *_table(
                ("layer", "tactic", "ours", "floor", *BASELINES, "float16's floor", "speed-up"),
                [(r["layer"], r["tactic"], *_figures(r), _ratio(r)) for r in rows],
            ),
            "",
        ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join([*lines, f"{versions}.", ""])


def _instructions(mma: dict[str, Any] | None) -> list[str]:
    if mma is None:
        return []
    head = ("instruction", "Top/s", "MACs a clock and SM", "against float16", "right")
    return [
        "## Matrix instructions alone",
        "",
        "On operands that are already there. Against the faster float16 of mma.sync and wgmma.",
        "",
        *_table(head, table_rows(mma)),
        "",
    ]


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    medians = tuple(
        f"{row[baseline]['median']:.1f}" if row.get(baseline) else "-" for baseline in BASELINES
    )
    ours = f"{row['ours']['median']:.1f}"
    return ours, f"{row['floor_us']:.1f}", *medians, f"{row['float16_floor_us']:.1f}"


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['float16']['median'] / row['ours']['median']:.2f}x"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
