"""The same figures in the same words, in a terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Sequence

from bitexport.bench.record import ENGINE_PART, LayerTime, Report, Run

__all__ = [
    "accuracy",
    "columns",
    "compression",
    "headline",
    "layer_summaries",
    "machine_lines",
    "row",
    "size",
    "skip_lines",
    "slowest",
    "speedup",
]

_UNITS = ("B", "KiB", "MiB", "GiB")
_SLOWEST = 5
_COLUMNS: tuple[str, ...] = (
    "model",
    "runtime",
    "precision",
    "batch",
    "median",
    "p90",
    "p99",
    "spread",
    "images/s",
    "vs fp32",
    "size",
    "memory",
    "load",
)


def size(count: int | None) -> str:
    """Bytes for people: ``1.62 MiB``."""
    if count is None:
        return ""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"


def compression(count: int, float32: int) -> str:
    """A size beside that of the float32 weights, for people: ``27.6x smaller than float32``."""
    if not float32:
        return "no weights found; a QONNX file goes through `bitexport onnx` first"
    beside = f"float32 ({size(float32)})"
    ratio = float32 / count
    if ratio >= 1.05:
        return f"{ratio:.1f}x smaller than {beside}"
    return f"{count / float32:.1f}x as large as {beside}"


def speedup(run: Run) -> str:
    """``3.10x``, or that the difference is no larger than the noise."""
    if run.speedup_vs_fp32 is not None:
        return f"{run.speedup_vs_fp32:.2f}x"
    return "within noise" if run.within_noise else ""


def accuracy(run: Run) -> str:
    """``98.6 % (96.8 to 99.4)``, with its 95 % interval."""
    if run.accuracy is None or run.accuracy_low is None or run.accuracy_high is None:
        return ""
    low, high = 100 * run.accuracy_low, 100 * run.accuracy_high
    return f"{100 * run.accuracy:.1f} % ({low:.1f} to {high:.1f})"


def columns(report: Report) -> tuple[str, ...]:
    """Headings of the table; the accuracy only where it was measured."""
    known = any(run.accuracy is not None for run in report.runs)
    return (*_COLUMNS, "top-1") if known else _COLUMNS


def row(report: Report, run: Run) -> tuple[str, ...]:
    """One line of the table, under ``columns``."""
    cells = (
        run.model,
        run.runtime,
        run.precision,
        str(run.batch),
        f"{run.median_ms:.3f} ms",
        f"{run.p90_ms:.3f}",
        f"{run.p99_ms:.3f}",
        f"{run.spread:.0%}",
        f"{run.throughput:,.0f}",
        speedup(run),
        size(run.bytes),
        size(run.peak_memory_bytes),
        "" if run.load_seconds is None else f"{1e3 * run.load_seconds:.0f} ms",
    )
    return (*cells, accuracy(run)) if len(columns(report)) > len(_COLUMNS) else cells


def headline(report: Report) -> list[str]:
    """One sentence for each given model: its best runtime against the float32 twin there."""
    lines = []
    for model, sizes in report.sizes.items():
        own = [run for run in report.runs if run.model == model and run.subject]
        if not own:
            lines.append(f"{model}: {size(sum(sizes.values()))}, not measured")
            continue
        best = min(own, key=lambda run: (run.batch, run.median_ms))
        line = f"{model}: {best.median_ms:.3f} ms in {best.runtime} at batch {best.batch}"
        if best.speedup_vs_fp32 is not None:
            line += (
                f", {best.speedup_vs_fp32:.2f}x float32's speed there "
                f"(80 % of turns {best.speedup_low:.2f} to {best.speedup_high:.2f})"
            )
        elif best.within_noise:
            line += ", no speed-up or slow-down beyond the noise"
        dense = [r for r in report.runs if r.model == model and r.precision == "fp32"]
        # An engine also holds kernels: no size to hold against that of an .onnx file.
        if dense and not dense[0].subject and ENGINE_PART not in sizes:
            line += f"; {dense[0].bytes / best.bytes:.1f}x smaller"
        lines.append(line)
    return lines


def slowest(layers: Sequence[LayerTime], count: int = _SLOWEST) -> list[LayerTime]:
    """The nodes that take longest."""
    return sorted(layers, key=lambda layer: -layer.ms)[:count]


def layer_summaries(report: Report) -> list[tuple[str, list[LayerTime]]]:
    """Title of each profiled model -> its nodes in the order of execution."""
    groups: dict[tuple[str, str, str], list[LayerTime]] = {}
    for layer in report.layers:
        groups.setdefault((layer.model, layer.precision, layer.runtime), []).append(layer)
    return [
        (f"{model}, {precision} in {runtime}, batch {layers[0].batch}", layers)
        for (model, precision, runtime), layers in groups.items()
    ]


def machine_lines(report: Report) -> list[str]:
    """Machine, versions and method."""
    found, method = report.machine, report.method
    flags = f" ({', '.join(found['instructions'])})" if found["instructions"] else ""
    pinned = method["pinned_to"]
    where = f"pinned to processor {', '.join(map(str, pinned))}" if pinned else "not pinned"
    lines = [
        f"{found['processor']}{flags}, {found['cores']} cores, {size(found['memory_bytes'])}, "
        f"{found['system']}, load {found['load_average']} before",
        ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        f"threads: {method['threads']}, {where}; {method['seconds_each']} s each in turns; "
        f"{method['inputs']}; int8 calibrated on {method['int8_calibration_images']} images",
    ]
    if found["gpu"]:
        lines.append(str(found["gpu"]))
    return lines


def skip_lines(report: Report) -> list[str]:
    """What was not measured, and the command that mends it."""
    lines: dict[str, None] = {}
    for skip in report.skipped:
        what = " ".join(part for part in (skip.runtime, skip.precision) if part)
        fix = f" {skip.fix}" if skip.fix else ""
        lines[f"not measured: {what} ({skip.reason}).{fix}"] = None
    return list(lines)
