"""Runtimes in a process of their own: a model that ends it is refused, and nothing else changes."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from command_line import Outcome, run, run_process
from onnx import TensorProto, helper, numpy_helper
from test_qonnx import Network

from bitexport import worker
from bitexport.errors import InputError, RuntimeFailure
from bitexport.runtimes import ModelRefused, runtime_named
from bitexport.runtimes.contained import (
    ModelCrashed,
    ModelTooGreedy,
    _ContainedRunner,
    contained,
)
from bitexport.runtimes.ort_int8 import static_int8
from bitexport.worker import WorkerKilled

DEADLY = [-(2**31)], [-1]  # no int32 is their quotient: x86 raises an exception, as for 0 / 0
CHANNELS, SIDE = 3, 8
LOGITS = CHANNELS * SIDE**2
LOAD = """
import sys
from bitexport.runtimes import runtime_named
runtime_named("ort").load(open(sys.argv[1], "rb").read())
"""


def save_scaling(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, npt.ArrayLike]
) -> Path:
    """A sound model that scales its images by the `quotient` that the nodes make."""
    tail = [
        helper.make_node("Cast", ["quotient"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["logits"]),
    ]
    values = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", CHANNELS, SIDE, SIDE]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", LOGITS]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph([*nodes, *tail], "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def save(path: Path, numerator: list[int], denominator: list[int]) -> Path:
    """The quotient is constant, so that runtimes compute it as they load the model."""
    node = helper.make_node("Div", ["numerator", "denominator"], ["quotient"])
    constants = {"numerator": np.int32(numerator), "denominator": np.int32(denominator)}
    return save_scaling(path, [node], constants)


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ends a process that loads it."""
    path = save(tmp_path_factory.mktemp("deadly") / "deadly.onnx", *DEADLY)
    ended = subprocess.run([sys.executable, "-c", LOAD, path], check=False, timeout=300)
    if ended.returncode == 0:
        pytest.skip(f"ONNX Runtime divides {DEADLY} on {platform.machine()}")
    assert ended.returncode < 0
    return path


@pytest.fixture
def harmless(tmp_path: Path) -> bytes:
    return save(tmp_path / "harmless.onnx", [6], [3]).read_bytes()


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, CHANNELS, SIDE, SIDE), dtype=np.float32)


def assert_refused(outcome: Outcome) -> None:
    assert outcome.code == 2, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and "crashes on the model (got SIGFPE" in line


@pytest.mark.parametrize("command", ["verify", "eval", "bench"])
def test_a_model_that_ends_the_process_is_refused(
    command: str, deadly: Path, tmp_path: Path
) -> None:
    recording = tmp_path / "recording.npz"
    np.savez(recording, input=images(2), logits=images(2).reshape(2, -1))
    options = {
        "verify": ["--inputs", recording],
        "eval": ["--dataset", "digits"],
        "bench": ["--no-memory", "--duration", "0", "--runtimes", "ort"],
    }
    outcome = run(command, deadly, *options[command])
    assert_refused(outcome)
    assert deadly.name in outcome.err


