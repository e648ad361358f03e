"""Random QONNX files through the importer, compared with QONNX's own executor.

    make fuzz-qonnx COUNT=10000 SEED=7      findings lie in build/fuzz
    make fuzz-qonnx FILE=build/fuzz/NAME    one of them again

Each file is refused in one line, or its export gives the executor's outputs in stock ONNX Runtime
and with our op library, with --plain too, and with --fp16 where float16 holds all numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import helper, numpy_helper

import bitexport
from bitexport import importer, onnx_library
from bitexport.errors import BitexportError, ComparisonFailure
from bitexport.export_options import ExportOptions
from bitexport.runtimes import runtime_named
from fuzz.qonnx_graphs import random_graph
from fuzz.qonnx_spelling import images

FINDINGS = Path("build/fuzz")
BATCH = 25
CLOSE = 1e-4  # of the largest output of a sample
# Of which the first with kernels of ours, which a plain file does not need.
RUNTIMES = ("ort-native", "ort")
WAYS = {
    "": ExportOptions(),
    "--plain ": ExportOptions(plain=True, verify=False),
    "--fp16 ": ExportOptions(float16=True, verify=False),
}
_LARGEST_HALF = 512
_NOISE = 2e-6
_CANCELLED = 0.1
_EXACT_BITS = 1 << 22
_DRAWS = 6

Array = np.ndarray


class NotTaken(Exception):
    """QONNX's executor does not take the graph, or computes no finite numbers."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        kind: "same"; "refused"; "not taken" by QONNX's executor; "tie" where rounding decides;
            "alarm" where the importer takes the right file for a wrong one; or "finding".
        detail: Why.
    """

    kind: str
    detail: str = ""


def executed(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    """All values by QONNX's executor, for all samples at once.

    Raises:
        NotTaken: It does not take the graph.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    constants = {tensor.name for tensor in model.graph.initializer}
    (name,) = (v.name for v in model.graph.input if v.name not in constants)
    try:
        wrapped = ModelWrapper(onnx.ModelProto.FromString(model.SerializeToString()))
        wrapped.set_tensor_shape(name, list(x.shape))
        wrapped = wrapped.transform(InferShapes())
        # It runs each node in a model of the newest IR version, which may be too new.
        with mock.patch("onnx.IR_VERSION", 10):
            context = execute_onnx(wrapped, {name: x}, return_full_exec_context=True)
    except Exception as error:
        raise NotTaken(f"{type(error).__name__}: {error}") from error
    return {k: v for k, v in context.items() if getattr(v, "dtype", None) == np.float32}


def _exact(values: dict[str, Array]) -> bool:
    """Whether no value needs all bits of a float32, so that none can have been rounded."""
    for value in values.values():
        if not value.any():
            continue
        mantissa, exponent = np.frexp(value[value != 0].astype(np.float64))
        whole = np.abs(mantissa * 2.0**24).astype(np.int64)
        lowest = (whole & -whole).astype(np.float64) * 2.0 ** (exponent - 24)
        if np.abs(value).max() / lowest.min() >= _EXACT_BITS:
            return False
    return True


def _differs(got: Array, expected: Array, least: float = 1e-3) -> str:
    """How two outputs differ; "" where they are close, sample by sample.

    An output below ``least`` may be off by as much as that one.
    """
    if got.shape != expected.shape:
        return f"shape {list(got.shape)}, not {list(expected.shape)}"
    a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (got, expected))
    largest = np.abs(b).max(axis=1, initial=least, keepdims=True)
    error = (np.abs(a - b) / largest).max(initial=0)
    return "" if error <= CLOSE else f"{error:.2g} of the largest output"


