"""Options of ``bitexport.export`` that cannot be meant, and sources that cannot be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitexport
from bitexport import ExportOptions, LoadOptions
from bitexport.errors import InputError
from bitexport.export_options import asked_options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zero_weights", "plus_one"),
        ("zero_weights", None),
        ("zero_activations", "never"),
        ("dense_weights", "int4"),
        ("float16", "yes"),
        ("plain", "no"),
        ("verify", None),
        ("float16", np.True_),
        ("float16", np.array([True, False])),
    ],
)
def test_a_misspelt_option_is_refused(name: str, value: object) -> None:
    """It would be taken for the usual one."""
    options: Any = {name: value}
    with pytest.raises(InputError, match=f"wrong option {name}") as caught:
        ExportOptions(**options)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["weights", "activations"])
def test_so_is_one_of_loading(name: str) -> None:
    options: Any = {name: "real"}
    with pytest.raises(InputError, match=f"load.{name} .*expected 'auto' or 'binary' or 'float'"):
        ExportOptions(load=LoadOptions(**options))


def test_only_what_was_asked_is_written_down() -> None:
    assert asked_options(ExportOptions()) == {}
    asked = ExportOptions(dense_weights="int8", input_size=(32, 48), verify=False)
    assert asked_options(asked) == {
        "dense_weights": "int8",
        "input_size": (32, 48),
        "verify": False,
    }


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (nn.Linear(2, 2).state_dict(), "a value of type OrderedDict"),
        (nn.Linear, "the class Linear"),
        (None, "a value of type NoneType"),
    ],
)
def test_what_is_no_source(source: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to export") as caught:
        bitexport.export(source, torch.zeros(1, 2), tmp_path / "m.onnx")
    assert named in str(caught.value)
