"""A container's share of the processors, as control groups of both versions state it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitexport.cli.libraries import shares

V1 = "3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n"
V2 = "0::/system.slice/own.service\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {"cpu.max": "150000 100000\n"}, [1.5]),  # in a container: its own is the root
        (V2, {"system.slice/own.service/cpu.max": "max 100000\n"}, []),
        (
            V2,
            {"system.slice/own.service/cpu.max": "8 4", "system.slice/cpu.max": "50000 100000"},
            [2, 0.5],
        ),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "9"}, []),
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            [4],
        ),
        (V1, {"cpuset/cpu.max": "100000 100000"}, []),  # not the controller
        ("", {"cpu.max": "100000 100000"}, []),
        (V2, {"cpu.max": "100000 0"}, []),
        (V2, {"cpu.max": "garbled"}, []),
        ("garbled\n", {}, []),
    ],
)
def test_shares(tmp_path: Path, groups: str, files: dict[str, str], expected: list[float]) -> None:
    (tmp_path / "own").write_text(groups)
    write(tmp_path / "groups", files)
    assert list(shares(tmp_path / "groups", tmp_path / "own")) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert list(shares(tmp_path / "none", tmp_path / "neither")) == []
