"""The commands in the README and the docs run as they stand there, in one folder, in order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CLASSES, export_kind, run
from PIL import Image
from test_qonnx import Network, typical

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/benchmark.md", "docs/triton.md")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.S | re.M)
# What a test adds: no waiting for steady times.
QUICK = {"bench": ("--duration", "0")}
# CIFAR's archive and the plugin library are not at hand; tests/test_eval.py and test_triton.py run
# these commands on stand-ins.
ELSEWHERE = (
    "bitexport eval model.onnx --dataset cifar10 --data DIR",
    "bitexport triton model.engine -o repository --served-from /models --max-batch 16",
)


def commands(page: str) -> list[str]:
    """Our commands in a page's shell blocks, without their comments."""
    lines = "\n".join(BLOCK.findall((ROOT / page).read_text())).splitlines()
    stripped = [line.partition(" #")[0].strip() for line in lines]
    return [line for line in stripped if line.startswith("bitexport ")]


def new_commands(page: str) -> list[str]:
    """Those of a page that no page before it has."""
    before = {line for other in PAGES[: PAGES.index(page)] for line in commands(other)}
    return [line for line in commands(page) if line not in before and line not in ELSEWHERE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the commands name."""
    root = tmp_path_factory.mktemp("docs")
    exported = export_kind(root, "trained")
    shutil.copy(exported.checkpoint, root / "checkpoint.pth.tar")
    for name in ("model.onnx", "other.onnx"):
        shutil.copy(exported.output, root / name)
    network = Network()
    network.save(root / "network.qonnx.onnx", typical(network))
    pixels = np.random.default_rng(3).integers(0, 256, (CLASSES, 40, 40, 3), dtype=np.uint8)
    for label, image in enumerate(pixels):
        (root / "imagenet" / "val" / f"class{label}").mkdir(parents=True)
        Image.fromarray(image).save(root / "imagenet" / "val" / f"class{label}" / "0.png")
    return root


def test_pages_have_commands() -> None:
    assert {line.split()[1] for page in PAGES for line in commands(page)} >= {
        *("onnx", "inspect", "verify", "pack", "bench", "eval", "triton", "doctor", "trt")
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # qonnx's, where it is installed
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run(
    folder: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    found = new_commands(page)
    assert found
    if any(line.startswith("bitexport trt ") or ".engine" in line for line in found):
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    for line in found:
        _, command, *arguments = shlex.split(line)
        outcome = run(command, *arguments, *QUICK.get(command, ()))
        assert outcome.code == 0, f"{line}\n{outcome.err}"
