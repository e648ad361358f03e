"""What engine is asked for, with what library, of which input; nothing is built here."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx
import onnx_ir as ir
import pytest
from forged_checkpoints import sound_file

from bitexport.engines import EngineRequest
from bitexport.engines.request import chosen_builder, plugin_library
from bitexport.engines.trtexec import trtexec_line
from bitexport.errors import InputError, RuntimeFailure, UnsupportedModel
from bitexport.graph.engine_form import engine_form, image_input
from bitexport.ops.bodies import OPSET
from bitexport.ops.table import DOMAIN
from bitexport.runtimes import ENGINE_BUILDERS, EngineBuilder

HEAD = f'<ir_version: 10, opset_import: ["" : {OPSET}, "{DOMAIN}" : 1]>'


@pytest.mark.parametrize(
    ("asked", "batches"),
    [
        ((1, None, None), (1, 1, 1)),
        ((1, None, 8), (1, 8, 8)),
        ((2, None, None), (2, 2, 2)),
        ((1, 4, None), (1, 4, 4)),
        ((2, 3, 9), (2, 3, 9)),
        ((1, None, 65536), (1, 65536, 65536)),
    ],
)
def test_batches_that_are_left_out_follow_from_the_others(
    asked: tuple[int, int | None, int | None], batches: tuple[int, int, int]
) -> None:
    smallest, usual, largest = asked
    request = EngineRequest(min_batch=smallest, opt_batch=usual, max_batch=largest)
    assert request.batches() == batches


@pytest.mark.parametrize(
    "asked",
    [(0, None, None), (1, 0, None), (1, None, 0), (1, 0, 4), (3, 2, 4), (1, 4, 2), (1, 1, 65537)],
)
def test_batches_out_of_order_are_refused(asked: tuple[int, int | None, int | None]) -> None:
    smallest, usual, largest = asked
    request = EngineRequest(min_batch=smallest, opt_batch=usual, max_batch=largest)
    with pytest.raises(InputError, match="wrong batch sizes"):
        request.batches()


@dataclass
class Builder:
    """As much of an engine builder as a request looks at."""

    takes_plugins: bool
    name: str = "builder"


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_library_is_used_where_both_sides_have_plugins(
    wanted: bool, takes: bool, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, other = tmp_path / "libinstalled.so", tmp_path / "libother.so"
    installed.write_bytes(b"library")
    monkeypatch.setenv("BITEXPORT_PLUGIN_LIBRARY", str(installed))
    builder = cast(EngineBuilder, Builder(takes))
    request = EngineRequest(plugins=wanted, plugin_library=other if named else None)
    if named and not (takes and wanted):
        with pytest.raises(InputError, match="would not be used"):
            plugin_library(builder, request)
        return
    expected = other if named else installed
    assert plugin_library(builder, request) == (expected if takes and wanted else None)


def test_auto_is_the_first_builder_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_self: object) -> str:
        raise ImportError

    first, second = ENGINE_BUILDERS
    for builder in (first, second):
        monkeypatch.setattr(type(builder), "version", lambda _self: "1.0")
        assert chosen_builder(builder.name) is builder
    assert chosen_builder("auto") is first
    monkeypatch.setattr(type(first), "version", missing)
    assert chosen_builder("auto") is second
    monkeypatch.setattr(type(second), "version", missing)
    with pytest.raises(RuntimeFailure, match="no engine builder is installed"):
        chosen_builder("auto")
    assert chosen_builder(second.name) is second


def model_of(text: str, head: str = HEAD) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(head + text))


@pytest.mark.parametrize(("batch", "free"), [("N", True), ("0", True), ("-1", True), ("4", False)])
def test_a_batch_below_1_is_free(batch: str, free: bool) -> None:
    model = model_of("agraph (float[9,3,4,5] x) => (float[9,3,4,5] y) { y = Neg(x) }")
    dims = [batch if batch == "N" else int(batch), 3, 4, 5]
    model.graph.inputs[0].shape = ir.Shape(dims)
    found = image_input(model, "m.onnx")
    assert (found.name, found.shape) == ("x", (None if free else 4, 3, 4, 5))


@pytest.mark.parametrize(
    "inputs",
    [
        "float[N,3,H,5] x",
        "float[N,C,4,5] x",
        "float[N,3,0,5] x",
        "float[N,3,4] x",
        "float x",
        "double[N,3,4,5] x",
        "float[N,3,4,5] x, float[N,3,4,5] z",
    ],
)
def test_other_inputs_than_one_of_images_are_refused(inputs: str) -> None:
    model = model_of(f"agraph ({inputs}) => (float[N] y) {{ y = Neg(x) }}")
    with pytest.raises(UnsupportedModel, match=r"m\.onnx: not a model of images"):
        image_input(model, "m.onnx")


def with_default(outputs: int) -> ir.Model:
    """A model with a threshold that a caller may leave out, as a detector has one."""
    names = [f"y{i}" for i in range(outputs)]
    nodes = " ".join(f"{name} = Add(x, threshold)" for name in names)
    results = ", ".join(f"float[N,3,4,5] {name}" for name in names)
    return model_of(
        f"agraph (float[N,3,4,5] x, float threshold = {{0.5}}) => ({results}) {{ {nodes} }}"
    )


def test_a_detector_is_told_from_a_classifier_with_a_default() -> None:
    assert image_input(with_default(1), "m.onnx").name == "x"
    with pytest.raises(UnsupportedModel, match="a whole detector"):
        image_input(with_default(2), "m.onnx")


def formed(model: ir.Model, **options: bool) -> onnx.ModelProto:
    options = {"float16": False, "inlined": False} | options
    return onnx.ModelProto.FromString(engine_form(model, "m.onnx", **options))


def test_nodes_that_nobody_reads_are_left_out_and_the_others_in_order() -> None:
    model = model_of("""
    agraph (float[N,3,4,5] x) => (float[N,3,4,5] y) { y = Neg(z)  z = Abs(x)  unread = Exp(x) }
    """)
    assert [node.op_type for node in formed(model).graph.node] == ["Abs", "Neg"]


def test_what_computes_in_float16_already_is_left_alone() -> None:
    text = "agraph (float[N,3,4,5] x) => (float[N,3,4,5] y) { z = Neg(x) y = Abs(z) }"
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEAD + text))
    half = formed(ir.from_proto(proto), float16=True)
    assert [node.op_type for node in half.graph.node] == ["Cast", "Neg", "Abs", "Cast"]
    assert formed(ir.from_proto(half), float16=True).graph.node == half.graph.node


def test_functions_of_the_file_go() -> None:
    function = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]> Odd (a) => (b) {{ b = Neg(a) }}'
    model = model_of(f"agraph (float[2] x) => (float[2] y) {{ y = Abs(x) }} {function}")
    assert model.functions and not formed(model).functions


@pytest.mark.parametrize("inner", ["somebody.else.Neg(x)", f"{DOMAIN}.Neg(x)"])
def test_ops_within_branches_count(inner: str) -> None:
    head = HEAD.replace(str(OPSET), str(OPSET - 1)).replace("]>", ', "somebody.else" : 1]>')
    model = model_of(
        f"""
    agraph (float[2] x, bool b) => (float[2] y) {{
        y = If(b) <
            then_branch = yes () => (float[2] p) {{ p = {inner} }},
            else_branch = no () => (float[2] q) {{ q = Abs(x) }}>
    }}
    """,
        head,
    )
    message = "ops of other domains" if "somebody" in inner else "another version of the standard"
    with pytest.raises(UnsupportedModel, match=message):
        formed(model)


@pytest.mark.parametrize("opset", [OPSET - 1, OPSET + 1])
def test_standard_ops_may_be_of_another_version_if_they_are_alone(opset: int) -> None:
    head = HEAD.replace(str(OPSET), str(opset))
    assert formed(model_of("agraph (float[2] x) => (float[2] y) { y = Neg(x) }", head)).graph.node
    ours = model_of(f"agraph (float[2] x) => (float[2] y) {{ y = {DOMAIN}.Neg(x) }}", head)
    with pytest.raises(UnsupportedModel, match=f"got opset {opset}"):
        formed(ours)


def test_the_standard_domain_has_two_names() -> None:
    model = model_of("agraph (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.graph[0].domain = "ai.onnx"
    assert formed(model).graph.node


def saved(path: Path, batch: str) -> Path:
    text = f"agraph (float[{batch},3,4,5] x) => (float[{batch},3,4,5] y) {{ y = Neg(x) }}"
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    return path


def test_a_fixed_batch_needs_no_shapes_and_a_model_without_our_ops_no_library(
    tmp_path: Path,
) -> None:
    fixed = saved(tmp_path / "fixed.onnx", "4")
    words = shlex.split(trtexec_line(fixed, None, EngineRequest()))
    assert [word.partition("=")[0] for word in words] == [
        "trtexec",
        "--onnx",
        "--saveEngine",
        "--stronglyTyped",
        "--skipInference",
    ]
    free = saved(tmp_path / "free.onnx", "N")
    request = EngineRequest(min_batch=2, opt_batch=3, max_batch=4)
    line = trtexec_line(free, tmp_path / "net.engine", request)
    assert f"--onnx={free} --saveEngine={tmp_path / 'net.engine'} " in line
    assert "--minShapes=x:2x3x4x5 --optShapes=x:3x3x4x5 --maxShapes=x:4x3x4x5 " in line


def test_the_changed_model_may_not_take_the_place_of_the_source(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx", "N")
    before = source.read_bytes()
    with pytest.raises(InputError, match="the input file itself"):
        trtexec_line(source, None, EngineRequest(float16=True, save_onnx=source))
    assert source.read_bytes() == before


@pytest.mark.parametrize("change", [{"float16": True}, {"plugins": False}], ids=json.dumps)
def test_a_changed_model_needs_a_place(change: dict[str, bool], tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx", "N")
    with pytest.raises(InputError, match="no --save-onnx"):
        trtexec_line(source, None, EngineRequest(**change))  # type: ignore[arg-type]
    request = EngineRequest(save_onnx=tmp_path / "saved.onnx", **change)  # type: ignore[arg-type]
    assert f"--onnx={tmp_path / 'saved.onnx'} " in trtexec_line(source, None, request)


def test_a_checkpoint_needs_a_place_for_its_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no --save-onnx"):
        trtexec_line(sound_file(tmp_path / "c.pth", "torch zip"), None, EngineRequest())
