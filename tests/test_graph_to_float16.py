"""What becomes float16 in a graph, and what stays as it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bitexport.errors import UnsupportedModel
from bitexport.graph.passes.to_float16 import to_float16
from bitexport.ops.bodies import OPSET
from bitexport.ops.table import DOMAIN

HEAD = f'<ir_version: 10, opset_import: ["" : {OPSET}, "{DOMAIN}" : 1, "other" : 1]>'
TWO_IN_TWO_OUT = """
agraph (float[2,3,4,4] x, float[2,3,4,4] y) => (float[2,3,8,8] large, float[2,3,4,4] sum)
<float[0] roi = {}, float[4] scales = {1, 1, 2, 2}, float[1] tenth = {0.1}>
{
    both = Add(x, y)
    scaled = Mul(both, tenth)
    whole = Cast<to = 7>(both)
    real = Cast<to = 1>(whole)
    sum = Add(real, scaled)
    large = Resize<mode = "nearest">(sum, roi, scales)
}
"""


def model_of(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(HEAD + text)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    graph = model.graph
    values = [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    return {value.name or "": value.dtype for value in values}


def test_every_input_and_output_has_its_cast_and_whole_numbers_none() -> None:
    model = model_of(TWO_IN_TWO_OUT)
    feed = {
        name: np.random.default_rng(seed).normal(size=(2, 3, 4, 4)).astype(np.float32) * 4
        for seed, name in enumerate("xy")
    }

    def run() -> list[np.ndarray]:
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        return session.run(["large", "sum"], feed)

    before = run()
    (record,) = [r for r in to_float16(model) if r.layer == "tenth"]
    assert "rounded by at most 2.4e-05" in record.detail
    for got, want in zip(run(), before, strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - want).max() < 0.02
    found = types(model)
    half, single, whole = ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.INT64
    for name in ("both", "scaled", "real", "tenth", "roi"):
        assert found[name] == half, name
    assert (found["whole"], found["scales"], found["sum"]) == (whole, single, single)


@pytest.mark.parametrize("values", ["7e4, 1", "-7e4, 1"])
def test_a_constant_beyond_float16_is_refused(values: str) -> None:
    model = model_of(f"""
    agraph (float[2] x) => (float[2] y) <float[2] much = {{{values}}}> {{ y = Add(x, much) }}
    """)
    with pytest.raises(UnsupportedModel, match=r"'much' does not fit float16 \(got .* 7e\+04"):
        to_float16(model)


def test_branches_are_refused() -> None:
    model = model_of("""
    agraph (float[2] x, bool b) => (float[2] y) {
        y = If(b) <
            then_branch = yes () => (float[2] p) { p = Neg(x) },
            else_branch = no () => (float[2] q) { q = Abs(x) }>
    }
    """)
    with pytest.raises(UnsupportedModel, match=r"If .* is not computed in float16"):
        to_float16(model)


@pytest.mark.parametrize(("domain", "kept"), [(DOMAIN, True), ("other", False)])
def test_constants_of_our_ops_stay_float32(domain: str, kept: bool) -> None:
    model = model_of(f"""
    agraph (float[2] x) => (float[2] y) <float[2] scale = {{1, 2}}> {{
        z = {domain}.Scaled(x, scale)
        y = Neg(z)
    }}
    """)
    to_float16(model)
    wanted = ir.DataType.FLOAT if kept else ir.DataType.FLOAT16
    assert types(model)["scale"] == wanted


def test_a_constant_that_is_wanted_in_both_types_is_there_twice() -> None:
    model = model_of(f"""
    agraph (float[2] x) => (float[2] y) <float[2] scale = {{1, 2}}> {{
        z = {DOMAIN}.Scaled(x, scale)
        w = Add(z, scale)
        y = Mul(w, scale)
    }}
    """)
    to_float16(model)
    found = types(model)
    assert (found["scale"], found["scale/float16"]) == (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    assert [str(v.name) for node in model.graph for v in node.inputs if v is not None].count(
        "scale/float16"
    ) == 2


def test_an_output_may_have_its_nodes_name() -> None:
    model = model_of("agraph (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.graph[0].name = "y"
    to_float16(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (got,) = session.run(["y"], {"x": np.array([1, 2], np.float32)})
    assert got.tolist() == [-1, -2]
