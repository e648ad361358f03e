"""Recipes: how a system is trained, as small TOML files in ``training/recipes``.

A recipe has the hyperparameters of its paper (or of the authors' code, where it says more), and
the accuracies that they report. Its table ``[digits]`` says what changes for the small networks
that learn handwritten digits on a CPU:

    family = "bireal"
    arch = "birealnet18"
    [stages.binary]         stages are trained one after the other, each from the last one's end
    epochs = 256
    [digits]
    arch = "birealnet-1-1-1-1"
    [digits.stages.binary]
    epochs = 20
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from bitexport.errors import InputError
from training.networks import Architecture

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Recipe", "Stage", "load_recipe", "merged", "parse_toml", "recipe_names", "with_epochs"]

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Stage:
    """One run of an optimizer.

    Attributes:
        epochs: Passes over the data.
        optimizer: ``"sgd"`` or ``"adam"``.
        learning_rate: At the start (of each cycle).
        schedule: ``"cosine-restarts"``, ``"cosine"``, ``"linear"``, ``"steps"``, ``"constant"``.
        min_learning_rate: Where a cosine ends.
        first_cycle: Epochs of the first cycle of ``cosine-restarts``.
        milestones: Shares of the epochs at which ``steps`` divides the rate by ten.
        warmup_epochs: Epochs in which the rate grows linearly.
        momentum: Of SGD.
        weight_decay: L2 penalty.
        decay_latents: The penalty holds for the 1-bit layers' weights, too.
        loss: ``"cross-entropy"`` or ``"distillation"``, which needs a teacher.
        label_smoothing: Of the cross-entropy.
        weights: ``"binary"`` or ``"real"``.
        activations: ``"binary"`` or ``"real"``.
        slope_t: RBNN's t in the first and after the last epoch.
    """

    epochs: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    schedule: str = "cosine"
    min_learning_rate: float = 0.0
    first_cycle: int = 2
    milestones: tuple[float, ...] = ()
    warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_latents: bool = True
    loss: str = "cross-entropy"
    label_smoothing: float = 0.0
    weights: str = "binary"
    activations: str = "binary"
    slope_t: tuple[float, float] = (1e-2, 1e1)


_LISTS = {"milestones", "slope_t"}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adam"),
    "schedule": ("cosine-restarts", "cosine", "linear", "steps", "constant"),
    "loss": ("cross-entropy", "distillation"),
    "weights": ("binary", "real"),
    "activations": ("binary", "real"),
}


@dataclass(frozen=True)
class Recipe:
    """A recipe, for one data set.

    Attributes:
        name: Of its file.
        title: For people.
        paper: Its address.
        network: The architecture.
        dataset: The data set that the hyperparameters are meant for.
        input_shape: (C, H, W).
        augmentation: See ``training.datasets``.
        batch_size: Images a step.
        stages: By name, in order.
        reported: What was measured -> accuracy, as the paper or its code reports it.
    """

    name: str
    title: str
    paper: str
    network: Architecture
    dataset: str
    input_shape: tuple[int, int, int]
    augmentation: str
    batch_size: int
    stages: Mapping[str, Stage]
    reported: Mapping[str, str] = field(default_factory=dict)

    @property
    def binary_weights(self) -> bool:
        """Whether the weights are binary in the end."""
        return [*self.stages.values()][-1].weights == "binary"


def recipe_names() -> list[str]:
    """The recipes that come with the trainer."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_recipe(name: str, dataset: str | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: One of :func:`recipe_names`, or the path of a TOML file.
        dataset: What to train on; None takes the recipe's. ``"digits"`` takes its ``[digits]``.

    Raises:
        InputError: There is no such recipe, or it says something that makes no sense.
    """
    given = name.endswith(".toml") or Path(name).name != name
    path = Path(name) if given else _FOLDER / f"{name}.toml"
    table = parse_toml(path, name)
    small = table.pop("digits", {})
    chosen = dataset or table.get("dataset", "digits")
    if chosen == "digits":
        table = merged(table, small)
    return _recipe(path, {**table, "dataset": chosen})


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with as many epochs in each stage."""
    stages = {name: replace(stage, epochs=epochs) for name, stage in recipe.stages.items()}
    return replace(recipe, stages=stages)


def parse_toml(path: Path, name: str = "") -> dict[str, Any]:
    """The table of a recipe's file.

    Raises:
        InputError: It cannot be read; the message calls it ``name``.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"no recipe {name or path}",
            got=error.strerror or error,
            expected=f"a TOML file, or one of {', '.join(recipe_names())}",
            fix="Correct --recipe.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _senseless(path, error, "TOML") from error
    return table


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, table by table."""
    result = dict(base)
    for key, value in over.items():
        inner = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if inner else value
    return result


def _recipe(path: Path, table: dict[str, Any]) -> Recipe:
    stages = table.pop("stages", {})
    try:
        recipe = Recipe(
            name=path.stem,
            title=table.pop("title"),
            paper=table.pop("paper"),
            network=Architecture(table.pop("family"), table.pop("arch"), table.pop("width", None)),
            dataset=table.pop("dataset"),
            input_shape=tuple(table.pop("input_shape")),
            augmentation=table.pop("augmentation"),
            batch_size=table.pop("batch_size"),
            stages={name: _stage(path, name, stages[name]) for name in stages},
            reported=table.pop("reported", {}),
        )
    except KeyError as error:
        raise _senseless(path, f"no {error}", "every field of a recipe") from error
    if table or not stages:
        got = f"unknown {', '.join(table)}" if table else "no stages"
        raise _senseless(path, got, "the fields of a recipe, and at least one stage")
    return recipe


def _stage(path: Path, name: str, table: Mapping[str, Any]) -> Stage:
    known = {f.name for f in fields(Stage)}
    types = get_type_hints(Stage)
    for key, value in table.items():
        if key not in known:
            raise _senseless(path, f"{key} in stage {name}", " or ".join(sorted(known)))
        choices = _CHOICES.get(key)
        if choices is not None and value not in choices:
            raise _senseless(path, f"{key} = {value!r}", " or ".join(choices))
        wanted = list if key in _LISTS else types[key]
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise _senseless(path, f"{key} = {value!r}", f"a {wanted.__name__}")
    values: dict[str, Any] = dict(table)
    for key in _LISTS & values.keys():
        values[key] = tuple(values[key])
    return Stage(**values)


def _senseless(path: Path, got: object, expected: str) -> InputError:
    return InputError(
        f"recipe {path} makes no sense",
        got=str(got),
        expected=expected,
        fix="Correct the file; training/recipe.py lists the fields.",
    )
