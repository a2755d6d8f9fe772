"""The GPU path on a CUDA driver in software (tests/software_gpu): the same bytes as the CPU, no finding of the driver,
every failure in one line. The driver reports faults that are planted on purpose."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import ROOT, run_script

import sweep
from rtmpose.engines.record import read_record

pytestmark = pytest.mark.slow

Run = Callable[..., str]
# scripts/test.sh --all sets COVERAGE_FILE, and prints how much of the GPU path ran.
PYTHON = [sys.executable, *(["-m", "coverage", "run"] if "COVERAGE_FILE" in os.environ else [])]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """File of the driver's findings."""
    return tmp_path / "software_gpu.log"


def findings(log: Path) -> list[str]:
    """What the driver found; its notes are no findings."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if ": note:" not in line]


@pytest.fixture
def run(software_gpu: dict[str, str], log: Path) -> Iterator[Run]:
    """What a script prints on the software GPU: output, or the one line of a user error. At the end the driver must
    have found nothing."""
    def run(script: str, *arguments: object, code: int = 0, root: Path = ROOT, **variables: object) -> str:
        done = subprocess.run(
            [*PYTHON, str(root / script), *map(str, arguments)], capture_output=True, text=True, timeout=600,
            env={**software_gpu, "SOFTGPU_LOG": str(log), **{name: str(value) for name, value in variables.items()}},
            check=False)
        assert (done.returncode, done.stderr.count("\n")) == (code, int(code == 2)), done
        return done.stderr if code else done.stdout

    yield run
    assert findings(log) == []


def build_arguments(onnx: Path, engine: Path) -> tuple[object, ...]:
    """Arguments that build an FP32 engine of batch 4."""
    return ("build_engine.py", "--model_path", onnx, "--batch", 4, "--precision", "fp32", "--backend", "tensorrt",
            "--engine_path", engine)


@pytest.fixture(scope="module")
def gpu_engine(software_gpu: dict[str, str], model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
               ) -> Path:
    """An engine for the software GPU."""
    engine = tmp_path_factory.mktemp("gpu") / "fp32.engine"
    script, *arguments = build_arguments(model_files["onnx"], engine)
    done = subprocess.run([*PYTHON, str(ROOT / script), *map(str, arguments)], capture_output=True, text=True,
                          env=software_gpu, check=False)
    assert done.returncode == 0, done.stderr
    return engine


@pytest.fixture(scope="module")
def cpu_keypoints(engine_file: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """keypoints.json of the CPU engine."""
    output = tmp_path_factory.mktemp("cpu")
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--output", output)
    assert (done.returncode, done.stderr) == (0, "")
    return (output / "keypoints.json").read_bytes()


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(("flip_test", "capture"), [
    (False, "allow"), (True, "allow"), (True, "refuse"), (False, "spoil")])
def test_keypoints_equal_the_cpu_engines(run: Run, gpu_engine: Path, engine_file: Path, drawn: Path, tmp_path: Path,
                                         flip_test: bool, capture: str) -> None:
    """Whether or not the work can be captured into a CUDA graph."""
    run("inference.py", "--engine", gpu_engine, "--reference", engine_file, "--datasets", drawn, "--output", tmp_path,
        *(["--flip_test"] if flip_test else []), SOFTGPU_CAPTURE=capture)
    agreement = summary(tmp_path)["agreement"]
    assert (agreement["within_bin"], agreement["max_px"], agreement["ap_difference"]) == (1, 0, 0)


def test_throughput(run: Run, gpu_engine: Path, tmp_path: Path) -> None:
    run("inference.py", "--engine", gpu_engine, "--perf_only", "--iterations", 5, "--duration", 0, "--output", tmp_path,
        SOFTGPU_NETWORK="zeros", SOFTGPU_ENQUEUE_MS=20)
    measured = summary(tmp_path)
    assert read_record(gpu_engine).kernels["number"] == len(onnx.load(gpu_engine).graph.node), "the inspector's"
    assert re.search("by CUDA events, .* back to back as CUDA graphs$", measured["fps_of"])
    assert len(measured["other_timings"]) == 3
    for timed in (measured, next(iter(measured["other_timings"].values()))):
        assert {"request_latency_ms", "enqueue_ms"} <= timed.keys()


def test_nvml_watches_cudas_card(run: Run, software_gpu: dict[str, str], gpu_engine: Path, tmp_path: Path) -> None:
    """CUDA's first of two, which is NVML's second, through NVML's own Python bindings."""
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    library = software_gpu["LD_LIBRARY_PATH"]
    run("inference.py", "--engine", gpu_engine, "--perf_only", "--iterations", 5, "--duration", 0, "--output", tmp_path,
        SOFTGPU_NETWORK="zeros", SOFTGPU_DEVICES=2, LD_LIBRARY_PATH=f"{library}:{library}/nvml")
    measured = summary(tmp_path)
    machine, conditions = measured["machine"], measured["conditions"]
    assert [machine[name] for name in ("driver", "power_limit_w", "persistence_mode", "mig_mode")] == [
        "580.65.06", 72, True, None]
    samples = conditions["gpu"]["samples"]
    assert conditions["gpu"] == {
        "power_limit_w": 72, "default_power_limit_w": 75, "ecc": True, "mig": None, "boost_mhz": 1980,
        "samples": samples, **{name: {"min": value, "mean": value, "max": value} for name, value in (
            ("sm_mhz", 1755), ("memory_mhz", 6251), ("temperature_c", 91), ("power_w", 71.5))},
        "throttle_reasons": {"software thermal slowdown": samples}, "other_processes": 1}
    assert {"1 other process on the GPU", f"the GPU slowed down in {samples} of {samples} samples: software thermal "
            "slowdown, at up to 91 °C"} <= set(conditions["reasons"])


