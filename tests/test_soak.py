"""Memory of a long run stays flat, and answers stay the same, in many sessions at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# As the Makefile has it.
PATHS = os.pathsep.join(str(ROOT / folder) for folder in ("tests", ".", "plugins/scripts"))


def test_two_thousand_inferences() -> None:
    """`make soak` runs five times as many."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the memory in use from /proc")
    outcome = subprocess.run(
        [sys.executable, "-m", "soak", "--count", "2000"],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PATHS}, timeout=600,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout.startswith("2000 inferences in 6 sessions")
