"""Put a checkpoint's tensors into a module, with an error for every way that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel

__all__ = ["assign_state", "build_module", "require_finite", "rows_of"]

# BatchNorm counts its training steps; evaluation never looks at the count.
_DEAD_SUFFIXES = ("num_batches_tracked",)


def build_module(
    factory: Callable[[], nn.Module], state: Mapping[str, Tensor], *, optional: Iterable[str] = ()
) -> nn.Module:
    """Build an architecture and fill it, once its keys and shapes are known to fit.

    The check runs on a twin without storage, so that a forged shape allocates nothing.

    Args:
        factory: Builds the module.
        state: Tensor of each of the module's keys.
        optional: As for :func:`assign_state`.

    Raises:
        UnsupportedModel: As :func:`assign_state`.
    """
    with torch.device("meta"):
        twin = factory()
    _check_fit(twin, state, tuple(optional))
    module = factory()
    assign_state(module, state, optional=optional)
    return module


def assign_state(
    module: nn.Module, state: Mapping[str, Tensor], *, optional: Iterable[str] = ()
) -> None:
    """Copy ``state`` into ``module``, in float32 where the module's tensor is float32.

    Args:
        module: Changed in place.
        state: Tensor of each of the module's keys.
        optional: Suffixes of keys that may be missing, such as ``"running_mean"``; the
            module's initial value stays.

    Raises:
        UnsupportedModel: A key is missing or unknown, a shape differs, a value is not finite.
    """
    _check_fit(module, state, tuple(optional))
    with torch.no_grad():
        for key, target in module.state_dict().items():
            if key in state:
                _copy(key, state[key], target)


def _check_fit(module: nn.Module, state: Mapping[str, Tensor], optional: tuple[str, ...]) -> None:
    own = module.state_dict()
    may_miss = (*_DEAD_SUFFIXES, *optional)
    missing = [k for k in own if k not in state and not k.endswith(may_miss)]
    unknown = [k for k in state if k not in own and not k.endswith(_DEAD_SUFFIXES)]
    if missing or unknown:
        what, keys = ("lacks", missing) if missing else ("has unknown", unknown)
        raise UnsupportedModel(
            f"the checkpoint {what} tensors of this architecture",
            got=f"{len(missing)} missing and {len(unknown)} unknown, such as {keys[0][:80]!r}",
            expected=f"exactly the {len(own)} tensors of the architecture",
            fix="Check the file, or name another --arch; without it the file's own is taken.",
        )
    for key, target in own.items():
        if key in state and state[key].shape != target.shape:
            raise UnsupportedModel(
                f"tensor {key!r} has a wrong shape",
                got=list(state[key].shape),
                expected=list(target.shape),
                fix="Check the file, or name the architecture with --arch.",
            )


def _copy(key: str, value: Tensor, target: Tensor) -> None:
    require_finite(key, value)
    if value.is_complex() or (key.endswith("running_var") and bool((value < 0).any())):
        raise UnsupportedModel(
            f"tensor {key!r} holds impossible values",
            got="complex numbers" if value.is_complex() else "a negative variance",
            expected="real weights, and variances of at least 0",
            fix="The file is damaged; use another checkpoint.",
        )
    target.copy_(value)
    # A float64 can lie beyond float32's range.
    require_finite(key, target)


def rows_of(checkpoint: Checkpoint, key: str, *, dimensions: int) -> int:
    """Output channels of a layer of the file: the first dimension of its weight.

    Raises:
        UnsupportedModel: It is missing, or has another number of dimensions.
    """
    weight = checkpoint.tensor(key)
    if weight.dim() != dimensions or 0 in weight.shape:
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(weight.shape),
            expected=f"{dimensions} non-empty dimensions",
            fix="Check the file, or name the architecture with --arch.",
        )
    return int(weight.shape[0])


def require_finite(key: str, value: Tensor) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        UnsupportedModel: The tensor holds one.
    """
    bad = (
        int((~torch.isfinite(value)).sum())
        if value.is_floating_point() or value.is_complex()
        else 0
    )
    if bad:
        raise UnsupportedModel(
            f"tensor {key!r} is not finite",
            got=f"{bad} NaN or infinite values",
            expected="finite weights",
            fix="The file is damaged or its training diverged; use an earlier checkpoint.",
        )