def test_two_streams_and_pixels_give_what_one_stream_gives(run: Run, gpu_engine: Path, tmp_path: Path) -> None:
    script = tmp_path / "streams.py"
    script.write_text(f"""
import inspect
import numpy as np
from rtmpose.data import postprocess, preprocess
from rtmpose.engines import load_engine
from rtmpose.engines.tensorrt.stream import KEYPOINTS, enqueue_pixels
from rtmpose.timing import finish

engine, crops = load_engine({str(gpu_engine)!r}), preprocess.random_input(4, (192, 256))
expected = engine.infer(crops)
engine.add_streams(1)
first, second, pixels, _ = engine.timers(crops).values()
streams = [engine, *engine._others]
for timer in (first, second, pixels):
    for slot in (slot for stream in streams for slot in stream._slots):
        for array in slot.outputs.values():
            array[...] = np.nan
    assert min([timer() for _ in range(4)]) > 0
    assert finish(timer).keys() == {{"request_latency_ms", "enqueue_ms"}}
    if timer is second:
        for slot in (slot for stream in streams for slot in stream._slots):
            for given, logits in zip(slot.outputs.values(), expected, strict=True):
                np.testing.assert_array_equal(given, logits)
enqueue = enqueue_pixels(crops, engine._others[0])
enqueue(0)
engine.wait()
keypoints, scores = postprocess.decode(*expected, (192, 256))
(slot, _) = inspect.getclosurevars(enqueue).nonlocals["runner"].slots
np.testing.assert_array_equal(slot.outputs[KEYPOINTS], np.dstack([keypoints, scores]))
engine.close()
""")
    run(str(script), root=Path("/"))
    run("inference.py", "--engine", gpu_engine, "--perf_only", "--streams", 2, "--iterations", 2, "--duration", 0,
        "--output", tmp_path, SOFTGPU_CAPTURE="refuse")
    measured = summary(tmp_path)
    assert measured["streams"] == 2 and measured["fps_of"].endswith(" back to back kernel by kernel, 2 streams")
    assert any("4 batches in flight" in name for name in measured["other_timings"])


