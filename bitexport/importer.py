"""The side road: a QONNX file in, the same network with our ops out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.comparison import (
    Comparison,
    Tolerance,
    compare_logits,
    refuse_overflow,
    sample_input,
)
from bitexport.errors import ComparisonFailure, InputError, UnsupportedModel
from bitexport.export_options import ExportOptions, asked_options
from bitexport.exporter import ExportReport, LoweredModel
from bitexport.files import check_writable, write_atomically
from bitexport.graph import LoweringOptions, QonnxModel, lower, read_qonnx
from bitexport.graph.properties import Origin, write_origin
from bitexport.graph.quantizers import quantizes_sums
from bitexport.graph.read import refusing_malformed
from bitexport.onnx_library import OnnxLibrary
from bitexport.runtimes import ModelRefused, Runner, Runtime
from bitexport.runtimes.contained import contained

__all__ = ["import_qonnx"]

_FAMILY = "qonnx"
_LARGEST_STEP = 64 << 20  # bytes of a value, for all samples that are run at once
_MOST_LOGITS = 64 << 20  # bytes for all samples
_DENSE = "its weight is no constant behind a bipolar quantizer"


def import_qonnx(
    source: str | Path,
    path: str | Path | None = None,
    *,
    options: ExportOptions | None = None,
) -> ExportReport:
    """Turn a QONNX file, as ``brevitas.export.export_qonnx`` writes it, into one of ours.

    Convolutions and linear layers whose weights stand behind a ``BipolarQuant`` become SignConv
    or BinaryConv; other quantizers become standard operators that compute the same.

    Args:
        source: Path of the QONNX file.
        path: The file to write; by default the source's name with ``.bitexport.onnx``, in the
            current folder.
        options: ``float16``, ``plain`` and ``verify``; the others do not concern an ONNX file.

    Returns:
        What was written, and how it compares with the source, evaluated in standard operators.

    Raises:
        InputError: The source cannot be read, or the output not written.
        UnsupportedModel: It is no QONNX file, or has nodes that we do not take.
        ComparisonFailure: The result differs from the source; nothing is written.
    """
    started = time.perf_counter()
    source, options = Path(source), options or ExportOptions()
    _refuse_checkpoint_options(options)
    output = Path(path) if path is not None else Path(f"{source.stem}.bitexport.onnx")
    check_writable(output, source=source)
    with refusing_malformed(source):
        model = read_qonnx(source)
        float32_bytes = _float32_bytes(model.graph)
        rounds = quantizes_sums(model.graph)
        report = lower(model.graph, LoweringOptions(float16=options.float16, plain=options.plain))
    declined = {r.layer: r.detail for r in report.records if not r.applied}
    reasons = {x.name: declined.get(x.name, _DENSE) for x in report.layers if x.dense}
    lowered = LoweredModel(model.graph, tuple(report.layers), tuple(report.records), {})
    origin = Origin(
        family=_FAMILY,
        arch=model.name,
        options=asked_options(options),
        source_sha256=model.sha256,
        dense_reasons=reasons,
        layers=lowered.layers if options.plain else (),
    )
    write_origin(lowered.graph, origin)
    data = ir.to_proto(lowered.graph).SerializeToString(deterministic=True)
    binary = any(layer.binary_activations for layer in report.layers)
    tolerance = Tolerance.for_model(
        binary_activations=binary or (rounds and not options.float16),
        float16=options.float16,
    )
    comparison = None
    if options.verify:
        images, step = _images(model)
        comparison = _verify(data, model, tolerance, images, step)
        if options.float16:
            _refuse_overflow(source, lowered.graph, model, images)
    write_atomically(output, data)
    return ExportReport(
        family=_FAMILY,
        arch=model.name,
        output=output,
        bytes=len(data),
        source_bytes=model.bytes,
        fp32_bytes=float32_bytes,
        layers=lowered.layers,
        zero_weights={},
        dense_reasons=reasons,
        records=lowered.records,
        notes=(),
        verify=comparison,
        rounding=None,
        seconds=time.perf_counter() - started,
    )


def _refuse_checkpoint_options(options: ExportOptions) -> None:
    if not asked_options(options).keys().isdisjoint(("load", "input_size", "dense_weights")):
        raise InputError(
            "an option does not apply to a QONNX file",
            got="--family, --arch, --weights, --activations, --dense-weights or --input-size",
            expected="none of them: the file says all that itself",
            fix="Leave them out.",
        )


def _float32_bytes(model: ir.Model) -> int:
    """Bytes of the float32 constants, the latent weights among them."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    floats = [t for t in tensors if t is not None and t.dtype == ir.DataType.FLOAT]
    return sum(int(tensor.nbytes) for tensor in floats)


