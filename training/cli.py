"""The command line of the trainer: a recipe or a ResNet in, a checkpoint for ``bitexport`` out.

Results go to stdout, progress to stderr; errors are one line and an exit code, as in ``bitexport``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitexport.cli.output import Debug, Json, print_json, run, say, size, stdout
from bitexport.errors import InputError

if TYPE_CHECKING:
    from training.datasets import ImageData
    from training.product_quantization.plan import QuantizePlan
    from training.recipe import Recipe

__all__ = ["app", "main"]

app = typer.Typer(
    name="python -m training",
    help="Train 1-bit and product-quantized networks that bitexport exports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dataset = Annotated[
    str, typer.Option(metavar="NAME", help="digits, cifar10, cifar100 or imagenet.")
]
SavedDataset = Annotated[
    str | None, typer.Option(metavar="NAME", help="The checkpoint's own by default.")
]
Data = Annotated[Path, typer.Option(help="Folder of the data set; digits need none.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch what is missing, where allowed.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write; runs/NAME-DATASET by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Of torch on a CPU; 1 for digits by default.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use so many training images only.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Refuse kernels that do not repeat bit for bit.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Of each stage, instead of the recipe's.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Images a step, over all processes.")]


@app.command(no_args_is_help=True)
def train(
    recipe: Annotated[str, typer.Option(metavar="NAME", help="A name or a TOML file.")],
    dataset: Dataset = "digits",
    data: Data = Path("data"),
    download: Download = False,
    out: Out = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Of each stage, instead of the recipe's.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="A float32 network to distil from.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="A checkpoint to fine-tune.")
    ] = None,
    seed: Seed = 0,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    accumulate: Annotated[int, typer.Option(min=1, help="Run a batch in so many parts.")] = 1,
    threads: Threads = None,
    limit: Limit = None,
    deterministic: Deterministic = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --out stopped.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network by a recipe, and write a checkpoint that `bitexport onnx` takes.

    Example: python -m training train --recipe wrn20-10-1bit --dataset cifar100 --data data
    """
    del debug
    from training.recipe import load_recipe, with_epochs
    from training.trainer import RunOptions
    from training.trainer import train as train_recipe

    plan = load_recipe(recipe, dataset)
    _refuse_idle_teacher(plan, teacher)
    plan = with_epochs(plan, epochs) if epochs else plan
    if learning_rate is not None:
        rated = {n: replace(s, learning_rate=learning_rate) for n, s in plan.stages.items()}
        plan = replace(plan, stages=rated)
    plan = replace(plan, batch_size=batch_size or plan.batch_size)
    options = RunOptions(
        out=out or Path("runs") / f"{plan.name}-{plan.dataset}",
        seed=seed,
        precision=precision,
        device=device,
        workers=workers,
        accumulate=accumulate,
        deterministic=deterministic,
        resume=resume,
        threads=_threads(threads, plan.dataset),
        teacher=teacher,
        start=start,
    )
    if resume and not (options.out / "resume.pt").exists() and _leads():
        say(f"note: nothing to resume in {options.out}; starting from the first epoch")
    outcome = train_recipe(plan, _open(plan, data, download, limit), options)
    record = {
        "recipe": plan.name,
        "dataset": plan.dataset,
        "checkpoint": str(outcome.checkpoint),
        "test_accuracy": outcome.test_accuracy,
        "reported": dict(plan.reported),
        "seconds": outcome.seconds,
        "epochs": [asdict(report) for report in outcome.reports],
    }
    if _leads():
        _print_run(record, json=json)


