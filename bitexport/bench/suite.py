"""The benchmark itself: which models run where, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitexport.bench.cases import (
    CALIBRATION_IMAGES,
    SEED,
    BenchOptions,
    Case,
    cases_of,
    feed,
    usable_runtimes,
)
from bitexport.bench.layers import PROFILED, layer_times
from bitexport.bench.machine import load_warning, machine, versions
from bitexport.bench.measure import Ratio, Timing, pinned, ratio_of, take_turns
from bitexport.bench.record import LayerTime, Report, Run, Skip
from bitexport.bench.roofline import Rates, measured_rates
from bitexport.bench.subjects import Subject, read_subject
from bitexport.bench.trial import accuracy, try_out
from bitexport.errors import InputError, RuntimeFailure
from bitexport.evaluation import Accuracy
from bitexport.graph.read import refusing_malformed
from bitexport.runtimes import ModelRefused, Runner, load
from bitexport.runtimes.footprint import Footprint, footprint

__all__ = ["BenchOptions", "bench"]

FloatArray = npt.NDArray[np.float32]
_NOTHING_RAN = "nothing was measured: nothing here runs the engine"
Show = Callable[[str, float], None]


def bench(
    paths: Sequence[Path], options: BenchOptions, show: Show = lambda _title, _share: None
) -> Report:
    """Measure models beside their full-precision twins.

    Args:
        paths: .onnx files, checkpoints and engines.
        options: See :class:`BenchOptions`.
        show: Called with what is being done and the share of the whole that is done.

    Raises:
        InputError: A file cannot be read, is refused by all runtimes, or does not take the given
            images; or no model takes a batch of the given sizes.
        UnsupportedModel: A checkpoint of no known model.
        RuntimeFailure: No runtime can run any of the models.
    """
    found = machine()
    skipped: list[Skip] = []
    runtimes = usable_runtimes(options, skipped)
    with pinned(options.threads) as processors:
        subjects = [read_subject(path, options.export) for path in paths]
        for index, (path, subject) in enumerate(zip(paths, subjects, strict=True)):
            if subject.engine is None:
                show(f"trying {subject.name}", 0.05 * index / len(subjects))
                try_out(path, subject, runtimes, options)
        _check_batches(subjects, options)
        cases: list[Case] = []
        for index, (path, subject) in enumerate(zip(paths, subjects, strict=True)):
            show(f"building the twins of {subject.name}", 0.05 + 0.05 * index / len(subjects))
            with refusing_malformed(path):
                cases += cases_of(subject, runtimes, options, skipped)
        refused: list[InputError] = []
        runs, layers = _measured(cases, options, skipped, refused, show)
        rates = measured_rates(options.threads) if options.layers and runs else None
        if rates is not None:
            layers += _profiled(cases, options, rates, show)
    if not runs and refused:
        raise refused[0]
    if not runs and all(subject.engine is None for subject in subjects):
        reasons = "; ".join(f"{s.runtime}: {s.reason}" for s in skipped)
        raise RuntimeFailure(
            "nothing could be measured",
            got=reasons or "no runtime",
            expected="a runtime that takes the model",
            fix=next((s.fix for s in skipped if s.fix), "See `bitexport doctor`."),
        )
    warnings = [load_warning(found, options.threads) if runs else _NOTHING_RAN]
    return Report(
        machine=found,
        versions=versions(),
        method=_method(options, processors, rates),
        runs=tuple(runs),
        layers=tuple(layers),
        sizes={subject.name: subject.sizes() for subject in subjects},
        skipped=tuple(skipped),
        warnings=tuple(warning for warning in warnings if warning is not None),
    )


def _check_batches(subjects: Sequence[Subject], options: BenchOptions) -> None:
    fixed = [subject.fixed_batch for subject in subjects]
    sizes = sorted({size for size in fixed if size is not None})
    if None in fixed or not set(sizes).isdisjoint(options.batches):
        return
    names = ", ".join(subject.name for subject in subjects)
    raise InputError(
        f"{names}: the batch is fixed in the file",
        got=f"--batch {','.join(map(str, options.batches))}",
        expected=" or ".join(map(str, sizes)),
        fix=f"Give --batch {','.join(map(str, sizes))}, or export with a batch of any size.",
    )


def _measured(
    cases: list[Case],
    options: BenchOptions,
    skipped: list[Skip],
    refused: list[InputError],
    show: Show,
) -> tuple[list[Run], list[LayerTime]]:
    runners: list[tuple[Case, Runner]] = []
    for case in cases:
        show(f"loading {case.title}", 0.1)
        try:
            runner = load(case.runtime, case.built or case.data, threads=options.threads)
            runner.run(feed(case.subject, case.batches[0], options))
        except RuntimeFailure as error:
            skipped.append(
                Skip(case.subject.name, case.runtime, case.precision, error.got, error.fix)
            )
            if isinstance(error, ModelRefused) and case.is_subject:
                refused.append(error.blaming(case.subject.name))
            continue
        runners.append((case, runner))
    footprints = _footprints([case for case, _ in runners], options, skipped, show)
    accuracies = [
        accuracy(case, runner, options, _showing(show, case.title)) for case, runner in runners
    ]
    rows = [
        (case, runner, cost, right)
        for (case, runner), cost, right in zip(runners, footprints, accuracies, strict=True)
    ]
    runs: list[Run] = []
    for index, batch in enumerate(options.batches):
        taking = [each for each in rows if each[0].takes(batch)]
        skipped += [_outside(case, batch) for case, *_ in rows if not case.takes(batch)]
        calls = [_call(runner, feed(case.subject, batch, options)) for case, runner, *_ in taking]
        if not calls:
            continue
        title = f"measuring {len(calls)} models in turns, batch {batch}"
        timings = take_turns(
            calls, options.duration, _within(show, title, index / len(options.batches), options)
        )
        timed = list(zip((case for case, *_ in taking), timings, strict=True))
        runs += [
            _with_accuracy(
                _run(case, timing, _ratio(case, timing, timed), batch, options, cost), right
            )
            for (case, timing), (_, _, cost, right) in zip(timed, taking, strict=True)
        ]
    return runs, []


def _outside(case: Case, batch: int) -> Skip:
    smallest, largest = case.batches
    reason = f"batch {batch} is outside of its {smallest} to {largest}"
    fix = "Build the engine with other --min-batch and --max-batch."
    if case.built is None:
        reason = f"batch {batch} is another than the {smallest} that the file has"
        fix = f"Give --batch {smallest}, or export the model with a batch of any size."
    return Skip(case.subject.name, case.runtime, case.precision, reason, fix)


def _showing(show: Show, title: str) -> Callable[[float], None]:
    return lambda _: show(f"accuracy of {title}", 0.4)


def _with_accuracy(run: Run, found: Accuracy | None) -> Run:
    if found is None:
        return run
    low, high = found.top1_interval
    return replace(run, accuracy=found.top1, accuracy_low=low, accuracy_high=high)


def _footprints(
    cases: list[Case], options: BenchOptions, skipped: list[Skip], show: Show
) -> list[Footprint | None]:
    """What each case costs a process; None, and a word, for one that fails there."""
    if not options.memory:
        return [None] * len(cases)
    found: list[Footprint | None] = []
    for index, case in enumerate(cases):
        show(f"memory of {case.title}", 0.1 + 0.3 * index / len(cases))
        try:
            found.append(_footprint(case, options))
        except RuntimeFailure as error:
            found.append(None)
            reason = f"only its memory and load time: {error.got}"
            skipped.append(Skip(case.subject.name, case.runtime, case.precision, reason, error.fix))
    return found


def _footprint(case: Case, options: BenchOptions) -> Footprint:
    subject = case.subject
    return footprint(
        case.runtime,
        case.built or case.data,
        subject.input_name,
        subject.input_shape,
        [batch for batch in options.batches if case.takes(batch)],
        options.threads,
    )


def _within(show: Show, title: str, done: float, options: BenchOptions) -> Callable[[float], None]:
    """Progress within one batch size; measuring is the last six tenths of the whole."""
    return lambda share: show(title, 0.4 + 0.6 * (done + share / len(options.batches)))


def _call(runner: Runner, feed: dict[str, FloatArray]) -> Callable[[], object]:
    return lambda: runner.run(feed)


def _ratio(case: Case, timing: Timing, timed: list[tuple[Case, Timing]]) -> Ratio | None:
    for other, baseline in timed:
        same = other.subject is case.subject and other.runtime == case.runtime
        if same and other.precision == "fp32" and other is not case:
            return ratio_of(baseline, timing)
    return None


def _run(
    case: Case,
    timing: Timing,
    ratio: Ratio | None,
    batch: int,
    options: BenchOptions,
    cost: Footprint | None,
) -> Run:
    runs = timing.runs
    low, median, high, p90, p95, p99 = (
        float(x) for x in np.percentile(runs, [25, 50, 75, 90, 95, 99])
    )
    run = Run(
        model=case.subject.name,
        runtime=case.runtime,
        precision=case.precision,
        subject=case.is_subject,
        batch=batch,
        threads=options.threads,
        median_ms=median,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=float(runs.mean()),
        min_ms=float(runs.min()),
        spread=(high - low) / median,
        samples=len(runs),
        throughput=1e3 * batch / median,
        bytes=len(case.data),
        load_seconds=None if cost is None else cost.load_seconds,
        peak_memory_bytes=None if cost is None else cost.peak_bytes.get(batch),
    )
    if ratio is None:
        return run
    return replace(
        run,
        speedup_vs_fp32=ratio.median if ratio.beyond_noise else None,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
    )


def _profiled(
    cases: list[Case], options: BenchOptions, rates: Rates, show: Show
) -> list[LayerTime]:
    layers: list[LayerTime] = []
    for case in cases:
        taken = [batch for batch in options.batches if case.takes(batch)]
        if case.runtime in PROFILED and taken:
            show(f"profiling {case.title}", 1.0)
            inputs = feed(case.subject, taken[0], options)
            layers += layer_times(
                case.subject.name,
                case.runtime,
                case.precision,
                case.data,
                inputs,
                options.threads,
                rates,
            )
    return layers


def _method(
    options: BenchOptions, processors: list[int] | None, rates: Rates | None
) -> dict[str, object]:
    return {
        "threads": options.threads,
        "pinned_to": processors,
        "seconds_each": options.duration,
        "inputs": _inputs(options),
        "int8_calibration_images": CALIBRATION_IMAGES
        if options.images is None
        else min(CALIBRATION_IMAGES, len(options.images)),
        "memory_bytes_per_second": None if rates is None else rates.bytes_per_second,
        "float_ops_per_second": None if rates is None else rates.flops,
        "bit_ops_per_second": None if rates is None else rates.bops,
    }


def _inputs(options: BenchOptions) -> str:
    if options.images is not None:
        return "given images"
    return (
        f"normal noise, seed {SEED}" if options.data is None else f"images of {options.data.name}"
    )
