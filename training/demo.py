"""The main job on real data: train a 1-bit network, export it, verify it, run the file.

    digits -> 1-bit WRN-14-1 -> checkpoint.pth.tar -> .onnx -> stock ONNX Runtime
           -> float32 twin   -> checkpoint.pth.tar -> .onnx -> the same, for comparison

Run ``python -m training.demo``; it needs no download and less than a minute.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich import box
from rich.table import Table
from rich.text import Text

from bitexport import export
from bitexport.cli.output import Debug, progress, run, say, size, stdout
from bitexport.comparison import Comparison, Tolerance, compare_logits
from bitexport.errors import ComparisonFailure
from bitexport.files import check_writable
from bitexport.runtimes import Runner, runtime_named
from training.datasets import DataOptions, ImageData, open_data
from training.logs import make_folder
from training.prediction import accuracy, predict
from training.recipe import Recipe, load_recipe, with_epochs
from training.trainer import Outcome as Trained
from training.trainer import RunOptions, threads, train

__all__ = ["MIN_ACCURACY", "Outcome", "app", "export_and_run", "main", "train_network"]

MIN_ACCURACY = 0.985
_LATENCY_RUNS = 300
_LATENCY_WARM_UP = 20

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
    make_folder(out)
    check_writable(out / "digits-1bit.onnx")
    recipe = with_epochs(load_recipe("wrn20-10-1bit", "digits"), epochs)
    data = open_digits(recipe)
    say("training the 1-bit network")
    trained = train_network(recipe, data, out / "1bit", seed=seed)
    with progress("exporting and verifying"):
        binary = export_and_run(trained, data, out / "digits-1bit.onnx")
    # Half the epochs are enough for a twin that has no signs to learn around.
    recipe = with_epochs(load_recipe("wrn20-10-float32", "digits"), max(1, epochs // 2))
    say("training its float32 twin")
    trained = train_network(recipe, data, out / "float32", seed=seed)
    with progress("exporting and verifying"):
        twin = export_and_run(trained, data, out / "digits-float32.onnx")
    with progress("measuring latency"):
        images = held_out_images(data)
        latencies = _median_latencies([twin.onnx, binary.onnx], images[:1])
    stdout.print(_table(recipe, twin, binary, latencies, len(images)))
    seconds = time.perf_counter() - started
    stdout.print(_remarks(binary, len(images), seed, seconds), soft_wrap=True)
    if binary.torch_accuracy < MIN_ACCURACY:
        raise ComparisonFailure(
            "the 1-bit network predicts too few held-out digits",
            got=f"{binary.torch_accuracy:.2%} with --epochs {epochs}",
            expected=f"at least {MIN_ACCURACY:.1%}",
            fix="Train longer with --epochs, or try another --seed.",
        )


def open_digits(recipe: Recipe) -> ImageData:
    """The digits as a recipe wants them."""
    return open_data(DataOptions("digits", Path(), False, recipe.input_shape, recipe.augmentation))


def train_network(recipe: Recipe, data: ImageData, out: Path, *, seed: int) -> Trained:
    """Train a small Wide ResNet on one thread, and leave its checkpoint in ``out``."""
    return train(recipe, data, RunOptions(out, seed=seed, device="cpu", threads=1))


@threads(1)
def export_and_run(trained: Trained, data: ImageData, onnx: Path) -> Outcome:
    """Export a checkpoint, and run the exported file on the held-out images.

    Args:
        trained: The network and its checkpoint.
        data: Their held-out images are run in torch and in ONNX Runtime.
        onnx: The file to write.

    Raises:
        ComparisonFailure: The exported file predicts another class than torch for some image.
    """
    export(trained.checkpoint, path=onnx)
    expected, labels = predict(trained.model, data.test)
    got = _runner(onnx).run({"input": held_out_images(data)})["logits"]
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
        checkpoint=trained.checkpoint,
        onnx=onnx,
        torch_accuracy=accuracy(expected, labels),
        onnx_accuracy=accuracy(torch.from_numpy(got), labels),
        comparison=comparison,
    )


def held_out_images(data: ImageData) -> npt.NDArray[np.float32]:
    """The held-out images, float32 [N, C, H, W]."""
    test = data.test
    return np.stack([test[i][0].numpy() for i in range(len(test))])  # type: ignore[arg-type]


def main() -> None:
    """Entry point: every failure is one line on stderr and an exit code."""
    run(app)


def _runner(onnx: Path) -> Runner:
    return runtime_named("ort").load(onnx.read_bytes(), threads=1)


def _median_latencies(files: list[Path], image: npt.NDArray[np.float32]) -> list[float]:
    """Median milliseconds for one image on one thread; the files take turns."""
    runners = [_runner(file) for file in files]
    milliseconds: list[list[float]] = [[] for _ in files]
    for _ in range(_LATENCY_WARM_UP + _LATENCY_RUNS):
        for runner, measured in zip(runners, milliseconds, strict=True):
            started = time.perf_counter()
            runner.run({"input": image})
            measured.append(1e3 * (time.perf_counter() - started))
    return [statistics.median(measured[_LATENCY_WARM_UP:]) for measured in milliseconds]


def _table(
    recipe: Recipe, twin: Outcome, binary: Outcome, latencies: list[float], images: int
) -> Table:
    table = Table(
        title=f"{recipe.network.arch.upper()} on {images} held-out handwritten digits",
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


def _remarks(binary: Outcome, images: int, seed: int, seconds: float) -> Text:
    lines = (
        f"torch and ONNX Runtime predict the same class for each of the {images} images.",
        "A training checkpoint holds float32 latent weights. Stock ONNX Runtime expands",
        "1-bit weights when it loads them and computes in float32: smaller, not faster.",
        f"Latency: median of {_LATENCY_RUNS} runs of one image on one thread. The float32",
        "network was trained for half the epochs.",
        "",
        f"Done in {seconds:.0f} s with seed {seed}. Look inside the file:",
        f"  {_program()} inspect {binary.onnx}",
    )
    return Text("\n".join(lines))


def _program() -> str:
    """What starts bitexport in the user's shell: its name, or its path where PATH lacks it."""
    if shutil.which("bitexport") is not None:
        return "bitexport"
    program = Path(sys.executable).with_name("bitexport")
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


if __name__ == "__main__":
    main()
