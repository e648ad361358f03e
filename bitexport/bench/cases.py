"""What is run where: every model and its twins, in every runtime."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from bitexport.bench.record import Skip
from bitexport.bench.subjects import Subject
from bitexport.bench.twins import PRECISIONS, twins_of
from bitexport.errors import InputError, RuntimeFailure
from bitexport.evaluation import DataOptions, LabelledImages, open_images, usual_batch
from bitexport.export_options import ExportOptions
from bitexport.graph.chains import as_given
from bitexport.runtimes import RUNTIMES, BuiltEngine, runtime_named

__all__ = [
    "CALIBRATION_IMAGES",
    "SEED",
    "BenchOptions",
    "Case",
    "calibration",
    "cases_of",
    "feed",
    "labelled",
    "usable_runtimes",
]

FloatArray = npt.NDArray[np.float32]
# The reference evaluator is an oracle, not a runtime that anyone ships on.
_NOT_BY_DEFAULT = ("reference",)
# On a CPU, ONNX Runtime casts float16 to float32 around every operator: a time that says nothing.
# The CUDA provider computes a QDQ graph in float32.
_PRECISIONS = {
    "ort": ("fp32", "int8"),
    "ort-native": ("fp32", "int8"),
    "reference": ("fp32",),
    "ort-cuda": ("fp32", "fp16"),
}
_ELSEWHERE = ("fp32", "fp16")
_WITHOUT = "has no kernels of its own for it"
CALIBRATION_IMAGES = 16
SEED = 0


@dataclass(frozen=True)
class BenchOptions:
    """Everything that steers a benchmark; the fields are the options of ``bitexport bench``.

    Attributes:
        runtimes: Names; None takes all that work here, and lists the others with the reason.
        precisions: Full-precision twins to build.
        batches: Batch sizes.
        threads: Threads inside an operator.
        duration: Seconds of measuring for each model, runtime and precision.
        layers: Profile the nodes of each model in ONNX Runtime too.
        memory: Measure load time and peak memory in processes of their own.
        images: float32 [N, C, H, W] to run on and to calibrate int8 with; None takes standard
            normal noise of a fixed seed.
        data: Images with labels: the accuracy is measured on them, and without ``images`` some of
            them are run on and calibrate int8.
        export: How a checkpoint is exported.
    """

    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = PRECISIONS
    batches: tuple[int, ...] = (1,)
    threads: int = 1
    duration: float = 2.0
    layers: bool = False
    memory: bool = True
    images: FloatArray | None = None
    data: DataOptions | None = None
    export: ExportOptions = field(default_factory=lambda: ExportOptions(verify=False))


@dataclass(frozen=True)
class Case:
    """One model in one runtime.

    Attributes:
        subject: The given model.
        runtime: Name of the runtime.
        precision: Of the given model, or of its twin.
        data: Serialized ModelProto, or engine, that is run.
        is_subject: The given model itself, rather than a twin.
        same_function: It computes what the given model computes, up to rounding.
    """

    subject: Subject
    runtime: str
    precision: str
    data: bytes
    is_subject: bool
    same_function: bool

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch that it takes."""
        engine = self.subject.engine if self.is_subject else None
        if engine is not None:
            return engine.batches
        fixed = self.subject.fixed_batch
        return (1, sys.maxsize) if fixed is None else (fixed, fixed)

    def takes(self, batch: int) -> bool:
        """Whether it runs on so many images at once."""
        smallest, largest = self.batches
        return smallest <= batch <= largest

    @property
    def built(self) -> BuiltEngine | None:
        """The engine that is run, where the given model is one."""
        engine = self.subject.engine if self.is_subject else None
        return None if engine is None else engine.engine

    @property
    def title(self) -> str:
        """For progress."""
        return f"{self.subject.name} {self.precision} in {self.runtime}"


def usable_runtimes(options: BenchOptions, skipped: list[Skip]) -> list[str]:
    """Names of the runtimes that work here; a named one that does not is an error."""
    if options.runtimes is not None:
        for name in options.runtimes:
            runtime_named(name).availability().require()
        return list(options.runtimes)
    names = []
    for runtime in RUNTIMES:
        state = runtime.availability()
        if not state.ok:
            skipped.append(Skip("", runtime.name, "", state.detail, state.fix))
        elif runtime.name not in _NOT_BY_DEFAULT:
            names.append(runtime.name)
    return names


