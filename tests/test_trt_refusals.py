"""How ``bitexport trt`` fails, and the trtexec line; no engine comes of anything here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Outcome, run, run_process
from family_networks import export_family
from onnx import TensorProto, helper

from bitexport.runtimes import ENGINE_BUILDERS, TensorRTRTX, runtime_named

ROOT = Path(__file__).resolve().parents[1]
RTX = ("--backend", "tensorrt-rtx")


@pytest.fixture(scope="module")
def wrn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_family("wide-resnet", tmp_path_factory.mktemp("trt") / "model.onnx")


def fails(code: int, *texts: str, arguments: tuple[str | Path, ...], folder: Path) -> Outcome:
    """One line on stderr, nothing on stdout, no new file."""
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    outcome = run("trt", *arguments)
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert re.fullmatch(r"error: \S.* \(got .*, expected .*\)\. .*\n", outcome.err), outcome.err
    assert "internal error" not in outcome.err
    for text in texts:
        assert text in outcome.err
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    return outcome


def dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].input[0] = "nowhere"


def foreign_domain(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].domain = "somebody.else"
    proto.opset_import.append(onnx.helper.make_opsetid("somebody.else", 1))


def external(proto: onnx.ModelProto) -> None:
    node = onnx.helper.make_node("Constant", [], ["unused"], value=onnx.TensorProto(data_type=1))
    tensor = node.attribute[0].t
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    proto.graph.node.insert(0, node)


def free_image(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"


def other_opset(proto: onnx.ModelProto) -> None:
    del proto.functions[:]
    next(x for x in proto.opset_import if x.domain == "").version = 19


def expanded_past_its_size(proto: onnx.ModelProto) -> None:
    """Sound for onnx and for the parser; the builder sees that the shapes do not fit."""
    output = proto.graph.output[0].name
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1024]), "size"))
    proto.graph.node.append(onnx.helper.make_node("Expand", [output, "size"], ["wide"]))
    proto.graph.output[0].name = "wide"


@pytest.mark.parametrize(
    ("damage", "code", "text"),
    [
        (dangling, 2, "nowhere"),
        (foreign_domain, 4, "somebody.else"),
        (external, 4, "external data"),
        (free_image, 4, "H"),
        (other_opset, 4, "opset 19"),
        (expanded_past_its_size, 2, "cannot build an engine"),
    ],
)
def test_bad_models(
    damage: Callable[[onnx.ModelProto], None], code: int, text: str, wrn: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    proto = onnx.load(wrn)
    damage(proto)
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    fails(code, text, arguments=(path, "-o", tmp_path / "x.engine", *RTX), folder=tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\x08\x08"], ids=["empty", "text", "no graph"])
def test_no_models(data: bytes, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    fails(2, "bad.onnx", arguments=(path, "-o", tmp_path / "x.engine", *RTX), folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--min-batch", "0"), "min 0"),
        (("--max-batch", "0"), "max 0"),
        (("--min-batch", "4", "--opt-batch", "2", "--max-batch", "8"), "min 4, opt 2, max 8"),
        (("--max-batch", "100000"), "100000"),
        (("--plugin-library", "x.so"), "--plugin-library"),
        (("--save-onnx", "x.engine"), "one file"),
        (("--save-onnx", "no/such/x.onnx"), "no folder"),
        (("--print-trtexec",), "--print-trtexec"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], text: str, wrn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    monkeypatch.chdir(tmp_path)
    fails(2, text, arguments=(wrn, "-o", "x.engine", *RTX, *options), folder=tmp_path)


def test_the_source_is_not_overwritten(wrn: Path) -> None:
    fails(2, "the input file itself", arguments=(wrn, "-o", wrn), folder=wrn.parent)


def test_missing_tensorrt_names_the_command(wrn: Path, tmp_path: Path) -> None:
    builder, runtime = ENGINE_BUILDERS[0], runtime_named("tensorrt")
    if builder.availability().ok:
        pytest.skip("TensorRT is installed")
    arguments = (wrn, "-o", tmp_path / "x.engine", "--backend", "tensorrt")
    command = 'pip install "tensorrt>=10.12" cuda-python'
    if "No module" in builder.availability().detail:
        fails(1, command, arguments=arguments, folder=tmp_path)
        assert command in runtime.availability().fix
        outcome = run("verify", wrn, "--runtime", "tensorrt", "--inputs", wrn)
        assert outcome.code in (1, 2) and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_neither_library(wrn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ENGINE_BUILDERS[0].availability().ok:
        pytest.skip("TensorRT is installed")
    monkeypatch.setattr("bitexport.runtimes.tensorrt_rtx._MODULES", ("no_such_module",))
    assert not TensorRTRTX().availability().ok
    arguments = (wrn, "-o", tmp_path / "x.engine")
    fails(1, "tensorrt-rtx-cu13-libs", "tensorrt>=10.12", arguments=arguments, folder=tmp_path)


def line(*arguments: str | Path) -> str:
    outcome = run("trt", *arguments, "--print-trtexec")
    assert outcome.code == 0, outcome.err
    return outcome.out.removesuffix("\n")


LIBRARY = ("--plugin-library", "libbitexport_trt.so")


def test_the_readme_has_the_generated_line(wrn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wrn.parent)
    printed = line("model.onnx", "-o", "model.engine", "--max-batch", "32", *LIBRARY)
    assert f"\n{printed}\n" in (ROOT / "README.md").read_text()


def test_trtexec_line_of_a_changed_model(wrn: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved model.onnx"
    out = ("-o", tmp_path / "x.engine")
    library = ("--plugin-library", "elsewhere/libmine.so")
    words = shlex.split(line(wrn, *out, "--fp16", "--save-onnx", saved, *library))
    assert f"--onnx={saved}" in words and "--staticPlugins=elsewhere/libmine.so" in words
    proto = onnx.load(saved)
    # Without functions a missing plugin fails loudly; the nodes are named for the engine.
    assert not proto.functions
    custom = [node for node in proto.graph.node if node.domain == "bitexport"]
    assert len({node.name for node in custom}) == len(custom) == 6
    plain = shlex.split(line(wrn, *out, "--no-plugins", "--save-onnx", saved))
    assert not [word for word in plain if "Plugins" in word]
    assert not [node for node in onnx.load(saved).graph.node if node.domain == "bitexport"]
    assert not (tmp_path / "x.engine").exists()


def test_trtexec_needs_a_file_for_a_changed_model(wrn: Path, tmp_path: Path) -> None:
    arguments = (wrn, "--fp16", "--print-trtexec")
    fails(2, "--save-onnx", arguments=arguments, folder=tmp_path)


@pytest.mark.skipif(not TensorRTRTX().availability().ok, reason="no TensorRT-RTX")
def test_what_the_parser_prints_by_itself_is_not_heard(wrn: Path, tmp_path: Path) -> None:
    """Of a type that it does not know, it tells the terminal, past its logger."""
    model = onnx.load(wrn)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT4
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    ended = run_process("trt", path, "-o", tmp_path / "model.engine", *RTX, cwd=tmp_path)
    assert ended.code in (2, 4)
    assert len(ended.err.splitlines()) == 1, ended.err


def test_a_name_that_a_terminal_would_obey(tmp_path: Path) -> None:
    escape = "\x1b]0;title\x07"
    node = helper.make_node("Flatten", [escape], ["logits"])
    values = [
        helper.make_tensor_value_info(escape, TensorProto.FLOAT, ["N", 3, 2, 2]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 12]),
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    outcome = run("trt", tmp_path / "model.onnx", "--print-trtexec")
    assert outcome.code == 2 and "printable" in outcome.err
    assert "\x1b" not in outcome.out + outcome.err
