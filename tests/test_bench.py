"""``bitexport bench``: its twins, its turns, its report, and the page in a real browser."""

from __future__ import annotations

import html as html_module
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from command_line import Outcome, export_kind, logits, random_images, relative_error, run
from torch import nn

from bitexport.bench import LayerTime, Report, Run
from bitexport.bench.charts import Series, lines
from bitexport.bench.html import html
from bitexport.bench.markdown import markdown
from bitexport.bench.measure import Timing, pinned, ratio_of, take_turns
from bitexport.bench.wording import compression, headline, speedup
from bitexport.graph import LoweringOptions, capture, lower
from bitexport.graph.dense import to_dense
from bitexport.graph.read import read_onnx
from bitexport.layers import BinaryConv2d
from bitexport.runtimes.footprint import footprint
from bitexport.runtimes.ort_int8 import static_int8

RUN_KEYS = {"model", "runtime", "precision", "batch", "threads", "median_ms", "p90_ms", "p99_ms"}
RUN_KEYS |= {"throughput", "bytes", "peak_memory_bytes", "speedup_vs_fp32"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    found = {kind: export_kind(folder, kind) for kind in ("trained", "codebooks")}
    paths = {kind: each.output for kind, each in found.items()}
    for name, option in (("plain", "--plain"), ("half", "--fp16")):
        paths[name] = folder / f"{name}.onnx"
        arguments = [found["trained"].checkpoint, "-o", paths[name], "--input-size", "32", option]
        assert run("onnx", *arguments).code == 0
    return paths


def dense_twin(path: Path) -> bytes:
    graph, _ = read_onnx(path)
    assert to_dense(graph)
    return ir.to_proto(graph).SerializeToString()


@pytest.mark.parametrize("kind", ["trained", "codebooks", "plain", "half"])
def test_twin_of_quantized_weights_computes_the_same(exported: dict[str, Path], kind: str) -> None:
    twin = dense_twin(exported[kind])
    images = random_images(2, 32, 32)
    expected = logits(exported["trained" if kind == "half" else kind], images)
    assert relative_error(logits(twin, images), expected) < (1e-3 if kind == "half" else 1e-5)
    proto = onnx.load_model_from_string(twin)
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    assert kind != "half" or all(node.op_type != "Cast" for node in proto.graph.node)
    assert {t.data_type for t in proto.graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert len(twin) > 3 * exported[kind].stat().st_size


class Binary(nn.Module):
    """A binary layer with weights of 0, behind the sum with its shortcut."""

    def __init__(self, *, centered: bool) -> None:
        super().__init__()
        self.conv = BinaryConv2d(8, 8, 3, padding=1)
        self.centered = centered
        with torch.no_grad():
            self.conv.weight[:3, 0] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = x - x.mean(dim=(1, 2, 3), keepdim=True) if self.centered else x
        return self.conv(given) + x


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_twin_of_a_binary_layer_is_one_convolution(centered: bool, plain: bool) -> None:
    torch.manual_seed(0)
    module = Binary(centered=centered).eval()
    captured = capture(module, (8, 6, 6))
    lower(captured.graph, LoweringOptions(plain=plain))
    packed = [node.op_type for node in captured.graph.graph]
    assert to_dense(captured.graph)
    assert (
        "Where" in packed
        if plain
        else packed.count("BinaryConv") + packed.count("BinaryConvAdd") == 2
    )
    kinds = [node.op_type for node in captured.graph.graph]
    assert "Where" not in kinds and "GreaterOrEqual" not in kinds
    if plain:
        return
    assert sorted(kinds) == ["Add", "Conv"]
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6), dtype=np.float32)
    signs = torch.sign(module.conv.weight.detach())
    scale = module.conv.weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    got = logits(ir.to_proto(captured.graph).SerializeToString(), x)
    given = torch.from_numpy(x)
    want = nn.functional.conv2d(given, signs * scale, padding=1) + given
    assert relative_error(got, want.numpy()) < 1e-5


