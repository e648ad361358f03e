"""The rules of the house: who imports whom, what is public, how long a module may be."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitexport import errors
from bitexport.ops.bodies import function_for
from bitexport.ops.table import DOMAIN, OPS

PACKAGE = Path(errors.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# A room imports from lower ranks and from itself only; rooms of one rank not from each other.
RANKS = {
    "errors": 0,
    "packing": 1,
    "worker": 1,
    "spec": 2,
    "files": 2,
    "recordings": 2,
    "onnx_library": 2,
    "ops": 3,
    "checkpoint": 3,
    "layers": 3,
    "models": 4,
    "families": 5,
    "graph": 5,
    "runtimes": 5,
    "comparison": 6,
    "export_options": 6,
    "exporter": 7,
    "engines": 8,
    "importer": 8,
    "inspection": 8,
    "verification": 8,
    "diagnosis": 8,
    "evaluation": 8,
    "serving": 8,
    "bench": 9,
    "cli": 10,
}
# Where the heavy and the exchangeable libraries may be imported.
LIBRARIES = {
    "typer": {"cli"},
    "rich": {"cli"},
    "safetensors": {"checkpoint"},
    "torchvision": {"families", "models", "evaluation"},
    "onnxscript": {"graph"},
    "onnxruntime": {"runtimes"},
    "tensorrt": {"runtimes"},
    "tensorrt_rtx": {"runtimes"},
    "cuda": {"runtimes"},
    "pycuda": {"runtimes"},
    "torch": {"checkpoint", "layers", "models", "families", "graph"}
    | {"comparison", "exporter", "diagnosis", "evaluation"},
    "onnx": {"graph", "onnx_library", "runtimes"},
    "onnx_ir": {
        "ops",
        "graph",
        "comparison",
        "exporter",
        "importer",
        "verification",
        "bench",
        "engines",
    },
}
MOST_LINES = 400


def room(module: str) -> str:
    """``bitexport.graph.passes.x`` -> ``graph``; "" for the package itself."""
    return [*module.split("."), ""][1]


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[tuple[str, list[str]]]:
    """Every import of a module, within functions too: the module and the names from it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module} imports relatively"
            yield node.module, [alias.name for alias in node.names]


def own_imports(module: str) -> Iterator[str]:
    """The modules of ours that a module imports."""
    for name, names in imports(module):
        if name == "bitexport":
            yield from (f"bitexport.{n}" if f"bitexport.{n}" in MODULES else name for n in names)
        elif name.startswith("bitexport."):
            yield name


def test_every_room_has_a_rank() -> None:
    assert {room(module) for module in MODULES} == {"", "__main__", *RANKS}


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in RANKS])
def test_imports_go_down(module: str) -> None:
    for imported in own_imports(module):
        own, other = room(module), room(imported)
        # The package itself gives away its version only.
        assert other in ("", own) or RANKS[other] < RANKS[own], f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_names_of_the_package_itself(module: str) -> None:
    """Within the house nobody takes the roundabout way through ``bitexport.__getattr__``."""
    for name, names in imports(module):
        if name == "bitexport":
            rooms = {n for n in names if f"bitexport.{n}" in MODULES}
            assert set(names) - rooms <= {"__version__"}


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module: str) -> None:
    for name, _ in imports(module):
        rooms = LIBRARIES.get(name.split(".")[0])
        assert rooms is None or room(module) in rooms, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_private(module: str) -> None:
    for name, names in imports(module):
        if name.split(".")[0] == "bitexport":
            private = [n for n in names if n.startswith("_") and n != "__version__"]
            assert not private, f"{module} imports {private} from {name}"


def documented_only(module: str) -> bool:
    """A package whose file is a docstring, or nothing."""
    return all(isinstance(node, ast.Expr) for node in tree(module).body)


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m != "bitexport.__main__" and not documented_only(m)]
)
def test_public_names(module: str) -> None:
    loaded = importlib.import_module(module)
    names = loaded.__all__
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=isort_style)
    assert set(names) <= set(dir(loaded)), "a shell completes by dir()"
    for name in names:
        assert getattr(loaded, name) is not None


def isort_style(name: str) -> tuple[int, list[tuple[int, int | str]]]:
    """Constants, then classes, then the rest, each in natural order: ruff's RUF022."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(0, int(p)) if p.isdigit() else (1, p) for p in parts]


def test_unknown_name_of_the_package() -> None:
    package = importlib.import_module("bitexport")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense


HEAVY = ("torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy")
HEAVY += ("tensorrt", "tensorrt_rtx_bindings", "sklearn", "google.protobuf")
COMMANDS = {
    "import": "import bitexport",
    "errors": "import bitexport; bitexport.BitexportError",
    **{
        " ".join(arguments): "import sys, contextlib; from bitexport.cli import main\n"
        f"sys.argv = {['bitexport', *arguments]!r}\n"
        "with contextlib.suppress(SystemExit): main()"
        for arguments in (("--help",), ("--version",))
    },
    "every command's help": "import sys, contextlib; from bitexport.cli import app, main\n"
    "names = [c.name or c.callback.__name__ for c in app.registered_commands]\n"
    "assert 'bench' in names\n"
    "for name in names:\n"
    "    sys.argv = ['bitexport', name, '--help']\n"
    "    with contextlib.suppress(SystemExit): main()",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_light_commands_import_nothing_heavy(command: str) -> None:
    script = f"{COMMANDS[command]}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(result.stderr.split())
    assert "bitexport" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", MODULES)
def test_length(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) < MOST_LINES


def test_no_drawer_for_odds_and_ends() -> None:
    odd = re.compile(r"_?(utils?|helpers?|misc|common)")
    assert not [m for m in MODULES if any(odd.fullmatch(part) for part in m.split("."))]


@pytest.mark.parametrize("module", MODULES)
def test_input_is_not_checked_by_assert(module: str) -> None:
    """``python -O`` drops assertions."""
    assert not [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)]


def test_exit_codes() -> None:
    codes = {
        name: getattr(errors, name).exit_code for name in errors.__all__ if name != "BitexportError"
    }
    assert codes == {
        "RuntimeFailure": 1,
        "InputError": 2,
        "ComparisonFailure": 3,
        "UnsupportedModel": 4,
    }
    assert all(issubclass(getattr(errors, name), errors.BitexportError) for name in codes)


def test_error_is_one_line() -> None:
    error = errors.InputError("what\nis it", got=["a\r\nb", 3], expected="  x ", fix="Do\tthis.")
    assert str(error) == "what is it (got ['a\\r\\nb', 3], expected x ). Do this."
    assert "\n" not in str(errors.RuntimeFailure("a", got="b\n\nc", expected="d", fix="e\n"))


def test_the_tree_of_errors_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"── (\w+) +exit (\d)", errors.__doc__))
    assert drawn == {
        name: str(getattr(errors, name).exit_code)
        for name in errors.__all__
        if name != "BitexportError"
    }


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_has_a_body(op: object) -> None:
    assert op in OPS
    function = function_for(op)  # type: ignore[arg-type]
    assert (function.domain, function.name) == (DOMAIN, getattr(op, "name", ""))
    names = [x.name for x in getattr(op, "inputs", ())]
    assert [value.name for value in function.inputs] == names
    assert len(function.outputs) == 1
    read = {value.name for node in function for value in node.inputs if value is not None}
    assert read >= set(names)
    assert {node.domain for node in function} == {""}


def test_names_of_ops_are_unique() -> None:
    names = [op.name for op in OPS]
    assert len(set(names)) == len(names) > 0
