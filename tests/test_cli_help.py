"""Help and shell completion: the same shape for every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

from bitexport.cli import app

COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_gives_an_example_and_names_the_common_options(name: str) -> None:
    outcome = run(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", outcome.out).split())
    assert f"Example: bitexport {name}" in text
    for option in ("--json", "--debug"):
        assert option in text


def test_without_a_command_the_help_comes_once() -> None:
    outcome = run()
    assert outcome.code == 2
    assert (outcome.out + outcome.err).count("Usage:") == 1


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"doctor"}))
def test_a_command_without_its_file_is_an_error_like_any_other(name: str) -> None:
    outcome = run(name)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: wrong usage (got Missing argument")
    assert outcome.err.count("\n") == 1


def test_short_help_is_the_long_one() -> None:
    assert run("-h").out == run("--help").out


def test_the_completion_of_bash_knows_every_command(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("bitexport")
    if not program.is_file():
        pytest.skip("the package's program is not installed beside this Python")
    outcome = subprocess.run(
        [program],
        env={
            **os.environ,
            "_BITEXPORT_COMPLETE": "complete_bash",
            "COMP_WORDS": "bitexport ",
            "COMP_CWORD": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(COMMANDS) <= set(outcome.stdout.split())