def cases_of(
    subject: Subject, runtimes: Sequence[str], options: BenchOptions, skipped: list[Skip]
) -> list[Case]:
    """A model and its twins in each runtime that has kernels for them; the rest is skipped.

    Args:
        subject: The given model.
        runtimes: Names.
        options: See :class:`BenchOptions`.
        skipped: Grows by what is left out, and why.
    """
    if subject.engine is not None:
        return _engine_cases(subject, subject.engine.backend, runtimes, options, skipped)
    images = calibration(subject, options)
    offered = {name: _PRECISIONS.get(name, _ELSEWHERE) for name in runtimes}
    needed = [p for p in options.precisions if any(p in each for each in offered.values())]
    try:
        twins = twins_of(subject, needed, images)
    except RuntimeFailure as error:
        skipped.append(Skip(subject.name, "", "int8", error.got, error.fix))
        twins = twins_of(subject, [p for p in needed if p != "int8"], images)
    cases = []
    for name in runtimes:
        given = as_given(subject.data, name)
        cases.append(Case(subject, name, subject.precision, given, True, True))
        for twin in twins:
            if twin.precision in offered[name]:
                cases.append(
                    Case(subject, name, twin.precision, twin.data, False, twin.same_function)
                )
        skipped.extend(
            Skip(subject.name, name, p, f"{name} {_WITHOUT}", "")
            for p in options.precisions
            if p not in offered[name]
        )
    return cases


def _engine_cases(
    subject: Subject,
    backend: str,
    runtimes: Sequence[str],
    options: BenchOptions,
    skipped: list[Skip],
) -> list[Case]:
    """An engine in its own library, beside the twins that the library builds itself."""
    if backend not in runtimes:
        state = runtime_named(backend).availability()
        reason = "not among --runtimes" if state.ok else state.detail
        skipped.append(Skip(subject.name, backend, subject.precision, reason, state.fix))
        return []
    cases = [Case(subject, backend, subject.precision, subject.data, True, True)]
    if subject.graph is None:
        fix = "Keep the file where it was, or beside the engine."
        skipped.append(Skip(subject.name, backend, "twins", subject.without_twins, fix))
        return cases
    offered = [p for p in options.precisions if p in _ELSEWHERE]
    skipped.extend(
        Skip(subject.name, backend, p, f"{backend} {_WITHOUT}", "")
        for p in options.precisions
        if p not in offered
    )
    for twin in twins_of(subject, offered, []):
        cases.append(Case(subject, backend, twin.precision, twin.data, False, twin.same_function))
    return cases


def feed(subject: Subject, batch: int, options: BenchOptions) -> dict[str, FloatArray]:
    """The model's input: float32 [batch, C, H, W], from the given images over and over, or noise.

    Raises:
        InputError: The given images are not of the model's shape.
    """
    if options.images is None and options.data is not None:
        given = labelled(subject, options.data).sample(CALIBRATION_IMAGES)
        return {subject.input_name: given[np.arange(batch) % len(given)]}
    if options.images is None:
        rng = np.random.default_rng(SEED)
        images = rng.standard_normal((batch, *subject.input_shape), dtype=np.float32)
        return {subject.input_name: images}
    given = _fitting(subject, options.images)
    return {subject.input_name: given[np.arange(batch) % len(given)]}


def labelled(subject: Subject, data: DataOptions) -> LabelledImages:
    """The data set in the size of a model, normalized as its file says.

    Raises:
        InputError: There is no such data set, or its files are missing.
        RuntimeFailure: scikit-learn is missing.
    """
    options = replace(data, preprocessing=subject.preprocessing)
    return open_images(options, subject.input_shape)


def calibration(subject: Subject, options: BenchOptions) -> list[FloatArray]:
    """The images that int8 is calibrated on, in one batch, or in those that the model takes."""
    count = min(CALIBRATION_IMAGES, usual_batch(subject.input_shape))
    if options.images is not None:
        count = min(count, len(options.images))
    step = subject.fixed_batch or count
    images = feed(subject, count + -count % step, options)[subject.input_name]
    return [images[start : start + step] for start in range(0, len(images), step)]


def _fitting(subject: Subject, images: FloatArray) -> FloatArray:
    if images.ndim != 4 or images.shape[1:] != subject.input_shape:
        raise InputError(
            f"{subject.name} cannot take the images",
            got=list(images.shape),
            expected=["N", *subject.input_shape],
            fix="Give images of the model's shape.",
        )
    return images