def _images(model: QonnxModel) -> tuple[npt.NDArray[np.float32], int]:
    """Images to compare with, and how many are run at once."""
    batch, *rest = model.input_shape or (None,)
    if len(rest) != 3 or None in rest:
        raise UnsupportedModel(
            "the network cannot be verified",
            got=f"an input of shape {['?' if n is None else n for n in model.input_shape]}",
            expected="images of a fixed size, [N, C, H, W]",
            fix="Export it with a fixed image size, or pass --no-verify.",
        )
    shape = (rest[0] or 0, rest[1] or 0, rest[2] or 0)
    images = sample_input(shape)
    if batch and not 1 <= batch <= len(images):
        images = sample_input(shape, batch)
    step = batch or max(1, min(len(images), _LARGEST_STEP // max(1, model.largest_value)))
    return images, step


@contextmanager
def _runtime() -> Iterator[Runtime]:
    """ONNX Runtime in another process; what it refuses cannot be verified."""
    try:
        with contained("ort") as runtime:
            yield runtime
    except ModelRefused as error:
        raise InputError(
            "the network cannot be verified: " + error.what,
            got=error.got,
            expected=error.expected,
            fix=error.fix,
        ) from error


def _verify(
    data: bytes,
    model: QonnxModel,
    tolerance: Tolerance,
    images: npt.NDArray[np.float32],
    step: int,
) -> Comparison:
    with _runtime() as runtime:
        expected, got = (_run(runtime.load(d), images, step) for d in (model.reference, data))
    comparison = compare_logits(got, expected, tolerance)
    if not comparison.ok:
        raise ComparisonFailure(
            "the imported network differs from its source",
            got=f"relative L2 error {comparison.rel_l2:.2e}, "
            f"top-1 agreement {comparison.top1_agreement:.0%}",
            expected=f"at most {tolerance.rel_l2:.0e} and at least {tolerance.top1:.0%}",
            fix="Nothing was written; --no-verify writes it all the same. Please report this.",
        )
    return comparison


def _refuse_overflow(
    source: Path, graph: ir.Model, model: QonnxModel, images: npt.NDArray[np.float32]
) -> None:
    """A fixed batch of images at once, or one, and as many values as can be handed over."""
    batch = model.input_shape[0]
    bytes_of_one = model.largest_value // 2  # where it is float32
    with refusing_malformed(source), OnnxLibrary(source) as library, _runtime() as runtime:
        refuse_overflow(
            graph,
            np.resize(images, (batch, *images.shape[1:])) if batch else images,
            runtime,
            infer=library.infer_shapes,
            at_once=max(1, _LARGEST_STEP // max(1, bytes_of_one)),
        )


def _run(runner: Runner, images: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    """The outputs for all images, in batches of exactly ``step``."""
    whole = len(images) + -len(images) % step
    padded = np.resize(images, (whole, *images.shape[1:]))
    outputs: list[npt.NDArray[np.float32]] = []
    for start in range(0, whole, step):
        outputs.append(runner.run({"input": padded[start : start + step]})["logits"])
        if outputs[0].nbytes * (whole // step) > _MOST_LOGITS:
            raise ModelRefused(
                "its output is too large to compare",
                got=f"{outputs[0].nbytes >> 20} MiB for {step} images",
                expected=f"logits of up to {_MOST_LOGITS >> 20} MiB for {whole}",
                fix="Pass --no-verify.",
            )
    return np.concatenate(outputs)[: len(images)]