@app.command(no_args_is_help=True)
def quantize(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A ResNet of torchvision.",
            show_default="the checkpoint's, or resnet18",
        ),
    ] = None,
    blocks: Annotated[str, typer.Option(help="small or large.")] = "small",
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="CKPT", help="A trained ResNet; by default digits are learned first."),
    ] = None,
    dataset: Dataset = "digits",
    data: Data = Path("data"),
    download: Download = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Product-quantize a ResNet, and write a checkpoint that `bitexport onnx` takes.

    Example: python -m training quantize --model resnet18 --blocks small
    """
    del debug
    from training.product_quantization.plan import load_plan
    from training.product_quantization.quantize import QuantizeOptions
    from training.product_quantization.quantize import quantize as quantize_network
    from training.product_quantization.source import DEFAULT_ARCH, real_network
    from training.trainer import RunOptions
    from training.trainer import threads as torch_threads

    load_plan(blocks, DEFAULT_ARCH, dataset)  # refuses what makes no sense before any training
    folder = out or Path("runs") / f"{model or DEFAULT_ARCH}-{blocks}-{dataset}"
    count = _threads(threads, dataset)
    run_options = RunOptions(folder / "float32", seed=seed, device=device, threads=count)
    real, arch = real_network(
        model, checkpoint, dataset=dataset, download=download, run=run_options
    )
    folder = out or Path("runs") / f"{arch}-{blocks}-{dataset}"
    plan = load_plan(blocks, arch, dataset)
    images = _open(plan, data, download, limit)
    with torch_threads(count):
        options = QuantizeOptions(folder, arch, seed, _device(device))
        outcome = quantize_network(real, images, plan, options)
    record = {
        "model": arch,
        "blocks": blocks,
        "dataset": dataset,
        "checkpoint": str(outcome.checkpoint),
        "float32_accuracy": outcome.real_accuracy,
        "test_accuracy": outcome.test_accuracy,
        "reported": dict(plan.reported),
        "resolved_empty_clusters": outcome.resolved,
        "seconds": outcome.seconds,
    }
    _print_run(record, json=json)


@app.command(no_args_is_help=True)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint of ours.")],
    dataset: SavedDataset = None,
    data: Data = Path("data"),
    download: Download = False,
    onnx: Annotated[
        Path | None, typer.Option(help="An exported file, to be run beside the checkpoint.")
    ] = None,
    threads: Threads = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a checkpoint's accuracy on held-out images, and that of its exported file.

    Example: python -m training evaluate runs/wrn20-10-1bit-digits/checkpoint.pth.tar
    """
    del debug
    from training.evaluation import evaluate_checkpoint

    record = evaluate_checkpoint(
        checkpoint,
        dataset=dataset,
        root=data,
        download=download,
        onnx=onnx,
        threads=_threads(threads, dataset or "digits"),
    )
    if json:
        print_json(record)
        return
    for name, value in record.items():
        text = f"{value:.2%}" if isinstance(value, float) else str(value)
        _row(name.replace("_", " "), text)


def main() -> None:
    """Entry point: every failure is one line on stderr and an exit code."""
    run(app)


def _refuse_idle_teacher(plan: Recipe, teacher: Path | None) -> None:
    if teacher is None or any(s.loss == "distillation" for s in plan.stages.values()):
        return
    raise InputError(
        f"recipe {plan.name} learns from no teacher",
        got=f"--teacher {teacher}",
        expected='a recipe with loss = "distillation" in a stage',
        fix="Leave --teacher out, or name another --recipe.",
    )


def _open(plan: Recipe | QuantizePlan, data: Path, download: bool, limit: int | None) -> ImageData:
    from training.datasets import DataOptions, open_data

    options = DataOptions(plan.dataset, data, download, plan.input_shape, plan.augmentation, limit)
    return open_data(options)


def _threads(asked: int | None, dataset: str) -> int | None:
    return asked or (1 if dataset == "digits" else None)


def _device(asked: str) -> str:
    import torch

    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


def _leads() -> bool:
    """Whether this process speaks for all that torchrun started."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _print_run(record: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(record)
        return
    before = record.get("float32_accuracy")
    note = "" if before is None else f" (float32: {before:.2%})"
    dataset = record["dataset"]
    _row("accuracy", f"{record['test_accuracy']:.2%} of the held-out images of {dataset}{note}")
    whose = " by the network of full size" if dataset == "digits" else ""
    for what, value in record.get("reported", {}).items():
        _row("reported", f"{value} on {what}{whose}")
    path = Path(record["checkpoint"])
    _row("checkpoint", f"{path}, {size(path.stat().st_size)}, in {record['seconds']:.0f} s")
    _row("export it", f"bitexport onnx {path} -o model.onnx")


def _row(name: str, text: str) -> None:
    stdout.print(f"[bold]{name:>14}[/bold]  ", end="")
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)