def deadly_at(path: Path, batch: int) -> Path:
    """A sound model that ends a process that runs it on so many images at once."""
    nodes = [
        helper.make_node("Shape", ["input"], ["batch"], start=0, end=1),
        helper.make_node("Equal", ["batch", "deadly batch"], ["deadly"]),
        helper.make_node("Where", ["deadly", "minus one", "two"], ["denominator"]),
        helper.make_node("Div", ["smallest", "denominator"], ["quotient"]),
    ]
    (smallest,), (minus_one,) = DEADLY
    constants = {"smallest": np.int32([smallest]), "minus one": np.int32([minus_one])}
    return save_scaling(path, nodes, {**constants, "two": np.int32([2]), "deadly batch": [batch]})


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (3, ("--batch", "1,3", "--precisions", "fp32")),
        (16, ("--precisions", "fp32,int8")),  # on which int8 is calibrated
        (4, ("--precisions", "fp32", "--dataset", "digits", "--limit", "4")),
    ],
)
def test_bench_tries_all_that_it_runs(
    batch: int, options: tuple[str, ...], deadly: Path, tmp_path: Path
) -> None:
    del deadly  # which says whether there is such a thing here
    model = deadly_at(tmp_path / "sometimes.onnx", batch)
    arguments = ("--no-memory", "--duration", "0", "--runtimes", "ort", *options)
    outcome = subprocess.run(
        [sys.executable, "-m", "bitexport", "bench", model, *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert_refused(Outcome(outcome.returncode, outcome.stdout, outcome.stderr))
    assert model.name in outcome.stderr


def test_bench_tries_a_fixed_batch_whatever_is_asked_for(deadly: Path, tmp_path: Path) -> None:
    """One that ends a process only as it runs: what its images divide by is -1."""
    del deadly  # which says whether there is such a thing here
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nought"], ["zero"]),
        helper.make_node("Sub", ["zero", "one"], ["minus one"]),
        helper.make_node("Cast", ["minus one"], ["denominator"], to=TensorProto.INT32),
        helper.make_node("Div", ["smallest", "denominator"], ["quotient"]),
    ]
    constants = {"smallest": np.int32(DEADLY[0]), "nought": np.float32(0), "one": np.float32(1)}
    path = save_scaling(tmp_path / "fixed.onnx", nodes, constants)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, path)
    arguments = ("--no-memory", "--duration", "0", "--runtimes", "ort", "--precisions", "fp32")
    assert_refused(run_process("bench", path, *arguments, cwd=tmp_path))


def test_a_qonnx_file_that_ends_the_process_is_refused(deadly: Path, tmp_path: Path) -> None:
    del deadly  # which says whether there is such a thing here
    net = Network()
    quotient = net.node("Div", *(net.constant(x, np.int32) for x in DEADLY))
    scale = net.node("Cast", quotient, to=TensorProto.FLOAT)
    x = net.node("Mul", net.bipolar("image"), scale)
    x = net.conv(x, net.bipolar(net.weight(8, 3, 3, 3)))
    path = net.save(tmp_path / "qonnx.onnx", net.node("Flatten", x))
    # In a process of its own, where warnings would stand beside the line instead of ending it.
    assert_refused(run_process("onnx", path, "-o", tmp_path / "out.onnx", cwd=tmp_path))
    assert not (tmp_path / "out.onnx").exists()


def test_it_computes_what_the_runtime_computes(harmless: bytes, tmp_path: Path) -> None:
    other = save(tmp_path / "other.onnx", [15], [3]).read_bytes()
    with contained("ort") as runtime:
        doubled, fivefold = (runtime.load(model, threads=1) for model in (harmless, other))
        for count in (1, 3, 1000):
            given = {"input": images(count)}
            expected = runtime_named("ort").load(harmless).run(given)["logits"]
            got = doubled.run(given)
            assert list(got) == ["logits"] and got["logits"].dtype == np.float32
            np.testing.assert_array_equal(got["logits"], expected)
            np.testing.assert_array_equal(fivefold.run(given)["logits"], expected / 2 * 5)


def test_a_model_that_nobody_holds_is_forgotten(harmless: bytes) -> None:
    with contained("ort") as runtime:
        runner = runtime.load(harmless)
        number = runner._number  # type: ignore[attr-defined]
        again = _ContainedRunner(runner._runtime, number)  # type: ignore[attr-defined]
        assert again.run({"input": images(1)})
        del runner
        assert runtime.load(harmless).run({"input": images(1)})
        with pytest.raises(RuntimeError, match=f"KeyError: {number}"):
            again.run({"input": images(1)})


def test_a_refusal_crosses_over(harmless: bytes) -> None:
    def refusal(load: Callable[[bytes], object]) -> ModelRefused:
        with pytest.raises(ModelRefused) as caught:
            load(b"no model")
        assert not isinstance(caught.value, ModelCrashed)
        return caught.value

    with contained("ort") as runtime:
        assert str(refusal(runtime.load)) == str(refusal(runtime_named("ort").load))
        # It goes on after that.
        runner = runtime.load(harmless)
        with pytest.raises(ModelRefused):
            runner.run({"input": images(2).astype(np.float64)})
        assert runner.run({"input": images(2)})["logits"].shape == (2, LOGITS)


