"""The code in the docs runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if blocks(page, "python")]


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:bitexport", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    outcome = run_python("\n".join(blocks(page, "python")), tmp_path)
    assert outcome.returncode == 0, outcome.stderr


def test_cpp_of_a_page_compiles(tmp_path: Path) -> None:
    include = os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime")
    if not (Path(include) / "onnxruntime_cxx_api.h").is_file():
        pytest.skip("no onnxruntime_cxx_api.h; set ONNXRUNTIME_INCLUDE to its folder")
    (code,) = blocks(DOCS / "onnxruntime.md", "cpp")
    source = tmp_path / "classify.cpp"
    source.write_text(code)
    flags = ["-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-isystem", include]
    subprocess.run(["c++", *flags, source], check=True)


def test_own_layers_export_exactly(tmp_path: Path) -> None:
    outcome = run_python("\n".join(blocks(DOCS / "own-layers.md", "python")), tmp_path)
    assert (tmp_path / "own.onnx").stat().st_size > 1000
    assert "ok=True" in outcome.stdout


def test_op_reference_is_the_table() -> None:
    printed = subprocess.run(
        [sys.executable, DOCS / "op_reference.py"], capture_output=True, text=True, check=True
    ).stdout
    assert (DOCS / "ops.md").read_text() == printed, "python docs/op_reference.py > docs/ops.md"


def test_every_family_has_a_page_with_its_name_and_paper() -> None:
    from bitexport.families import FAMILIES

    for family in FAMILIES:
        text = (DOCS / "families" / f"{family.name}.md").read_text()
        assert f"`{family.name}`" in text
        assert family.name == "resnet" or family.paper in text


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="no mkdocs-material; install the group docs")
    # With --quiet mkdocs counts no warnings, and --strict finds nothing.
    outcome = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "site" / "families" / "siman" / "index.html").is_file()


def test_readme_shows_the_two_commands_and_every_command_of_the_cli() -> None:
    from bitexport.cli import app

    text = (ROOT / "README.md").read_text()
    for line in ("make demo", "make test"):
        assert f"```sh\n{line}\n```" in text
    commands = [each.name or each.callback.__name__ for each in app.registered_commands]
    assert commands
    for name in commands:
        assert f"bitexport {name}" in text


def test_readme_names_every_family() -> None:
    from bitexport.families import FAMILIES

    text = (ROOT / "README.md").read_text()
    for family in FAMILIES:
        assert f"| `{family.name}` |" in text