def test_gpu_table_measures_levels_streams_and_copies(run: Run, model_files: dict[str, Path], tmp_path: Path) -> None:
    script = tmp_path / "table.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import gpu_table
timed = gpu_table.measure_in_turns({str(model_files["onnx"])!r}, {str(tmp_path)!r}, 2, 1, rounds=1, seconds=0)
assert (*timed,) == gpu_table.TIMED and min(timed.values()) > 0
""")
    run(str(script), root=Path("/"), SOFTGPU_NETWORK="zeros")
    assert [read_record(path).optimization_level for path in sorted(tmp_path.glob("*.engine"))] == [None, 5]


def test_int8_is_kept_only_where_it_is_faster(run: Run, model_files: dict[str, Path], calibration_folder: Path,
                                              tmp_path: Path) -> None:
    for milliseconds, kept, arithmetic in (("0,60", "int8", {"int8": 37, "fp16": 4, "fp32": 4}),
                                           ("60,0", "fp16", {"fp16": 41, "fp32": 4})):
        engine, typed = tmp_path / f"{kept}.engine", tmp_path / f"{kept}.onnx"
        command = ("build_engine.py", "--model_path", model_files["onnx"], "--batch", 2, "--precision", "int8",
                   "--calibration", calibration_folder, "--backend", "tensorrt", "--engine_path", engine)
        shown = run(*command, SOFTGPU_BUILDS_MS=milliseconds, SOFTGPU_NETWORK="zeros")
        record = read_record(engine)
        assert (record.requested_precision, record.precision, record.arithmetic) == ("int8", kept, arithmetic)
        assert [*record.measured_fps] == ["tensorrt int8", "tensorrt fp16"] and f"  kept: tensorrt {kept}, " in shown
        assert ("int8 was asked for, but tensorrt computes in fp16 here: that is faster" in shown) == (kept == "fp16")
        scheme = {"signed": True, "outputs": False, "equalized": True, "rest_fp16": True}
        assert record.calibration["scheme"] == scheme
        assert "nothing to do" in run(*command, "--save_onnx", typed)
        nodes = [node.op_type for node in onnx.load(typed).graph.node]
        assert ("QuantizeLinear" in nodes) == (kept == "int8")


@pytest.mark.parametrize("scenario", ["offline", "singlestream", "server"])
def test_loadgen(run: Run, gpu_engine: Path, cpu_keypoints: bytes, drawn: Path, tmp_path: Path, scenario: str) -> None:
    options = ("--engine", gpu_engine, "--scenario", scenario, "--datasets", drawn, "--output", tmp_path)
    rate = {"offline": ["--target_qps", 50], "singlestream": [],
            "server": ["--target_qps", 50, "--target_latency", 60000]}[scenario]
    run("inference.py", *options, "--perf_only", "--min_duration", 0.001, *rate)
    assert summary(tmp_path)["valid"] is True
    run("inference.py", *options)
    assert (tmp_path / "keypoints.json").read_bytes() == cpu_keypoints


def run_with_each(run: Run, variable: str, numbers: Iterable[int], *arguments: object) -> list[str]:
    """Errors of inference.py with each of some numbers in a variable, one line each; empty where it succeeded."""
    shown = run("tests/software_gpu/fork_runs.py", variable, *numbers, "--", *arguments, SOFTGPU_NETWORK="zeros",
                SOFTGPU_DELAY_US=20)
    results = list(map(json.loads, shown.splitlines()))
    for result in results:
        assert (result["code"], result["errors"].count("\n")) in ((0, 0), (2, 1)), result
    return [result["errors"] for result in results]


def test_out_of_memory_at_each_allocation(run: Run, gpu_engine: Path, drawn: Path) -> None:
    """Up to the first run that succeeds."""
    errors: list[str] = []
    while "" not in errors:
        numbers = range(len(errors) + 1, len(errors) + 11)
        errors += run_with_each(run, "SOFTGPU_FAIL_ALLOCATION", numbers, "--engine", gpu_engine, "--datasets", drawn,
                                "--flip_test")
    failed = errors[:errors.index("")]
    assert len(failed) > 20 and all("smaller batch" in error for error in failed)


def test_out_of_memory_of_two_streams(run: Run, gpu_engine: Path) -> None:
    errors = run_with_each(run, "SOFTGPU_FAIL_ALLOCATION", range(26, 70, 6), "--engine", gpu_engine, "--perf_only",
                           "--streams", 2, "--iterations", 1, "--duration", 0)
    failed = list(filter(None, errors))
    assert 4 < len(failed) < len(errors) and all("smaller batch" in error for error in failed)


@pytest.mark.parametrize("options", [(), ("--perf_only", "--iterations", 3, "--duration", 0)],
                         ids=["accuracy", "throughput"])
def test_enqueue_that_fails(run: Run, gpu_engine: Path, drawn: Path, options: tuple[object, ...]) -> None:
    """At each place: while the network is timed, captured (which only does without the graph), and run."""
    errors = run_with_each(run, "SOFTGPU_FAIL_ENQUEUE", range(1, 40, 2), "--engine", gpu_engine, "--datasets", drawn,
                           *options)
    failed = list(filter(None, errors))
    assert 5 < len(failed) < len(errors) == 20
    assert all("failed to run the engine (IExecutionContext" in error for error in failed)


def test_driver_that_is_too_old(run: Run, gpu_engine: Path, drawn: Path) -> None:
    message = run("inference.py", "--engine", gpu_engine, "--datasets", drawn, SOFTGPU_CUDA_VERSION=12040, code=2)
    assert "the driver can't load the kit's kernels" in message


@pytest.mark.parametrize(("variables", "device"), [
    ({}, "Software GPU"), ({"CUDA_DEVICE": 1}, "Software GPU 1"), ({"CUDA_VISIBLE_DEVICES": "1"}, "Software GPU 1"),
    ({"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE": 1}, "Software GPU")])
def test_gpu_that_is_described_is_the_one_that_runs(run: Run, tmp_path: Path, variables: dict, device: str) -> None:
    script = tmp_path / "device.py"
    script.write_text("from rtmpose.machine.versions import find_gpu; import pycuda.autoprimaryctx as context; "
                      "gpu = find_gpu(); print(gpu.name, context.device.name(), gpu.boost_mhz, gpu.bus_id, sep='\\n')")
    printed = run(str(script), SOFTGPU_DEVICES=2, root=Path("/"), **variables).splitlines()
    bus_id = {"Software GPU": "0000:02:00.0", "Software GPU 1": "0000:01:00.0"}[device]
    assert printed == [device, device, "1980.0", bus_id]


def test_engine_is_built_on_the_gpu_that_its_record_names(run: Run, model_files: dict[str, Path], tmp_path: Path
                                                          ) -> None:
    """TensorRT builds on the GPU that is current, which is the first unless someone chooses another."""
    engine = tmp_path / "second.engine"
    run(*build_arguments(model_files["onnx"], engine), SOFTGPU_DEVICES=2, CUDA_DEVICE=1)
    (built_on,) = [entry.value for entry in onnx.load(engine, "protobuf").metadata_props if "device" in entry.key]
    assert (read_record(engine).device_name, built_on) == ("Software GPU 1", "1")


@pytest.mark.parametrize(("gpus", "reason"), [
    (2, "was built for Software GPU (compute capability "),  # the two have different names
    (1, "LOCAL_RANK: is '1', expected the number of a GPU from 0 to 0; start fewer ranks")])
def test_each_rank_takes_the_gpu_of_its_number(software_gpu: dict[str, str], gpu_engine: Path, gpus: int, reason: str
                                               ) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ROOT / "inference.py"),
         "--engine", str(gpu_engine), "--perf_only"], capture_output=True, text=True, timeout=120, check=False,
        env={**software_gpu, "SOFTGPU_DEVICES": str(gpus), "OMP_NUM_THREADS": "1"})
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("inference.py: ")]
    assert line.startswith("inference.py: error: rank 1 of 2 on ") and reason in line
    assert gpus == 1 or "but this machine has Software GPU 1 (" in line


def test_gpu_ranks_give_the_same_bytes(software_gpu: dict[str, str], gpu_engine: Path, cpu_keypoints: bytes,
                                       drawn: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # Two machines with one GPU each: the engine is for GPU 0 only.
    launchers = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", node, "--master-addr",
         "127.0.0.1", "--master-port", port, str(ROOT / "inference.py"), "--engine", str(gpu_engine), "--datasets",
         str(drawn), "--output", str(tmp_path)], env={**software_gpu, "OMP_NUM_THREADS": "1"}) for node in "01"]
    assert [launcher.wait(120) for launcher in launchers] == [0, 0]
    assert (tmp_path / "keypoints.json").read_bytes() == cpu_keypoints


def test_auto_leaves_a_gpu_aside_that_lacks_a_package(run: Run, software_gpu: dict[str, str],
                                                      model_files: dict[str, Path], tmp_path: Path) -> None:
    shown = run("build_engine.py", "--model_path", model_files["onnx"], "--batch", 1, "--precision", "fp32",
                "--engine_path", tmp_path / "a.engine", PYTHONPATH=path_without(software_gpu, "site"))
    assert "Note: Software GPU is not used: pycuda not installed; run scripts/setup.sh --gpu" in shown


def path_without(software_gpu: dict[str, str], folder: str | None) -> str:
    """PYTHONPATH without the packages of a folder."""
    return os.pathsep.join(path for path in software_gpu["PYTHONPATH"].split(os.pathsep) if Path(path).name != folder)


@pytest.mark.parametrize(("variables", "message"), [
    ({"SOFTGPU_TENSORRT_VERSION": "9.9"}, "was built by tensorrt 10.16.1.11, but 9.9 is installed; build it again"),
    ({"SOFTGPU_COMPUTE_CAPABILITY": 80}, "but this machine has Software GPU (compute capability 8.0)"),
    ({"SOFTGPU_DEVICES": 0}, "needs a GPU, and no NVIDIA GPU is here"),
    ({"SOFTGPU_FAIL_INIT": 802}, "the NVIDIA driver doesn't work, it answers with error 802"),
    ({"CUDA_DEVICE": 7}, "inference.py: error: CUDA_DEVICE: is '7', expected"),
    ({"without": "site"}, "can't run: pycuda not installed"),
    ({"without": "packages"}, "was built by tensorrt 10.16.1.11, which is not installed"),
    ({"SOFTGPU_FAIL_BUILD": "load"}, "can't load it (made up); build it again"),
])
def test_engine_that_cannot_run_here(run: Run, software_gpu: dict[str, str], gpu_engine: Path,
                                     variables: dict[str, Any], message: str) -> None:
    path = path_without(software_gpu, variables.get("without"))
    assert message in run("inference.py", "--engine", gpu_engine, "--perf_only", PYTHONPATH=path, code=2, **variables)


@pytest.mark.parametrize(("variables", "message"), [
    ({"SOFTGPU_CUDA_VERSION": 11080}, "the driver speaks CUDA 11.8"),
    ({"SOFTGPU_DEVICES": 0}, "TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU is here"),
    ({"SOFTGPU_FAIL_BUILD": "parse"}, "tensorrt 10.16.1.11 can't build it (can't parse the graph: made up)"),
    ({"SOFTGPU_FAIL_BUILD": "node"}, "(can't parse the graph: In node 5 with name: made up and operator: Bernoulli ("),
    ({"SOFTGPU_FAIL_BUILD": "build"}, "tensorrt 10.16.1.11 can't build it (made up)"),
])
def test_build_that_fails(run: Run, model_files: dict[str, Path], tmp_path: Path, variables: dict[str, Any],
                          message: str) -> None:
    assert message in run(*build_arguments(model_files["onnx"], tmp_path / "a.engine"), code=2, **variables)
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_a_build_are_told(run: Run, model_files: dict[str, Path], tmp_path: Path) -> None:
    printed = run(*build_arguments(model_files["onnx"], tmp_path / "fp32.engine"), SOFTGPU_FAIL_BUILD="warn")
    assert "  Note: tensorrt warns: made up (and 1 more)" in printed.splitlines()


def test_fastest_of_three_builds_is_kept(run: Run, model_files: dict[str, Path], tmp_path: Path) -> None:
    engine = tmp_path / "fp32.engine"
    arguments = (*build_arguments(model_files["onnx"], engine), "--optimization_level", 5)
    printed = run(*arguments, "--builds", 3, SOFTGPU_BUILDS_MS="40,0,40", SOFTGPU_NETWORK="zeros")
    properties = {entry.key: entry.value for entry in onnx.load(engine, "protobuf").metadata_props}
    assert (properties["milliseconds"], properties["level"]) == ("0", "5")
    record = read_record(engine)
    assert (record.builds, record.optimization_level) == (3, 5)
    assert [*record.measured_fps] == [f"tensorrt fp32 build {number}" for number in (1, 2, 3)]
    assert "  kept: tensorrt fp32 build 2, " in printed and "; tensorrt fp32 build 1 " in printed
    assert "can't tell" not in printed
    assert "nothing to do" in run(*arguments, "--builds", 3)
    assert "nothing to do" not in run(*arguments[:-2], "--builds", 1)
    assert (read_record(engine).builds, read_record(engine).optimization_level) == (1, None)


def test_sweep_keeps_the_fastest_of_three_builds(run: Run, model_files: dict[str, Path], tmp_path: Path) -> None:
    run("scripts/sweep.py", "--model", model_files["onnx"], "--precisions", "fp32", "--batches", 1, "--repeats", 1,
        "--output", tmp_path, "--", "--warmup", 1, "--iterations", 1, "--duration", 0, SOFTGPU_BUILDS_MS="40,0,40",
        SOFTGPU_NETWORK="zeros")
    assert read_record(tmp_path / "engines/fp32_bs1.engine").builds == sweep.BUILDS == 3


def test_second_engine_of_a_process_tells_its_reason(run: Run, gpu_engine: Path, tmp_path: Path) -> None:
    """TensorRT goes on with the first logger that it gets, whatever the second engine brings."""
    script = tmp_path / "two.py"
    script.write_text(f"""