@contextlib.contextmanager
def _shaken(seed: int, largest: float) -> Iterator[None]:
    """What quantizers read is off by as much as rounding may make it.

    Sums of numbers up to ``largest`` may have cancelled out.
    """
    from qonnx.custom_op.general import bipolar_quant, intquant, trunc

    rng = np.random.default_rng(seed)

    def shaking(function: Callable[..., Array]) -> Callable[..., Array]:
        def shaken(x: Array, *others: Any) -> Array:
            size = np.abs(x) + np.abs(x).max(initial=0) + _CANCELLED * largest
            noise = _NOISE * rng.uniform(-1, 1, x.shape) * size
            return function((x + noise).astype(x.dtype), *others)

        return shaken

    with (
        mock.patch.object(bipolar_quant, "binary_quant", shaking(bipolar_quant.binary_quant)),
        mock.patch.object(intquant, "int_quant", shaking(intquant.int_quant)),
        mock.patch.object(trunc, "trunc_v1", shaking(trunc.trunc_v1)),
        mock.patch.object(trunc, "trunc_v2", shaking(trunc.trunc_v2)),
    ):
        yield


def _decided_by_rounding(
    model: onnx.ModelProto, x: Array, values: dict[str, Array], got: list[Array]
) -> bool:
    """Whether rounding alone moves the executor's own output, or explains how others differ."""
    output = model.graph.output[0].name
    largest = float(max(np.abs(value).max(initial=0) for value in values.values()))
    if not any(_differs(found, values[output], largest * _NOISE / CLOSE) for found in got):
        return True
    for seed in range(_DRAWS):
        with _shaken(seed, largest):
            if _differs(executed(model, x)[output], values[output]):
                return True
    return False


class Ended(Exception):
    """What becomes of a model is clear."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = Outcome(kind, detail)


def outcome_of(model: onnx.ModelProto, folder: Path) -> Outcome:
    """Import a model in every way, and compare."""
    x = images(model)
    try:
        values = executed(model, x)
    except NotTaken as reason:
        return Outcome("not taken", str(reason))
    expected = values[model.graph.output[0].name]
    if expected.ndim < 2 or not all(np.isfinite(v).all() for v in values.values()):
        return Outcome("not taken", "numbers that are not finite")
    source = folder / "q.onnx"
    source.write_bytes(model.SerializeToString())
    try:
        alarm, found, differing = _compared(source, x, expected, halves=_are_halves(values))
    except Ended as ended:
        return ended.outcome
    if not found:
        return Outcome("alarm", alarm) if alarm else Outcome("same")
    if not _exact(values) and _decided_by_rounding(model, x, values, differing):
        # What is wrong with the graph is wrong with other numbers in it, too.
        coarse = _coarse(model)
        return Outcome("tie", found) if coarse == model else outcome_of(coarse, folder)
    return Outcome("finding", found)


def _compared(
    source: Path, x: Array, expected: Array, *, halves: bool
) -> tuple[str, str, list[Array]]:
    """Why the importer's own comparison failed, how outputs differ, and those that do."""
    alarm, found, differing = "", "", []
    for way, options in WAYS.items():
        output = source.with_name("m.onnx")
        try:
            alarm = alarm or _imported(source, output, options)
        except BitexportError as error:
            # float16 does not hold all numbers; what else one way takes, the others do.
            one_line = "\n" not in str(error)
            if options.float16 and one_line:
                continue
            kind = "refused" if one_line and not way else "finding"
            raise Ended(kind, f"{way}{error}") from error
        except Exception as error:
            raise Ended("finding", f"{way}escaped: {type(error).__name__}: {error}") from error
        for name in RUNTIMES[options.plain :]:
            try:
                runner = runtime_named(name).load(output.read_bytes(), threads=1)
                got = runner.run({"input": x})["logits"]
            except BitexportError as error:
                raise Ended("finding", f"{way}{name}: {error}") from error
            if options.float16 and not halves:
                continue
            if difference := _differs(got, expected):
                found = f"{way}{name}: {difference}"
                differing.append(got)
    return alarm, found, differing


def _imported(source: Path, output: Path, options: ExportOptions) -> str:
    """What the importer's comparison says against the file that it then has to write."""
    try:
        bitexport.import_qonnx(source, output, options=options)
    except ComparisonFailure as error:
        # Whether it is right is seen without.
        bitexport.import_qonnx(source, output, options=replace(options, verify=False))
        return f"verify: {error}"
    return ""


