"""From whatever a training script saved to one flat mapping with dotted keys.

{"state_dict": {...}, "optimizer": ...}    -> the state dict; scalars beside it are metadata
{"conv1.weight": tensor, ...}              -> as it is
{"layer1.0.conv1": {"centroids": tensor, "n_blocks": 32}, ...}
                                           -> layer1.0.conv1.centroids, layer1.0.conv1.n_blocks
module.*, _orig_mod.*                      -> without the prefix, where every tensor has it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeAlias

import torch

from bitexport.checkpoint.refusal import decline, refuse, shown

__all__ = ["Scalar", "Values", "flatten_state"]

Scalar: TypeAlias = bool | int | float | str
Values: TypeAlias = dict[str, torch.Tensor | Scalar]

# In order of preference, should a file have several.
_STATE_KEYS: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
)
# What training keeps for itself; it may hold tensors.
_IGNORED_STEMS: Final = ("optim", "scheduler", "lr_scheduler", "scaler", "amp", "rng", "ema")
_WRAPPERS: Final = ("module.", "_orig_mod.")
_DEEPEST = 8
_MOST_VALUES = 1_000_000
_SAVE_STATE = "Save the state dict: torch.save(model.state_dict(), PATH)."


def flatten_state(root: object, path: Path) -> tuple[Values, dict[str, Scalar]]:
    """Find the weights in what a file holds.

    Args:
        root: The loaded object.
        path: The name for messages.

    Returns:
        The weights (tensors, and scalars that belong to layers) by dotted key, and the scalars
        that stood beside them; a tensor of one element beside the weights counts as a scalar.

    Raises:
        InputError: Two values have the same flat key, or there are absurdly many.
        UnsupportedModel: There are no weights, they are complex, or they are arranged in an unknown
            way.
    """
    if not isinstance(root, dict):
        raise decline(
            path,
            "holds no state dict",
            got=f"a {type(root).__name__}",
            expected="a dict of tensors",
            fix=_SAVE_STATE,
        )
    state_key = next((key for key in _STATE_KEYS if _holds_tensors(dict.get(root, key))), None)
    beside: dict[Any, Any]
    if state_key is None:
        state, beside = _split(root)
    else:
        state = root[state_key]
        # Not .items(): a pickle may hang attributes on an OrderedDict that hide its methods.
        beside = {key: value for key, value in dict.items(root) if key != state_key}
    values: Values = {}
    _flatten(path, values, state, "", 0)
    if not any(isinstance(value, torch.Tensor) for value in values.values()):
        raise decline(
            path,
            "holds no weights",
            got=f"the keys {shown(', '.join(map(str, list(root)[:8]))) or 'of an empty dict'}",
            expected="a state dict, flat or under a key such as 'state_dict'",
            fix=_SAVE_STATE,
        )
    return _unwrap(path, values), _metadata(beside)


def _holds_tensors(value: object) -> bool:
    """Directly, or one level below as in {layer: {centroids, assignments}}."""
    if not isinstance(value, dict):
        return False
    return any(
        isinstance(inner, torch.Tensor)
        or (
            isinstance(inner, dict) and any(isinstance(x, torch.Tensor) for x in dict.values(inner))
        )
        for inner in dict.values(value)
    )


def _split(root: dict[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """A root that is itself the state: its plain scalars, and training's own, are beside it."""
    state: dict[Any, Any] = {}
    beside: dict[Any, Any] = {}
    for key, value in dict.items(root):
        aside = isinstance(value, dict) and str(key).lower().startswith(_IGNORED_STEMS)
        loose = isinstance(value, (bool, int, float, str)) and "." not in str(key)
        (beside if aside or loose else state)[key] = value
    return state, beside


def _flatten(path: Path, values: Values, state: dict[Any, Any], prefix: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise decline(
            path,
            "its weights are nested too deeply",
            got=f"more than {_DEEPEST} levels",
            expected="a flat state dict",
            fix=_SAVE_STATE,
        )
    for key, value in dict.items(state):
        if not isinstance(key, str):
            raise decline(
                path,
                "a weight has no name",
                got=f"the key {shown(repr(key))} below '{shown(prefix)}'",
                expected="keys that are text",
                fix=_SAVE_STATE,
            )
        if isinstance(value, dict):
            _flatten(path, values, value, f"{prefix}{key}.", depth + 1)
        elif isinstance(value, (torch.Tensor, bool, int, float, str)):
            _add(path, values, prefix + key, value)


def _add(path: Path, values: Values, key: str, value: torch.Tensor | Scalar) -> None:
    if key in values:
        raise refuse(path, f"has '{shown(key)}' twice", got="two values", expected="one")
    if len(values) >= _MOST_VALUES:
        raise refuse(path, "has too many values", got=f"over {_MOST_VALUES}", expected="a model")
    if isinstance(value, torch.Tensor) and value.is_complex():
        # torch would take its real part, with nothing but a warning.
        raise decline(
            path,
            f"'{shown(key)}' holds complex numbers",
            got=str(value.dtype),
            expected="real weights",
            fix="Convert the weights first.",
        )
    values[key] = value.detach() if isinstance(value, torch.Tensor) else value


def _unwrap(path: Path, values: Values) -> Values:
    """Strip what DataParallel and torch.compile put before every key, however often."""
    tensors = [key for key, value in values.items() if isinstance(value, torch.Tensor)]
    start = 0
    while wrapper := next(
        (w for w in _WRAPPERS if all(key.startswith(w, start) for key in tensors)), None
    ):
        start += len(wrapper)
    stripped: Values = {}
    common = tensors[0][:start]
    for key, value in values.items():
        _add(path, stripped, key.removeprefix(common), value)
    return stripped


def _metadata(beside: dict[Any, Any]) -> dict[str, Scalar]:
    metadata: dict[str, Scalar] = {}
    for key, value in beside.items():
        scalar = value
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            scalar = value.item()
        if isinstance(key, str) and isinstance(scalar, (bool, int, float, str)):
            metadata[key] = scalar
    return metadata
