"""A run of a stranger's model in a process of its own, before it is measured in this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from bitexport.bench.cases import BenchOptions, Case, calibration, feed, labelled
from bitexport.bench.subjects import Subject
from bitexport.errors import RuntimeFailure
from bitexport.evaluation import Accuracy, evaluate, usual_batch
from bitexport.graph.chains import as_given
from bitexport.graph.read import read_onnx
from bitexport.runtimes import ENGINE_RUNTIMES, Arrays, ModelRefused, Runner
from bitexport.runtimes.contained import ModelStopped, contained, memory_for

__all__ = ["accuracy", "try_out"]


def try_out(path: Path, subject: Subject, runtimes: Sequence[str], options: BenchOptions) -> None:
    """Run a file in each runtime that it is to be measured in, on all that it will be given.

    What a runtime refuses in words is reported where it is measured. Builders of engines take
    minutes: for them the file is checked more strictly instead, as `bitexport trt` does.

    Raises:
        InputError: A runtime crashes on it, it takes too much memory, or onnx's checker finds fault
            with it.
    """
    builders = {runtime.name for runtime in ENGINE_RUNTIMES}
    if builders.intersection(runtimes) and path.suffix.lower() == ".onnx":
        read_onnx(path, strict=True)
    for name in runtimes:
        if name in builders:
            continue
        try:
            _run(name, subject, options)
        except ModelStopped as error:
            raise error.blaming(path) from error
        except RuntimeFailure:
            continue


def _run(name: str, subject: Subject, options: BenchOptions) -> None:
    # Of a large batch the first image is the model's doing, the others are the user's.
    spare = memory_for(subject.input_shape, max(options.batches) - 1)
    with contained(name, spare=spare) as runtime:
        runner = runtime.load(as_given(subject.data, name), threads=options.threads)
        for arrays in _feeds(subject, options):
            try:
                runner.run(arrays)
            except ModelStopped:
                raise
            except RuntimeFailure:
                continue


def _feeds(subject: Subject, options: BenchOptions) -> Iterator[Arrays]:
    """One at a time, as large batches are large."""
    batches = options.batches if subject.fixed_batch is None else (subject.fixed_batch,)
    for batch in batches:
        yield feed(subject, batch, options)
    if "int8" in options.precisions:
        for images in calibration(subject, options):
            yield {subject.input_name: images}


def accuracy(
    case: Case, runner: Runner, options: BenchOptions, show: Callable[[float], None]
) -> Accuracy | None:
    """What a case gets right of the data set, whose images nobody has tried before.

    Args:
        case: The model; builders of engines run it in this process, as building takes minutes.
        runner: Of the case, in this process.
        options: Name the data set.
        show: Called with the share that is done.

    Returns:
        None where there is no data set, the twin was never trained, or it takes batches of
        several sizes, but no short one.

    Raises:
        InputError: The model is refused, or does not fit the data set.
    """
    smallest, largest = case.batches
    whole = smallest == largest
    # The last batch of a data set is a short one, which a fixed batch has filled up.
    if options.data is None or not case.same_function or not (whole or smallest == 1):
        return None
    subject = case.subject
    here = case.built is not None or case.runtime in {each.name for each in ENGINE_RUNTIMES}
    try:
        with nullcontext() if here else contained(case.runtime) as runtime:
            return evaluate(
                runner if runtime is None else runtime.load(case.data, threads=options.threads),
                subject.input_name,
                subject.output_name,
                labelled(subject, options.data),
                batch=largest if whole else min(usual_batch(subject.input_shape), largest),
                whole=whole,
                show=show,
            )
    except ModelRefused as error:
        raise error.blaming(subject.name) from error
