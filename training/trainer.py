"""The training loop: every recipe, one process or many.

An epoch's order and augmentation follow from the seed and its number alone, and after each epoch
the run writes all that the next one needs. So a run that was killed goes on where its last whole
epoch ended, and comes out as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

from bitexport.errors import InputError, RuntimeFailure
from bitexport.families import load
from training.batches import Sharding, training_batches
from training.checkpoints import Description, load_resume, save_checkpoint, save_resume
from training.datasets import ImageData
from training.engine import make_fabric, set_determinism
from training.logs import EpochReport, RunLog, make_folder, show_progress
from training.networks import build
from training.prediction import predict
from training.recipe import Recipe, Stage
from training.schedules import learning_rate, make_optimizer
from training.systems import SYSTEMS, System

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Outcome", "RunOptions", "threads", "train"]

# Their readers keep the latent weights, so a file of theirs can be trained on.
_CONTINUED = ("wide-resnet", "bireal", "reactnet", "xnor-net", "resnet")

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RunOptions:
    """How to run a recipe; nothing here belongs to the method.

    Attributes:
        out: Folder for the checkpoint, the log, and what resuming needs.
        seed: Of the initial weights, the order of the images and their augmentation.
        precision: See ``training.engine``.
        device: See ``training.engine``.
        workers: Processes that load images.
        accumulate: Parts in which a process runs its share of a batch.
        deterministic: Let torch refuse kernels that do not repeat bit for bit.
        resume: Go on where an earlier run in ``out`` stopped.
        threads: Of torch on a CPU; None leaves torch's.
        teacher: A checkpoint to distil from.
        start: A checkpoint of the same network to start from.
    """

    out: Path
    seed: int = 0
    precision: str = "float32"
    device: str = "auto"
    workers: int = 0
    accumulate: int = 1
    deterministic: bool = False
    resume: bool = False
    threads: int | None = None
    teacher: Path | None = None
    start: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """A trained network.

    Attributes:
        model: In evaluation mode, with its estimators.
        checkpoint: Its file.
        test_accuracy: Share of the held-out images that it predicts right.
        reports: Of the epochs that this run trained.
        seconds: Wall time.
    """

    model: nn.Module
    checkpoint: Path
    test_accuracy: float
    reports: tuple[EpochReport, ...]
    seconds: float


def train(recipe: Recipe, data: ImageData, options: RunOptions) -> Outcome:
    """Train a recipe, and write a checkpoint that ``bitexport onnx`` takes.

    Raises:
        InputError: Recipe, options and files do not fit together.
        RuntimeFailure: The loss is no longer finite, or the machine lacks something.
    """
    fabric = make_fabric(options.precision, options.device)
    set_determinism(options.deterministic)
    with threads(options.threads):
        return _Run(recipe, data, options, fabric).train()


class _Run:
    def __init__(
        self, recipe: Recipe, data: ImageData, options: RunOptions, fabric: Fabric
    ) -> None:
        self.recipe, self.data, self.options, self.fabric = recipe, data, options, fabric
        self.system: System = SYSTEMS[recipe.network.family]()
        torch.manual_seed(options.seed)
        self.model = _fresh_model(recipe, data, options, self.system).to(fabric.device)
        self.model.to(memory_format=torch.channels_last)  # the faster layout on a CPU
        sharding = Sharding(
            recipe.batch_size,
            rank=fabric.global_rank,
            world=fabric.world_size,
            accumulate=options.accumulate,
        )
        self.loader, self.sampler = training_batches(
            data.train, sharding, seed=options.seed, workers=options.workers
        )
        self.loss_of = {
            name: _loss(stage, recipe, options) for name, stage in recipe.stages.items()
        }
        self.checkpoint = options.out / "checkpoint.pth.tar"
        self.reports: list[EpochReport] = []

    def train(self) -> Outcome:
        started = time.perf_counter()
        make_folder(self.options.out)
        record = self._interrupted()
        first_stage, first_epoch, rows = (
            (record["stage"], record["epoch"], record["rows"]) if record else (0, 0, 0)
        )
        totals = [stage.epochs * self.sampler.steps for stage in self.recipe.stages.values()]
        done = rows * self.sampler.steps
        leads = self.fabric.is_global_zero
        log = RunLog(self.options.out, rows) if leads else nullcontext()
        with log as writer, show_progress(totals, done, visible=leads) as progress:
            for index, (name, stage) in enumerate(self.recipe.stages.items()):
                if index < first_stage:
                    continue
                resumed = record if index == first_stage else None
                epoch = first_epoch if resumed else 0
                for report in self._stage(index, name, stage, epoch, resumed, progress):
                    self.reports.append(report)
                    progress.epoch(report)
                    if writer is not None:
                        writer.add(report)
                    rows += 1
                    self._save(index, report, rows)
        self.model.eval()
        return Outcome(
            model=self.model,
            checkpoint=self.checkpoint,
            test_accuracy=self.reports[-1].test_accuracy if self.reports else self._test(),
            reports=tuple(self.reports),
            seconds=time.perf_counter() - started,
        )

    def _stage(
        self,
        index: int,
        name: str,
        stage: Stage,
        epoch: int,
        resumed: dict[str, Any] | None,
        progress: Any,  # noqa: ANN401
    ) -> Iterator[EpochReport]:
        """The epochs of a stage, each trained when its report is asked for."""
        binary_weights, binary_inputs = stage.weights == "binary", stage.activations == "binary"
        self.system.prepare(self.model, weights=binary_weights, activations=binary_inputs)
        self.model.to(self.fabric.device)
        optimizer = make_optimizer(self.model, stage)
        wrapped, self.optimizer = self.fabric.setup(self.model, optimizer)
        if resumed is not None:
            self.model.load_state_dict(resumed["model"])
            self.optimizer.load_state_dict(resumed["optimizer"])
            self.fabric.strategy.precision.load_state_dict(resumed["precision"])
        elif stage.weights == "binary":
            self.system.after_step(self.model)
        before = sum(s.epochs for s in [*self.recipe.stages.values()][:index])
        for number in range(epoch, stage.epochs):
            self.sampler.epoch = before + number
            torch.manual_seed(
                self.options.seed + 1009 * (before + number) + self.fabric.global_rank
            )
            yield self._epoch(name, stage, number, wrapped, progress)

    def _epoch(
        self,
        name: str,
        stage: Stage,
        epoch: int,
        wrapped: Any,  # noqa: ANN401
        progress: Any,  # noqa: ANN401
    ) -> EpochReport:
        started = time.perf_counter()
        self.constrained = stage.weights == "binary"
        self.system.begin_epoch(self.model, stage, epoch)
        wrapped.train()
        batches = iter(self.loader)
        # Loss, right predictions and images of this process.
        sums = torch.zeros(3, dtype=torch.float64)
        rate = 0.0
        for step in range(self.sampler.steps):
            rate = learning_rate(stage, epoch, step / self.sampler.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            sums += self._step(batches, wrapped, self.loss_of[name])
            progress.step(float(sums[0] / sums[2]), float(sums[1] / sums[2]))
        total = self._over_processes(sums)
        _require_finite(float(total[0]), name, epoch)
        return EpochReport(
            stage=name,
            epoch=epoch + 1,
            epochs=stage.epochs,
            loss=float(total[0] / total[2]),
            accuracy=float(total[1] / total[2]),
            test_accuracy=self._test(),
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )

    def _step(
        self,
        batches: Iterator[Any],
        wrapped: Any,  # noqa: ANN401
        loss_of: Loss,
    ) -> Tensor:
        """One step of the optimizer, over all parts of this process's share of the batch."""
        sums = torch.zeros(3, dtype=torch.float64)
        parts = self.options.accumulate
        self.optimizer.zero_grad()
        for part in range(parts):
            images, labels = (t.to(self.fabric.device) for t in next(batches))
            waits = self.fabric.world_size > 1 and part < parts - 1
            with self.fabric.no_backward_sync(wrapped) if waits else nullcontext():
                logits = wrapped(images)
                loss = loss_of(logits, images, labels)
                self.fabric.backward(loss / parts)
            right = int((logits.detach().argmax(dim=1) == labels).sum())
            sums += torch.tensor([loss.item() * len(labels), right, len(labels)])
        self.optimizer.step()
        if self.constrained:
            self.system.after_step(self.model)
        return sums

    def _test(self) -> float:
        if self.fabric.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        rank, world = self.fabric.global_rank, self.fabric.world_size
        test: Any = self.data.test
        share = Subset(test, range(rank, len(test), world))
        logits, labels = predict(self.model, share, self.fabric.device)
        right = int((logits.argmax(dim=1) == labels).sum())
        counts = torch.tensor([right, len(labels)], dtype=torch.float64)
        right_of_all, seen = self._over_processes(counts).tolist()
        return float(right_of_all / seen)

    def _over_processes(self, sums: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(sums, reduce_op="sum"))

    def _save(self, index: int, report: EpochReport, rows: int) -> None:
        if not self.fabric.is_global_zero:
            return
        save_checkpoint(self.checkpoint, self.model, self._description(report.stage), rows)
        record = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "stage": index,
            "epoch": report.epoch,
            "rows": rows,
        }
        save_resume(self.options.out / "resume.pt", record, self._fingerprint())

    def _description(self, stage: str) -> Description:
        return Description(
            family=self.recipe.network.family,
            arch=self.recipe.network.arch,
            binary=self.recipe.stages[stage].weights == "binary",
            input_shape=self.recipe.input_shape,
            preprocessing=self.data.preprocessing,
        )

    def _interrupted(self) -> dict[str, Any] | None:
        path = self.options.out / "resume.pt"
        if not self.options.resume or not path.exists():
            return None
        return load_resume(path, self._fingerprint())

    def _fingerprint(self) -> str:
        """Of all that the result depends on."""
        options = self.options
        # BatchNorm sees the parts of a batch apart, whoever runs them.
        cut = options.accumulate * self.fabric.world_size
        data = (self.sampler.images, self.data.preprocessing)
        origin = (options.seed, options.precision, options.teacher, options.start)
        parts = (self.recipe, *origin, cut, *data)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads meanwhile.

    The convolutions of a small network are too short to share: a second thread saves a third of
    the time while both cores are idle, and costs five times as much once other work keeps them
    busy. With one thread the result does not depend on the number of cores, either.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fresh_model(recipe: Recipe, data: ImageData, options: RunOptions, system: System) -> nn.Module:
    model = build(
        recipe.network,
        data.classes,
        input_shape=recipe.input_shape,
        binary=recipe.binary_weights,
    )
    system.initialize(model)
    if options.start is None:
        return model
    loaded = load(options.start)
    state, own = loaded.module.state_dict(), model.state_dict()
    fits = state.keys() == own.keys() and all(state[k].shape == own[k].shape for k in own)
    if loaded.family != recipe.network.family or loaded.family not in _CONTINUED or not fits:
        raise InputError(
            f"cannot start from {options.start}",
            got=f"{loaded.family} {loaded.arch}",
            expected=f"a network like {recipe.network.arch}, of {' or '.join(_CONTINUED)}",
            fix="Name another --start, or leave it out.",
        )
    model.load_state_dict(state)
    return model