@pytest.mark.parametrize(
    ("activation", "kinds"),
    [(nn.PReLU(8), ["Max", "Mul"]), (nn.Hardtanh(), ["Clip"]), (nn.ReLU(), ["Relu"])],
    ids=["prelu", "hardtanh", "relu"],
)
def test_twin_keeps_the_activation_of_its_layer(activation: nn.Module, kinds: list[str]) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(8, 8, 3, padding=1)
    captured = capture(nn.Sequential(conv, activation).eval(), (8, 6, 6))
    lower(captured.graph)
    assert len(list(captured.graph.graph)) == 1
    assert to_dense(captured.graph)
    assert sorted(node.op_type for node in captured.graph.graph) == sorted(["Conv", *kinds])
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6), dtype=np.float32)
    latent = conv.weight.detach()
    weight = torch.sign(latent) * latent.abs().mean(dim=(1, 2, 3), keepdim=True)
    want = activation(nn.functional.conv2d(torch.from_numpy(x), weight, padding=1)).detach()
    got = logits(ir.to_proto(captured.graph).SerializeToString(), x)
    assert relative_error(got, want.numpy()) < 1e-5


def test_twin_keeps_a_difference_that_is_no_mean() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = BinaryConv2d(8, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x - x.amax(dim=1, keepdim=True))

    captured = capture(Difference().eval(), (8, 6, 6))
    lower(captured.graph)
    assert to_dense(captured.graph)
    kinds = sorted(node.op_type for node in captured.graph.graph)
    assert kinds == ["Conv", "ReduceMax", "Sub"]


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_twin_of_a_layer_in_parts_has_its_geometry_and_bias(groups: int, ternary: bool) -> None:
    """The parts are there for weights, and for activations, of exactly 0."""
    torch.manual_seed(0)
    conv = BinaryConv2d(
        8, 6, 3, stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=groups, bias=True
    )
    norm = nn.BatchNorm2d(6)
    for parameter in (*conv.parameters(), *norm.parameters(), norm.running_mean):
        nn.init.normal_(parameter)
    with torch.no_grad():
        conv.weight[1::2, 0] = 0
    captured = capture(
        nn.Sequential(conv, norm).eval(), (8, 9, 7), ternary=("0",) if ternary else ()
    )
    lower(captured.graph)
    parts = sum(node.op_type.startswith("BinaryConv") for node in captured.graph.graph)
    assert parts == (4 if ternary else 2)
    assert to_dense(captured.graph)
    # A BatchNorm stays behind four parts, as it does in the exported graph.
    kinds = [node.op_type for node in captured.graph.graph]
    assert kinds == (["Conv", "Mul", "Add"] if ternary else ["Conv"])
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 7), dtype=np.float32)
    latent = conv.weight.detach()
    dense = nn.Conv2d(8, 6, 3, stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=groups)
    with torch.no_grad():
        dense.weight.copy_(torch.sign(latent) * latent.abs().mean(dim=(1, 2, 3), keepdim=True))
        dense.bias.copy_(conv.bias)
        want = norm(dense(torch.from_numpy(x))).numpy()
    got = logits(ir.to_proto(captured.graph).SerializeToString(), x)
    assert relative_error(got, want) < 1e-5


def test_int8_twin_runs_on_integer_kernels(exported: dict[str, Path]) -> None:
    from bitexport.runtimes.ort_profile import profile_nodes

    images = random_images(4, 32, 32)
    twin = dense_twin(exported["trained"])
    quantized = static_int8(twin, "input", [images])
    assert len(quantized) < len(twin) / 2.5
    ops = [
        node.op
        for node in profile_nodes(quantized, {"input": images}, native=False, threads=1, runs=1)
    ]
    assert ops.count("QLinearConv") > 0 and "Conv" not in ops
    assert relative_error(logits(quantized, images), logits(twin, images)) < 0.5


def timing(*milliseconds: float) -> Timing:
    return Timing(tuple(np.array([ms]) for ms in milliseconds))


def test_ratio_is_of_neighbours_and_knows_its_noise() -> None:
    drift = np.linspace(1, 10, 20)  # the machine slows down; the ratio does not
    steady = ratio_of(timing(*(2 * drift)), timing(*drift))
    assert (steady.median, steady.beyond_noise) == (2.0, True)
    noisy = ratio_of(timing(*([1.1, 0.95] * 10)), timing(*[1.0] * 20))
    assert not noisy.beyond_noise
    slower = ratio_of(timing(*[1.0] * 20), timing(*[2.0] * 20))
    assert slower.beyond_noise and slower.median == 0.5


