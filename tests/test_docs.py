"""The code in the docs runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
    outcome = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:bitexport", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "own.onnx").stat().st_size > 1000
    assert "ok=True" in outcome.stdout


def test_readme_shows_the_two_commands_and_every_command_of_the_cli() -> None:
    from bitexport.cli import app

    text = (ROOT / "README.md").read_text()
    for line in ("make demo", "make test"):
        assert f"```sh\n{line}\n```" in text
    commands = [command.callback.__name__ for command in app.registered_commands]
    assert commands
    for name in commands:
        assert f"bitexport {name}" in text


def test_readme_names_every_family() -> None:
    from bitexport.families import FAMILIES

    text = (ROOT / "README.md").read_text()
    for family in FAMILIES:
        assert f"| `{family.name}` |" in text
