"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and recorded outputs; tests that need it skip without."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("BITEXPORT_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real checkpoints at {folder}; set BITEXPORT_SHARED to their folder")
    return folder