def test_runners_take_turns() -> None:
    order: list[str] = []
    shares: list[float] = []
    found = take_turns([lambda: order.append("a"), lambda: order.append("b")], 0.0, shares.append)
    assert [len(each.turns) for each in found] == [10, 10]
    warm_up = order.count("a") - len(found[0].runs)
    assert warm_up >= 3
    measured = order[warm_up + order.count("b") - len(found[1].runs) :]
    changes = sum(x != y for x, y in itertools.pairwise(measured))
    assert changes >= 9
    assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin")
def test_pinning_ends() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as processors:
        assert processors is not None and os.sched_getaffinity(0) == set(processors)
        assert len(processors) == 1
    assert os.sched_getaffinity(0) == before


@pytest.fixture(scope="module")
def benched(
    exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("reports")
    outputs = [f"--{kind}={folder / f'report.{kind}'}" for kind in ("json", "html", "markdown")]
    options = ["--duration", "0", "--batch", "2,1", "--layers", "--precisions", "fp32"]
    options += ["--runtimes", "ort"]
    return run("bench", exported["trained"], *options, *outputs), folder


def test_bench_reports_what_the_contract_says(
    benched: tuple[Outcome, Path], exported: dict[str, Path]
) -> None:
    outcome, folder = benched
    assert outcome.code == 0, outcome.err
    record = json.loads((folder / "report.json").read_text())
    assert {"machine", "versions", "runs", "layers", "skipped"} <= set(record)
    runs = record["runs"]
    found = {(r["runtime"], r["precision"], r["batch"]) for r in runs}
    assert found == {("ort", p, b) for p in ("1-bit weights", "fp32") for b in (1, 2)}
    for each in runs:
        assert set(each) >= RUN_KEYS
        assert 0 < each["min_ms"] <= each["median_ms"] <= each["p90_ms"] <= each["p99_ms"]
        assert each["throughput"] == pytest.approx(1e3 * each["batch"] / each["median_ms"])
        assert each["peak_memory_bytes"] > each["bytes"] and each["load_seconds"] > 0
        inside = each["speedup_low"] is None or each["speedup_low"] <= 1 <= each["speedup_high"]
        assert (each["speedup_vs_fp32"] is None) == inside
    own = next(r for r in runs if r["subject"])
    assert own["bytes"] == exported["trained"].stat().st_size
    assert sum(record["sizes"]["trained.onnx"].values()) == own["bytes"]


def test_bench_counts_bytes_and_operations_of_nodes(benched: tuple[Outcome, Path]) -> None:
    record = json.loads((benched[1] / "report.json").read_text())
    layers = [x for x in record["layers"] if x["precision"] == "fp32"]
    assert sum(x["share"] for x in layers) == pytest.approx(1)
    # The first convolution: 3 -> 16 channels, 3x3, 32x32 pixels, one image.
    (first,) = [x for x in layers if x["op"] == "Conv" and x["ops"] == 2 * 16 * 27 * 1024]
    tensors = (3 * 1024, 16 * 27, 16 * 1024)
    assert first["bytes"] - 4 * sum(tensors) in (0, 4 * 16)  # with or without a bias
    assert {x["bound"] for x in layers} <= {"memory", "compute", "overhead"}


def test_bench_prints_a_table_and_its_machine(benched: tuple[Outcome, Path]) -> None:
    outcome, folder = benched
    assert "trained.onnx" in outcome.out and "slowest nodes" in outcome.out
    assert "onnxruntime" in outcome.err and "smaller" in outcome.out
    text = (folder / "report.markdown").read_text()
    assert re.search(r"^\| trained.onnx \| ort \| fp32 \| 1 \|", text, re.M)


def test_bench_of_a_checkpoint_prints_json_only(tmp_path: Path) -> None:
    from command_line import save_wrn

    checkpoint = save_wrn(tmp_path / "net.pth.tar")
    options = ["--duration", "0", "--no-memory", "--input-size", "16", "--json", "-"]
    record = run("bench", checkpoint, *options).json
    assert {r["runtime"] for r in record["runs"]} >= {"ort", "ort-native"}
    assert {r["precision"] for r in record["runs"]} == {"1-bit weights", "fp32", "int8"}
    reasons = {(s["runtime"], s["precision"]): s for s in record["skipped"]}
    assert reasons["ort", "fp16"]["reason"]
    if ("ort-cuda", "") in reasons:
        assert "onnxruntime-gpu" in reasons["ort-cuda", ""]["fix"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--batch", "0"], 2, "--batch"),
        (["--batch", "1,x"], 2, "--batch"),
        (["--runtimes", "warp"], 2, "warp"),
        (["--runtimes", ","], 2, "--runtimes"),
        (["--precisions", "fp8"], 2, "fp8"),
        (["--html", "no/such/folder.html"], 2, "no folder"),
        (["--html", "same", "--json", "same"], 2, "two reports"),
    ],
)
def test_bench_refuses(
    exported: dict[str, Path], arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    output = tmp_path / "report.md"
    outcome = run("bench", exported["trained"], "--markdown", output, *arguments)
    assert outcome.code == code
    assert outcome.err.startswith("error: ") and said in outcome.err
    assert outcome.err.count("\n") == 1 and not output.exists()


@pytest.mark.parametrize("option", ["--json", "--markdown", "--html"])
def test_a_report_does_not_replace_a_model(
    exported: dict[str, Path], option: str, tmp_path: Path
) -> None:
    model = shutil.copy(exported["trained"], tmp_path / "model.onnx")
    before = model.read_bytes()
    (tmp_path / "other.md").symlink_to(model)
    for output in (model, tmp_path / "other.md"):
        outcome = run("bench", model, option, output)
        assert outcome.code == 2 and "the input file itself" in outcome.err
        assert model.read_bytes() == before


def test_bench_of_wrong_images(exported: dict[str, Path], tmp_path: Path) -> None:
    recording = tmp_path / "small.npz"
    np.savez(recording, input=random_images(2, 16, 16))
    outcome = run("bench", exported["trained"], "--inputs", recording)
    assert outcome.code == 2 and "cannot take the images" in outcome.err


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules of our names, as a checkout has them."""
    for name in ("bitexport", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the wrong {name}')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_memory_is_measured_with_our_own_package(
    exported: dict[str, Path], other_package: Path
) -> None:
    data = exported["trained"].read_bytes()
    for runtime in ("ort", "ort-native"):
        found = footprint(runtime, data, "input", (3, 32, 32), [1], 1)
        assert found.load_seconds > 0 and found.peak_bytes[1] > 0
    # An editable install finds bitexport before the working directory, but not numpy.
    other = subprocess.run(
        [sys.executable, "-c", "import numpy"], capture_output=True, text=True, check=False
    )
    assert "the wrong numpy" in other.stderr


def test_memory_that_cannot_be_measured_is_left_out(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = ["/no/such/python"]
    monkeypatch.setattr("bitexport.runtimes.footprint.python_command", lambda module: nothing)
    options = ["--duration", "0", "--precisions", "fp32", "--runtimes", "ort", "--json", "-"]
    record = run("bench", exported["trained"], *options).json
    assert [run["peak_memory_bytes"] for run in record["runs"]] == [None, None]
    assert [(s["runtime"], s["fix"]) for s in record["skipped"] if "memory" in s["reason"]] == [
        ("ort", "Leave it out with --no-memory.")
    ] * 2


def report(model: str = "net.onnx") -> Report:
    """A report with a run within its noise, and names that a page must not obey."""
    own = Run(
        model=model, runtime="ort", precision="1-bit", subject=True, batch=1, threads=1,
        median_ms=2.0, p90_ms=2.5, p95_ms=2.6, p99_ms=3.0, mean_ms=2.1, min_ms=1.9, spread=0.1,
        samples=50, throughput=500.0, bytes=1000, speedup_low=0.97, speedup_high=1.2345,
    )  # fmt: skip
    twin = replace(own, precision="fp32", subject=False, bytes=9000)
    twin = replace(twin, speedup_low=None, speedup_high=None)
    later = [replace(each, batch=8, median_ms=9.0) for each in (own, twin)]
    layer = LayerTime(model, "ort", "1-bit", 1, "conv1", "Conv", 1.5, 1.0, 10, 20, 0.1, "overhead")
    machine = {"processor": "P", "instructions": [], "cores": 2, "memory_bytes": 1 << 30}
    machine |= {"system": "Linux", "load_average": 0.1, "gpu": None}
    method = {"pinned_to": [0], "threads": 1, "seconds_each": 1, "inputs": "noise"}
    return Report(
        machine=machine,
        versions={"onnxruntime": "1"},
        method=method | {"int8_calibration_images": 16},
        runs=(own, twin, *later),
        layers=(layer,),
        sizes={model: {"BinaryConv": 600, "graph and function bodies": 400}},
        skipped=(),
        warnings=("busy",),
    )


def test_a_speed_up_within_the_noise_is_not_printed() -> None:
    found = report()
    assert speedup(found.runs[0]) == "within noise"
    for text in (" ".join(headline(found)), markdown(found), html(found)):
        assert not re.search(r"\d\.\d\dx", text)
        assert "1.23" not in text and "noise" in text


def test_page_is_self_contained_and_escapes() -> None:
    name = "<script>alert(1)</script>.onnx"
    page = html(report(name))
    assert "<script" not in page and html_module.escape(name) in page
    assert "http" not in page and "@import" not in page and "url(" not in page
    assert "<script>" not in markdown(report(name)).replace("\\<", "")
    assert len(page) < 100_000


def test_inspect_draws_bytes_and_operations(exported: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "sizes.html"
    first, second = exported["trained"], exported["codebooks"]
    assert run("inspect", first, "--html", page).code == 0
    text = page.read_text()
    layers = run("inspect", first, "--json").json["layers"]
    assert all(f'<div class="label">{layer["name"]}</div>' in text for layer in layers)
    # A track for the file, for the bytes and for the operations of every layer.
    assert text.count('<div class="track') == 1 + 2 * len(layers)
    assert "trained.onnx" in text and "1.00 bits a weight" in text and "MACs" in text
    assert run("inspect", first, second, "--html", page).code == 0
    assert "Bytes of the layers of codebooks.onnx" in page.read_text()
    outcome = run("inspect", first, "--html", first)
    assert outcome.code == 2 and "the input file itself" in outcome.err


def test_lines_of_one_point_have_a_scale() -> None:
    drawn = lines([Series("a", ((1.0, 3.0),), 0)], "batch", "ms")
    assert "nan" not in drawn and "inf" not in drawn


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PROBE = """<script>
document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth,
  screen: window.innerWidth,
  bars: [...document.querySelectorAll('.track b')].filter(b => b.offsetWidth > 0).length,
  lines: [...document.querySelectorAll('polyline')].filter(p => p.getTotalLength() > 0).length,
  background: getComputedStyle(document.body).backgroundColor,
  sheets: document.styleSheets[0].cssRules.length,
});
</script>"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_page_draws_in_a_browser(
    benched: tuple[Outcome, Path], tmp_path: Path, width: int, dark: bool
) -> None:
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium-headless-shell")
    page = tmp_path / "probed.html"
    page.write_text((benched[1] / "report.html").read_text().replace("</body>", f"{PROBE}</body>"))
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
    ]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    result = subprocess.run(
        [browser, *flags, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in result.stderr
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None
    found = json.loads(html_module.unescape(title[1]))
    assert found["wide"] <= found["screen"] == width
    assert found["bars"] > 6 and found["lines"] == 2 and found["sheets"] > 20
    assert found["background"] == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize(
    ("count", "float32", "said"),
    [
        (1024, 27 * 1024, "27.0x smaller than float32 (27.00 KiB)"),
        (1024, 1076, "1.1x smaller than float32 (1.05 KiB)"),
        (1100, 1024, "1.1x as large as float32 (1.00 KiB)"),
        (4096, 1024, "4.0x as large as float32 (1.00 KiB)"),
        (1024, 0, "no weights found; a QONNX file goes through `bitexport onnx` first"),
    ],
)
def test_a_file_that_is_no_smaller_is_not_said_to_be(count: int, float32: int, said: str) -> None:
    assert compression(count, float32) == said