def _loss(stage: Stage, recipe: Recipe, options: RunOptions) -> Loss:
    """The loss of a stage: (logits, images, labels) -> scalar.

    Distillation is the cross-entropy with the teacher's distribution, as ReActNet trains.
    """
    if stage.loss == "cross-entropy":
        smoothing = stage.label_smoothing
        return lambda logits, images, labels: F.cross_entropy(
            logits, labels, label_smoothing=smoothing
        )
    if options.teacher is None:
        raise InputError(
            "this recipe learns from a teacher",
            got="none",
            expected="the checkpoint of a float32 network for the same images",
            fix="Train one, python -m training train --recipe resnet18 --out teacher, and name it: "
            "--teacher teacher/checkpoint.pth.tar",
        )
    loaded = load(options.teacher)
    if loaded.input_shape != recipe.input_shape:
        raise InputError(
            f"{options.teacher} teaches other images",
            got=f"{loaded.input_shape} of {loaded.arch}",
            expected=f"{recipe.input_shape}",
            fix="Train a teacher on images of this size.",
        )
    teacher = loaded.module

    def distil(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        del labels
        with torch.no_grad():
            target = teacher.to(images.device)(images).softmax(dim=1)
        return F.cross_entropy(logits, target)

    return distil


def _require_finite(loss: float, stage: str, epoch: int) -> None:
    if not math.isfinite(loss):
        raise RuntimeFailure(
            f"training diverged in epoch {epoch + 1} of stage {stage}",
            got=f"a loss of {loss}",
            expected="a finite loss",
            fix="Lower the learning rate, or try another seed.",
        )