import os, numpy, tensorrt
from rtmpose.engines import load_engine
from rtmpose.errors import KitError
first, second = (load_engine({str(gpu_engine)!r}) for _ in range(2))
os.environ["SOFTGPU_FAIL_ENQUEUE"] = str(tensorrt._Context._runs + 1)
try:
    second.infer(numpy.zeros((4, 3, 256, 192), "float32"))
except KitError as error:
    print(error)
""")
    assert "failed to run the engine (IExecutionContext::enqueueV3: " in run(
        str(script), root=Path("/"), SOFTGPU_CAPTURE="refuse")


def test_rtx(run: Run, software_gpu: dict[str, str], model_files: dict[str, Path], cpu_keypoints: bytes,
             drawn: Path, tmp_path: Path) -> None:
    """The kernels that one process compiles are there for the next."""
    _, site, root = software_gpu["PYTHONPATH"].split(os.pathsep)
    stand_in = ROOT / "tests/software_gpu/packages_rtx"
    variables = {"PYTHONPATH": os.pathsep.join([str(stand_in), site, root]), "SOFTGPU_COMPUTE_CAPABILITY": 89}
    engine = tmp_path / "rtx.engine"
    build = build_arguments(model_files["onnx"], engine)
    message = run(*build, code=2, **{**variables, "SOFTGPU_COMPUTE_CAPABILITY": 90})
    assert "does not support compute capability 9.0" in message
    assert " compute several layers; they read and write " in run(*build, **variables)
    for processes in (1, 2):
        run("inference.py", "--engine", engine, "--datasets", drawn, "--output", tmp_path, **variables)
        assert Path(f"{engine}.runtime_cache").read_bytes() == b"+" * processes
    assert (tmp_path / "keypoints.json").read_bytes() == cpu_keypoints


# What stands in the code, and what it is replaced with: each a mistake that a GPU may hide for years.
FAULTS = {
    "compute does not wait for the upload": (
        "engine.py", 'self.runs.wait_for_event(slot.events["uploaded"])', "pass"),
    "download does not wait for the computation": (
        "engine.py", 'self.downloads.wait_for_event(slot.events["computed"])', "pass"),
    "host does not wait for the download": (
        "stream.py", 'slot.events["downloaded"].synchronize()', "pass"),
    "host does not wait for the upload of a table": ("stream.py", "self._engine.cuda.Context.synchronize()", "pass"),
    "a slot is used again while it is in flight": ("stream.py", "slot = self._free.popleft()", "slot = self._free[0]"),
    "memory is freed while it is used": (
        "stream.py", "self._engine.enqueue_batch(slot, uploads)",
        "self._engine.enqueue_batch(slot, uploads); slot.device[KEYPOINTS].free()"),
    "another thread has no context": ("stream.py", "with self._engine.in_context():", "if True:"),
    "a kernel gets a wrong argument": (
        "stream.py", "int(mirrored), int(device[INPUT])", "int(mirrored), int(self._table)"),
    "a kernel gets too few bytes of arguments": (
        "stream.py", 'self._crop.prepare("PPPiiiP")', 'self._crop.prepare("PPPiii")'),
    # Of these the timers of two streams suffer.
    "two streams share an execution context": (
        "engine.py", "self._context = self._create_context()",
        'self._context = getattr(self, "_context", None) or self._create_context()'),
    "two streams share the memory of a batch": (
        "engine.py", "self._slots = [self.make_network_slot() for _ in range(IN_FLIGHT)]",
        'others, self._slots = getattr(self, "_slots", []), [self.make_network_slot() for _ in range(IN_FLIGHT)]; '
        "[slot.device.update(other.device) for slot, other in zip(self._slots, others)]"),
    "only one of two streams is waited for": ("engine.py", "in (self, *self._others):", "in (self,):"),
    "a batch starts before the one in its slot has ended": (
        "../in_flight.py", "in_flight = IN_FLIGHT * self._streams", "in_flight = 3 * self._streams"),
}
TIMED = list(FAULTS)[-4:]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_reported(software_gpu: dict[str, str], log: Path, gpu_engine: Path, drawn: Path,
                                   tmp_path: Path, fault: str) -> None:
    name, found, replaced = FAULTS[fault]
    shutil.copytree(ROOT / "rtmpose", tmp_path / "rtmpose")
    for script in ("common.py", "inference.py"):
        shutil.copy(ROOT / script, tmp_path)
    path = tmp_path / "rtmpose/engines/tensorrt" / name
    content = path.read_text()
    assert found in content, "the code that this fault spoils has changed"
    path.write_text(content.replace(found, replaced))
    stand_in, site, _ = software_gpu["PYTHONPATH"].split(os.pathsep)
    variables = {"SOFTGPU_LOG": str(log), "SOFTGPU_NETWORK": "zeros",
                 "PYTHONPATH": os.pathsep.join([stand_in, site, str(tmp_path)])}
    options = ["--perf_only", "--streams", "2", "--iterations", "4", "--duration", "0"] if fault in TIMED else []
    done = subprocess.run([*PYTHON, tmp_path / "inference.py", "--engine", gpu_engine, "--datasets", drawn, *options],
                          env=software_gpu | variables, capture_output=True, timeout=600, check=False)
    assert findings(log) or done.returncode not in (0, 2), done
