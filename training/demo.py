"""The main job on real data: train a 1-bit network, export it, verify it, run the file.

    digits -> 1-bit WRN-14-1 -> checkpoint.pth.tar -> .onnx -> stock ONNX Runtime
           -> float32 twin   -> checkpoint.pth.tar -> .onnx -> the same, for comparison

Run ``python -m training.demo``; it needs no download and less than a minute.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bitexport import ExportOptions, LoadOptions, export
from bitexport.cli.output import Debug, progress, run, say, size, stdout
from bitexport.comparison import Comparison, Tolerance, compare_logits
from bitexport.errors import ComparisonFailure, InputError
from bitexport.files import check_writable
from bitexport.models.wide_resnet import WideResNet
from bitexport.runtimes import Runner, runtime_named
from training.checkpoints import save_checkpoint
from training.data import CLASSES, IMAGE_SHAPE, Batches, Digits, load_digits, random_shift
from training.loop import EpochReport, TrainOptions, accuracy, one_thread, predict, train

__all__ = ["MIN_ACCURACY", "Outcome", "app", "export_and_run", "main", "train_network"]

MIN_ACCURACY = 0.985
_DEPTH, _WIDTH = 14, 1
_BATCH_SIZE = 64
_LATENCY_RUNS = 300
_LATENCY_WARM_UP = 20
_PIPE_EVERY = 10

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class Outcome:
    """A network that was trained, exported, and run on the held-out images.

    Attributes:
        checkpoint: The file of the trained network; its latent weights are float32.
        onnx: The exported file.
        torch_accuracy: Share of the held-out images that torch predicts right.
        onnx_accuracy: The same for the exported file in stock ONNX Runtime.
        comparison: The two sets of logits, image by image.
    """

    checkpoint: Path
    onnx: Path
    torch_accuracy: float
    onnx_accuracy: float
    comparison: Comparison


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("demo-out"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    debug: Debug = False,
) -> None:
    """Train a 1-bit Wide ResNet on handwritten digits, export it, verify it, and compare."""
    del debug
    started = time.perf_counter()
    digits = load_digits()
    _make_folder(out)
    arch = f"WRN-{_DEPTH}-{_WIDTH}"
    with _epoch_progress(f"1-bit {arch}", epochs) as show:
        model = train_network(digits, epochs=epochs, seed=seed, show=show)
    with progress("exporting and verifying"):
        binary = export_and_run(model, digits, out / "digits-1bit", epochs=epochs)
    # Half the epochs are enough for a twin that has no signs to learn around.
    half = max(1, epochs // 2)
    with _epoch_progress("float32 twin", half) as show:
        model = train_network(digits, epochs=half, seed=seed, binarize=False, show=show)
    with progress("exporting and verifying"):
        twin = export_and_run(model, digits, out / "digits-float32", epochs=half, binarize=False)
    with progress("measuring latency"):
        latencies = _median_latencies([twin.onnx, binary.onnx], digits)
    stdout.print(_table(twin, binary, latencies, len(digits.test_labels)))
    seconds = time.perf_counter() - started
    stdout.print(_remarks(binary, digits, seed, seconds), soft_wrap=True)
    if binary.torch_accuracy < MIN_ACCURACY:
        raise ComparisonFailure(
            "the 1-bit network predicts too few held-out digits",
            got=f"{binary.torch_accuracy:.2%} with --epochs {epochs}",
            expected=f"at least {MIN_ACCURACY:.1%}",
            fix="Train longer with --epochs, or try another --seed.",
        )


@one_thread()
def train_network(
    digits: Digits,
    *,
    epochs: int,
    seed: int,
    binarize: bool = True,
    show: Callable[[EpochReport], None] | None = None,
) -> WideResNet:
    """Train a small Wide ResNet.

    Args:
        digits: The data.
        epochs: Passes over the training images.
        seed: Of the initial weights, the order of the images and their augmentation.
        binarize: False trains the full-precision twin.
        show: Called after each epoch.
    """
    torch.manual_seed(seed)
    model = WideResNet(_DEPTH, _WIDTH, CLASSES, in_channels=IMAGE_SHAPE[0], binarize=binarize)
    model.to(memory_format=torch.channels_last)  # the faster layout on a CPU
    batches = Batches(
        digits.train_images,
        digits.train_labels,
        batch_size=_BATCH_SIZE,
        seed=seed,
        augment=random_shift,
    )
    train(model, batches, TrainOptions(epochs=epochs), show)
    return model


@one_thread()
def export_and_run(
    model: WideResNet, digits: Digits, stem: Path, *, epochs: int, binarize: bool = True
) -> Outcome:
    """Save a trained network, export the checkpoint, and run the exported file.

    Args:
        model: The trained network.
        digits: Their held-out images are run in torch and in ONNX Runtime.
        stem: Files are written as ``stem.pth.tar`` and ``stem.onnx``.
        epochs: Epochs trained.
        binarize: False exports the full-precision twin.

    Raises:
        ComparisonFailure: The exported file predicts another class than torch for some image.
    """
    checkpoint, onnx = Path(f"{stem}.pth.tar"), Path(f"{stem}.onnx")
    save_checkpoint(checkpoint, model, epochs)
    load = LoadOptions(weights="auto" if binarize else "float")
    export(checkpoint, path=onnx, options=ExportOptions(load=load, input_size=IMAGE_SHAPE[1:]))
    expected = predict(model, digits.test_images)
    got = _runner(onnx).run({"input": digits.test_images.numpy()})["logits"]
    tolerance = Tolerance.for_model(binary_activations=False, float16=False)
    comparison = compare_logits(got, expected.numpy(), tolerance)
    if not comparison.ok:
        raise ComparisonFailure(
            f"{onnx} does not compute what torch computes on the held-out digits",
            got=f"the same class for {comparison.top1_agreement:.2%}, "
            f"relative L2 error {comparison.rel_l2:.1e}",
            expected=f"all of them, and at most {tolerance.rel_l2:.0e}",
            fix="Please report this.",
        )
    return Outcome(
        checkpoint=checkpoint,
        onnx=onnx,
        torch_accuracy=accuracy(expected, digits.test_labels),
        onnx_accuracy=accuracy(torch.from_numpy(got), digits.test_labels),
        comparison=comparison,
    )


def main() -> None:
    """Entry point: every failure is one line on stderr and an exit code."""
    run(app)


def _runner(onnx: Path) -> Runner:
    return runtime_named("ort").load(onnx.read_bytes(), threads=1)


def _median_latencies(files: list[Path], digits: Digits) -> list[float]:
    """Median milliseconds for one image on one thread; the files take turns."""
    runners = [_runner(file) for file in files]
    image = {"input": digits.test_images[:1].numpy()}
    milliseconds: list[list[float]] = [[] for _ in files]
    for _ in range(_LATENCY_WARM_UP + _LATENCY_RUNS):
        for runner, measured in zip(runners, milliseconds, strict=True):
            started = time.perf_counter()
            runner.run(image)
            measured.append(1e3 * (time.perf_counter() - started))
    return [statistics.median(measured[_LATENCY_WARM_UP:]) for measured in milliseconds]


def _table(twin: Outcome, binary: Outcome, latencies: list[float], images: int) -> Table:
    table = Table(
        title=f"WRN-{_DEPTH}-{_WIDTH} on {images} held-out handwritten digits",
        box=box.SIMPLE_HEAD,
        title_style="bold",
    )
    table.add_column("")
    table.add_column("float32", justify="right")
    table.add_column("1-bit", justify="right", style="bold")
    table.add_column("1-bit is", justify="right")
    both = (twin, binary)
    table.add_row("accuracy, torch", *(f"{o.torch_accuracy:.2%}" for o in both), "")
    table.add_row("accuracy, ONNX Runtime", *(f"{o.onnx_accuracy:.2%}" for o in both), "")
    equal = [round(o.comparison.top1_agreement * images) for o in both]
    table.add_row("same class in both", *(f"{n} of {images}" for n in equal), "")
    table.add_section()
    checkpoints = [o.checkpoint.stat().st_size for o in both]
    files = [o.onnx.stat().st_size for o in both]
    table.add_row("checkpoint", *map(size, checkpoints), "")
    table.add_row("ONNX file", *map(size, files), f"{files[0] / files[1]:.1f}x smaller")
    table.add_row(
        "latency, one image",
        *(f"{ms:.3f} ms" for ms in latencies),
        f"{latencies[0] / latencies[1]:.2f}x as fast",
    )
    return table


def _remarks(binary: Outcome, digits: Digits, seed: int, seconds: float) -> Text:
    images = len(digits.test_labels)
    lines = (
        f"torch and ONNX Runtime predict the same class for each of the {images} images.",
        "A training checkpoint holds float32 latent weights. Stock ONNX Runtime expands",
        "1-bit weights when it loads them and computes in float32: smaller, not faster.",
        f"Latency: median of {_LATENCY_RUNS} runs of one image on one thread. The float32",
        "network was trained for half the epochs.",
        "",
        f"Done in {seconds:.0f} s with seed {seed}. Look inside the file:",
        f"  bitexport inspect {binary.onnx}",
    )
    return Text("\n".join(lines))


@contextmanager
def _epoch_progress(title: str, epochs: int) -> Iterator[Callable[[EpochReport], None]]:
    """A progress bar on a terminal, a line every few epochs in a pipe; both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda report: _say_epoch(title, report)
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=epochs, status="")
        yield lambda report: bar.update(task, advance=1, status=_status(report))


def _say_epoch(title: str, report: EpochReport) -> None:
    if report.epoch % _PIPE_EVERY == 0 or report.epoch == report.epochs:
        say(f"{title}: epoch {report.epoch} of {report.epochs}, {_status(report)}")


def _status(report: EpochReport) -> str:
    return f"loss {report.loss:.3f} accuracy {report.accuracy:.1%}"


def _make_folder(out: Path) -> None:
    """Make the folder, and find out before the training whether it can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {out}",
            got=error.strerror or error,
            expected="a folder that can be written",
            fix="Name another --out.",
        ) from error
    check_writable(out / "digits-1bit.onnx")


if __name__ == "__main__":
    main()