def test_scalars_and_empty_arrays_keep_their_shape() -> None:
    values = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("a", TensorProto.INT64), ("b", TensorProto.FLOAT16))
    ]
    nodes = [helper.make_node("Identity", [name], [f"{name}2"]) for name in "ab"]
    outputs = [
        helper.make_tensor_value_info(f"{v.name}2", v.type.tensor_type.elem_type, None)
        for v in values
    ]
    graph = helper.make_graph(nodes, "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with contained("ort") as runtime:
        runner = runtime.load(model.SerializeToString())
        for a in (np.array(7), np.zeros((0, 3), np.int64), np.arange(12).reshape(3, 4).T):
            given = {"a": a, "b": np.float16(a) + np.float16(0.5)}
            found = runner.run(given)
            for name, array in given.items():
                got = found[f"{name}2"]
                assert (got.shape, got.dtype) == (np.shape(array), np.asarray(array).dtype)
                np.testing.assert_array_equal(got, array)


def negative(path: Path) -> Path:
    """Slices an axis of less than no elements, which onnx's shape inference asserts not to see."""
    values = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [-3]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"]),
    ]
    bounds = {"starts": [0], "ends": [1], "axes": [0]}
    constants = [numpy_helper.from_array(np.array(v), k) for k, v in bounds.items()]
    node = helper.make_node("Slice", ["input", *bounds], ["logits"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def require_crash(path: Path) -> None:
    """Skip unless onnx's inference of shapes ends a process."""
    program = "import onnx, sys; onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]))"
    ended = subprocess.run([sys.executable, "-c", program, path], check=False, timeout=300)
    if ended.returncode >= 0:
        pytest.skip(f"onnx {onnx.__version__} takes sizes below zero")


@pytest.mark.parametrize("command", ["inspect", "trt", "triton", "onnx"])
def test_a_model_that_crashes_onnx_is_refused(command: str, tmp_path: Path) -> None:
    path = negative(tmp_path / "model.onnx")
    require_crash(path)
    output = () if command == "inspect" else ("-o", tmp_path / "output")
    outcome = run(command, path, *output)
    assert outcome.code == 2, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and f"{path}: the model crashes the onnx package" in line
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_model_that_crashes_the_quantizer_is_refused(tmp_path: Path) -> None:
    path = negative(tmp_path / "model.onnx")
    require_crash(path)
    with pytest.raises(RuntimeFailure, match="cannot quantize the model"):
        static_int8(path.read_bytes(), "input", [np.zeros(3, np.float32)])


def test_a_crash_leaves_a_runtime_that_starts_anew(deadly: Path, harmless: bytes) -> None:
    with contained("ort") as runtime:
        with pytest.raises(ModelCrashed):
            runtime.load(deadly.read_bytes())
        assert runtime.load(harmless).run({"input": images(1)})["logits"].shape == (1, LOGITS)


def stranger(node: onnx.NodeProto, output: onnx.TypeProto) -> bytes:
    """A model that makes its output of its input, floats of shape [N]."""
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph([node], "g", [given], [helper.make_value_info("output", output)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
NO_NUMBERS = {
    "object": stranger(
        helper.make_node("Cast", ["input"], ["output"], to=TensorProto.STRING),
        helper.make_tensor_type_proto(TensorProto.STRING, ["N"]),
    ),
    "list": stranger(
        helper.make_node("SequenceConstruct", ["input"], ["output"]),
        helper.make_sequence_type_proto(FLOATS),
    ),
    "NoneType": stranger(
        helper.make_node("Optional", [], ["output"], type=FLOATS),
        helper.make_optional_type_proto(FLOATS),
    ),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number_is_no_output(kind: str) -> None:
    expected = rf"numbers.*{kind} in its output 'output'"
    with contained("ort") as runtime, pytest.raises(ModelRefused, match=expected):
        runtime.load(NO_NUMBERS[kind]).run({"input": np.zeros(2, np.float32)})


def test_bits_that_numpy_has_no_numbers_for_are_no_output() -> None:
    """The reference evaluator hands them out as a type that only its package knows."""
    model = stranger(
        helper.make_node("Cast", ["input"], ["output"], to=TensorProto.BFLOAT16),
        helper.make_tensor_type_proto(TensorProto.BFLOAT16, ["N"]),
    )
    with contained("reference") as runtime, pytest.raises(ModelRefused, match=r"numbers.*bfloat16"):
        runtime.load(model).run({"input": np.zeros(2, np.float32)})


def test_unknown_runtime() -> None:
    with pytest.raises(InputError, match="nonsense"), contained("nonsense"):
        pass


def test_no_python_to_start(harmless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with contained("ort") as runtime, pytest.raises(RuntimeFailure, match="/no/such/python"):
        runtime.load(harmless)


def children() -> set[int]:
    return {int(p) for p in Path("/proc/thread-self/children").read_text().split()}


def greedy(path: Path, size: int) -> Path:
    """A sound model of few bytes that takes many, by a size that is only known at run time."""
    nodes = [
        helper.make_node("Shape", ["input"], ["channels"], start=1, end=2),
        helper.make_node("Mul", ["channels", "factor"], ["size"]),
        helper.make_node("Expand", ["one", "size"], ["many"]),
        helper.make_node("ReduceMax", ["many"], ["quotient"], keepdims=1),
    ]
    return save_scaling(path, nodes, {"factor": [size // 4 // CHANNELS], "one": np.float32([1])})


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is not limited")


@on_linux
@pytest.mark.parametrize("command", ["verify", "eval", "bench"])
def test_a_model_that_takes_too_much_memory_is_refused(command: str, tmp_path: Path) -> None:
    path = greedy(tmp_path / "greedy.onnx", 2 << 30)
    recording = tmp_path / "recording.npz"
    np.savez(recording, input=images(2), logits=images(2).reshape(2, -1))
    options = {
        "verify": ["--inputs", recording],
        "eval": ["--dataset", "digits"],
        "bench": ["--no-memory", "--duration", "0", "--runtimes", "ort", "--precisions", "fp32"],
    }
    outcome = run(command, path, *options[command])
    assert outcome.code == 2, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {path}: the model takes too much memory (got more than 1")
    assert "BITEXPORT_MODEL_MEMORY" in line


@on_linux
def test_who_trusts_a_model_gives_it_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = greedy(tmp_path / "greedy.onnx", 256 << 20).read_bytes()
    given = {"input": images(1)}
    monkeypatch.setenv("BITEXPORT_MODEL_MEMORY", "1.5")
    with contained("ort") as runtime:
        found = runtime.load(model, threads=1).run(given)["logits"]
        np.testing.assert_array_equal(found, given["input"].reshape(1, -1))
    monkeypatch.setenv("BITEXPORT_MODEL_MEMORY", "0.25")
    with contained("ort", spare=1 << 30) as runtime:
        np.testing.assert_array_equal(runtime.load(model, threads=1).run(given)["logits"], found)
    with contained("ort") as runtime:
        runner = runtime.load(model, threads=1)
        with pytest.raises(ModelRefused, match=r"more than 0\.25 GiB"):
            runner.run(given)
        # It goes on after that.
        harmless = save(tmp_path / "harmless.onnx", [6], [3]).read_bytes()
        assert runtime.load(harmless, threads=1).run(given)["logits"].shape == (1, LOGITS)


@pytest.mark.parametrize("variable", ["BITEXPORT_MODEL_MEMORY", "BITEXPORT_MODEL_SECONDS"])
@pytest.mark.parametrize("number", ["", "much", "0", "-1", "nan", "inf", "1e300"])
def test_no_limit(variable: str, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, number)
    with pytest.raises(InputError, match=f"{variable} sets no limit"), contained("ort"):
        pass


NO_MEMORY_FOR_NATIVE_CODE = """
import os, sys
sys.path[:] = sys.argv[1:]
from bitexport.worker import serve

def answer(job, arrays):
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n")
    os.abort()

serve(answer)
"""


def test_native_code_that_gets_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", NO_MEMORY_FOR_NATIVE_CODE, *sys.path]
    monkeypatch.setattr(worker, "python_command", lambda module: command)
    with worker.Worker("any", "any") as process, pytest.raises(MemoryError, match="bad_alloc"):
        process.ask({}, {})


@pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="asks Linux's /proc")
def test_the_process_ends_with_the_context_and_by_the_system(harmless: bytes) -> None:
    before = children()
    with contained("ort") as runtime:
        runner = runtime.load(harmless)
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)  # as the system does where memory runs out
        with pytest.raises(WorkerKilled):
            runner.run({"input": images(1)})
        runtime.load(harmless)
        assert len(children() - before) == 1
    assert children() <= before


def endless() -> bytes:
    """A sound model that never ends."""
    loop = helper.make_graph(
        [helper.make_node("Identity", [x], [f"{x}_out"]) for x in ("again", "value")],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, None),
        ],
    )
    model = onnx.ModelProto.FromString(
        stranger(helper.make_node("Loop", ["", "true", "input"], ["output"], body=loop), FLOATS)
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    return model.SerializeToString()


@pytest.fixture
def deaf_to_alarms() -> Iterator[None]:
    """As after a shell's ``trap '' ALRM``, and more: what we start ignores it and blocks it."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="time is not limited on Windows")
@pytest.mark.usefixtures("deaf_to_alarms")
def test_a_model_that_takes_too_long_is_stopped(
    harmless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITEXPORT_MODEL_SECONDS", "2")
    with contained("ort") as runtime:
        runner = runtime.load(endless())
        with pytest.raises(ModelTooGreedy, match=r"more than 2 seconds.*BITEXPORT_MODEL_SECONDS"):
            runner.run({"input": np.zeros(1, np.float32)})
        # It goes on after that, and a process that does nothing is not stopped.
        runner = runtime.load(harmless)
        time.sleep(2.5)
        assert runner.run({"input": images(1)})["logits"].shape == (1, LOGITS)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends after the job that it is at")
@pytest.mark.parametrize("at_work", [False, True])
def test_it_does_not_outlive_a_program_that_is_killed(tmp_path: Path, at_work: bool) -> None:
    (tmp_path / "model.onnx").write_bytes(endless())
    program = """
import sys, time
import numpy as np
from pathlib import Path
from bitexport.runtimes.contained import contained
with contained("ort") as runtime:
    runner = runtime.load(Path(sys.argv[1]).read_bytes())
    print(Path("/proc/thread-self/children").read_text(), flush=True)
    if sys.argv[2] == "True":
        runner.run({"input": np.zeros(1, np.float32)})
    time.sleep(600)
"""
    arguments = (tmp_path / "model.onnx", str(at_work))
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        process = Path("/proc", parent.stdout.readline().strip(), "status")
        assert process.exists()
        time.sleep(0.5)  # by then it is at the job
        parent.kill()
    for _ in range(300):
        if not process.exists() or "State:\tZ" in process.read_text():
            return
        time.sleep(0.1)
    os.kill(int(process.parent.name), signal.SIGKILL)
    pytest.fail("the process is still there")


def test_large_images_may_have_large_maps() -> None:
    """As the masks of a detector: 33 times its image."""
    value = helper.make_tensor_value_info
    tile = helper.make_node("Tile", ["input", "times"], ["logits"])
    graph = helper.make_graph(
        [tile],
        "g",
        [value("input", TensorProto.FLOAT, ["N", 3, None, None])],
        [value("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([33, 1, 1, 1]), "times")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with contained("ort") as runtime:
        runner = runtime.load(model.SerializeToString())
        image = np.ones((1, 3, 800, 896), np.float32)
        assert runner.run({"input": image})["logits"].shape == (33, 3, 800, 896)  # 270 MiB
