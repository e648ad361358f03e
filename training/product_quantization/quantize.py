"""Quantize a ResNet: layer by layer with the layers behind still real, then as a whole.

Stock et al., sections 3.2 and 3.3. For each layer, from the first to the last: sample its inputs
in the network as quantized so far, fit a codebook, and finetune the centroids so that the network
predicts what the real one predicts. Then finetune all centroids, with BatchNorm's statistics
moving along. The first convolution, BatchNorm and biases stay as they are.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from bitexport.errors import RuntimeFailure
from bitexport.families import LoadedModel
from bitexport.families.packed import packed_state
from bitexport.files import write_atomically
from bitexport.layers import CodebookConv2d, CodebookLinear
from training.batches import Sharding, training_batches
from training.checkpoints import Description
from training.datasets import ImageData
from training.logs import EpochReport, RunLog, make_folder, show_progress
from training.prediction import accuracy, predict
from training.product_quantization.em import Quantized, quantize_blocks
from training.product_quantization.layers import (
    Dense,
    block_inputs,
    codebook_layer,
    codebook_size,
    fold_batch_norm,
)
from training.product_quantization.plan import QuantizePlan

__all__ = ["QuantizeOptions", "QuantizeOutcome", "quantize"]

# Images whose windows are cut out in one iteration of the EM.
_DRAWN_IMAGES = 16


@dataclass(frozen=True)
class QuantizeOptions:
    """How to run; nothing here belongs to the method.

    Attributes:
        out: Folder for the checkpoint and the log.
        arch: Name of the ResNet.
        seed: Of the EM, and of order and augmentation.
        device: Of torch.
    """

    out: Path
    arch: str
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class QuantizeOutcome:
    """A quantized network.

    Attributes:
        model: In evaluation mode, with float16 values, as the file holds them.
        checkpoint: Its file, in the layout of kill-the-bits.
        test_accuracy: Share of the held-out images that it predicts right.
        real_accuracy: The same for the network that it was made from.
        resolved: Empty clusters that were filled.
        seconds: Wall time.
    """

    model: nn.Module
    checkpoint: Path
    test_accuracy: float
    real_accuracy: float
    resolved: int
    seconds: float


def quantize(
    real: nn.Module, data: ImageData, plan: QuantizePlan, options: QuantizeOptions
) -> QuantizeOutcome:
    """Quantize a trained ResNet of torchvision's layout, and write its checkpoint.

    Args:
        real: The trained network; not changed.
        data: What it was trained on.
        plan: The method's settings.
        options: How to run.

    Raises:
        UnsupportedModel: A layer cannot be cut into blocks.
        RuntimeFailure: The finetuning diverged.
    """
    started = time.perf_counter()
    make_folder(options.out)
    torch.manual_seed(options.seed)
    run = _Run(real, data, plan, options)
    with RunLog(options.out, 0) as log, show_progress(run.totals, 0, visible=True) as progress:
        for report in run.reports(progress):
            log.add(report)
            progress.epoch(report)
    model = run.finished()
    checkpoint = options.out / "checkpoint.pth.tar"
    _save(checkpoint, model, data, plan, options)
    return QuantizeOutcome(
        model=model,
        checkpoint=checkpoint,
        test_accuracy=_test(model, data, options.device),
        real_accuracy=_test(run.teacher, data, options.device),
        resolved=run.resolved,
        seconds=time.perf_counter() - started,
    )


class _Run:
    def __init__(
        self, real: nn.Module, data: ImageData, plan: QuantizePlan, options: QuantizeOptions
    ) -> None:
        self.data, self.plan, self.options = data, plan, options
        self.teacher = copy.deepcopy(real).to(options.device).eval()
        self.student = copy.deepcopy(self.teacher)
        self.generator = torch.Generator().manual_seed(options.seed)
        loader, self.sampler = training_batches(
            data.train, Sharding(plan.batch_size), seed=options.seed
        )
        self.batches = self._endless(loader)
        dense = [n for n, m in self.student.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self.layers = dense[1:]
        self.totals = [len(self.layers) * plan.layer_steps, plan.whole_epochs * self.sampler.steps]
        self.resolved = 0

    def reports(self, progress: Any) -> Iterator[EpochReport]:  # noqa: ANN401
        """Quantize; a report for each layer and for each epoch at the end."""
        plan = self.plan
        for number, name in enumerate(self.layers, start=1):
            started = time.perf_counter()
            layer = self._quantize_layer(name)
            optimizer = self._sgd([layer.codebook], plan.layer_learning_rate)
            # BatchNorm keeps its statistics while one layer moves.
            self.student.eval()
            sums = self._finetune(optimizer, plan.layer_steps, progress)
            position = (number, len(self.layers))
            yield self._report(name, position, sums, plan.layer_learning_rate, started)
        codebooks = [
            m.codebook
            for m in self.student.modules()
            if isinstance(m, CodebookConv2d | CodebookLinear)
        ]
        optimizer = self._sgd(codebooks, plan.whole_learning_rate)
        for epoch in range(plan.whole_epochs):
            started = time.perf_counter()
            rate = plan.whole_learning_rate * 0.1 ** (epoch // plan.whole_decay_every)
            for group in optimizer.param_groups:
                group["lr"] = rate
            self.student.train()
            sums = self._finetune(optimizer, self.sampler.steps, progress)
            yield self._report("whole", (epoch + 1, plan.whole_epochs), sums, rate, started)

    @torch.no_grad()
    def finished(self) -> nn.Module:
        """The network as its file holds it: float16 where kill-the-bits has float16."""
        model = self.student.cpu().eval()
        fold_batch_norm(model)
        for layer in model.modules():
            if isinstance(layer, CodebookConv2d | CodebookLinear):
                layer.codebook.copy_(layer.codebook.half())
            elif isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.half())
        return model

    def _quantize_layer(self, name: str) -> CodebookConv2d | CodebookLinear:
        layer: Dense = self.student.get_submodule(name)  # type: ignore[assignment]
        block = self.plan.blocks.block_size(name, layer)
        inputs = self._inputs_of(layer)

        def sample() -> Tensor:
            images = torch.randperm(len(inputs), generator=self.generator)[:_DRAWN_IMAGES]
            drawn = inputs if inputs.dim() == 2 else inputs[images.to(inputs.device)]
            return block_inputs(layer, drawn, block, self.plan.rows)

        result: Quantized = quantize_blocks(
            layer.weight.detach().reshape(-1, block),
            sample,
            codebook_size(self.plan.blocks, layer, block),
            self.plan.em_iterations,
            self.generator,
        )
        self.resolved += result.resolved
        new = codebook_layer(layer, result.codebook, result.codes)
        parent, _, attribute = name.rpartition(".")
        setattr(self.student.get_submodule(parent), attribute, new)
        return new

    @torch.no_grad()
    def _inputs_of(self, layer: nn.Module) -> Tensor:
        """What the layer sees for images of the training set, in evaluation mode."""
        seen: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        self.student.eval()
        train: Any = self.data.train
        count = min(self.plan.activation_images, len(train))
        chosen = torch.randperm(len(train), generator=self.generator)[:count].tolist()
        for images, _ in DataLoader(Subset(train, chosen), batch_size=self.plan.batch_size):
            self.student(images.to(self.options.device))
        handle.remove()
        return torch.cat(seen)

    def _finetune(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int,
        progress: Any,  # noqa: ANN401
    ) -> Tensor:
        """Distil; the sums of loss, right predictions and images."""
        sums = torch.zeros(3, dtype=torch.float64)
        for _ in range(steps):
            images, labels = (t.to(self.options.device) for t in next(self.batches))
            with torch.no_grad():
                target = self.teacher(images).softmax(dim=1)
            logits = self.student(images)
            loss = F.kl_div(logits.log_softmax(dim=1), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            right = int((logits.detach().argmax(dim=1) == labels).sum())
            sums += torch.tensor([loss.item() * len(labels), right, len(labels)])
            progress.step(float(sums[0] / sums[2]), float(sums[1] / sums[2]))
        return sums

    def _report(
        self, name: str, position: tuple[int, int], sums: Tensor, rate: float, started: float
    ) -> EpochReport:
        if not bool(torch.isfinite(sums).all()):
            raise RuntimeFailure(
                f"finetuning diverged at {name}",
                got=f"a loss of {float(sums[0])}",
                expected="a finite loss",
                fix="Lower the learning rates of the plan.",
            )
        images = max(1.0, float(sums[2]))
        return EpochReport(
            stage=name,
            epoch=position[0],
            epochs=position[1],
            loss=float(sums[0]) / images,
            accuracy=float(sums[1]) / images,
            test_accuracy=_test(self.student, self.data, self.options.device),
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )

    def _sgd(self, parameters: list[nn.Parameter], rate: float) -> torch.optim.SGD:
        self.student.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        plan = self.plan
        return torch.optim.SGD(
            parameters, lr=rate, momentum=plan.momentum, weight_decay=plan.weight_decay
        )

    def _endless(self, loader: Any) -> Iterator[Any]:  # noqa: ANN401
        while True:
            yield from loader
            self.sampler.epoch += 1


def _test(model: nn.Module, data: ImageData, device: str) -> float:
    return accuracy(*predict(model, data.test, device if _is_on(model, device) else "cpu"))


def _is_on(model: nn.Module, device: str) -> bool:
    return next(model.parameters()).device.type == device


def _save(
    path: Path, model: nn.Module, data: ImageData, plan: QuantizePlan, options: QuantizeOptions
) -> None:
    description = Description(
        family="kill-the-bits",
        arch=options.arch,
        binary=False,
        input_shape=plan.input_shape,
        preprocessing=data.preprocessing,
    )
    loaded = LoadedModel(model, "kill-the-bits", options.arch, plan.input_shape)
    buffer = io.BytesIO()
    torch.save({**packed_state(loaded), **description.scalars()}, buffer)
    write_atomically(path, buffer.getvalue())