def _are_halves(values: dict[str, Array]) -> bool:
    """Whether float16 holds all values, and sums as wide as the widest of them, exactly."""
    largest = max(np.abs(value).max(initial=0) for value in values.values())
    return largest < _LARGEST_HALF and all(
        np.array_equal(value.astype(np.float16), value) for value in values.values()
    )


def _coarse(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with constants of a few bits: powers of 2 where all are above 0."""
    coarse = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = [*coarse.graph.initializer]
    tensors += [
        a.t for node in coarse.graph.node if node.op_type == "Constant" for a in node.attribute
    ]
    for tensor in tensors:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size:
            whole = np.round(array * 4) / 4
            if (array > 0).all():
                whole = 2.0 ** np.round(np.log2(array))
            tensor.CopyFrom(numpy_helper.from_array(whole.astype(np.float32), tensor.name))
    for node in coarse.graph.node:
        if node.op_type == "BatchNormalization":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("epsilon", 0.0))
    return coarse


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """What the importer leaves to other processes is done in this one, which is quicker."""

    def ask(_self: Any, job: dict[str, Any], arrays: dict[str, Array]) -> Any:
        return onnx_library._answer(job, arrays)

    with (
        mock.patch.object(onnx_library.OnnxLibrary, "ask", ask),
        mock.patch.object(onnx_library, "limit_memory", lambda _most: None),
        mock.patch.object(
            importer, "contained", lambda name: contextlib.nullcontext(runtime_named(name))
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Batch:
    """Graphs ``first`` to ``last`` of a seed."""

    seed: int
    first: int
    last: int
    keep: Path


def run_batch(batch: Batch) -> list[Outcome]:
    """What became of each; findings are kept as files."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, in_this_process():
        for index in range(batch.first, batch.last):
            model = random_graph(f"{batch.seed}/{index}")
            found = outcome_of(model, Path(folder))
            detail = found.detail.replace(folder, "").strip("/")
            if found.kind == "finding":
                path = batch.keep / f"qonnx-{batch.seed}-{index}.onnx"
                batch.keep.mkdir(parents=True, exist_ok=True)
                path.write_bytes(model.SerializeToString())
                detail = f"{path}: {detail}"
            outcomes.append(Outcome(found.kind, detail))
    return outcomes


def fuzz(count: int, seed: int, keep: Path, jobs: int) -> Counter[str]:
    """Run ``count`` graphs; how many became what. Prints findings, and what is refused and why."""
    started = time.monotonic()
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    batches = [Batch(seed, i, min(i + BATCH, count), keep) for i in range(0, count, BATCH)]
    print(f"seed {seed}, {count} graphs", flush=True)
    # A new Python for each, as ONNX Runtime's threads must not be forked.
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=20) as pool:
        for outcomes in pool.imap_unordered(run_batch, batches):
            for outcome in outcomes:
                kinds[outcome.kind] += 1
                if outcome.kind == "finding":
                    print(outcome.detail, flush=True)
                elif outcome.kind != "same":
                    reasons[f"{outcome.kind}: {_category(outcome.detail)}"] += 1
    for reason, number in reasons.most_common():
        print(f"{number / count:6.1%}  {reason}")
    told = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    print(
        f"{count} graphs: {told}; {kinds['finding']} findings, {time.monotonic() - started:.0f} s"
    )
    return kinds


def _category(detail: str) -> str:
    """A reason without what is the graph's own."""
    line = re.sub(r"\[[^\]]*\]|'[^']*'|\S*\.onnx: |[0-9][0-9.e+-]*", "_", " ".join(detail.split()))
    return line[:120]


def replay(path: Path) -> Outcome:
    """Run one kept file again."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, in_this_process():
        return outcome_of(onnx.load(path), Path(folder))


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="fuzz.qonnx", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=FINDINGS, help="folder for findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a kept finding")
    given = parser.parse_args()
    if given.replay:
        outcome = replay(given.replay)
        print(f"{outcome.kind}: {outcome.detail}")
        return outcome.kind == "finding"
    return min(1, fuzz(given.count, given.seed, given.keep, given.jobs)["finding"])


if __name__ == "__main__":
    sys.exit(main())
