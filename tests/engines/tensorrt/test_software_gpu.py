"""The GPU path on a CUDA driver in software (tests/software_gpu): the same bytes as the CPU, no finding of the driver,
every failure in one line. The driver reports faults that are planted on purpose."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, run_script

sys.path.insert(1, str(ROOT / "tests/software_gpu"))

import build as software_gpu

pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


# scripts/test.sh --all sets COVERAGE_FILE, and prints how much of the GPU path ran.
PYTHON = [sys.executable, *(["-m", "coverage", "run"] if "COVERAGE_FILE" in os.environ else [])]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Environment of a process that sees the software GPU."""
    try:
        return {**os.environ, **software_gpu.build()}
    except software_gpu.Unavailable as error:
        pytest.skip(f"software GPU: {error}")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """File of the driver's findings."""
    return tmp_path / "software_gpu.log"


def findings(log: Path) -> list[str]:
    """What the driver found; its notes are no findings."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if ": note:" not in line]


@pytest.fixture
def run(environment: dict[str, str], log: Path) -> Run:
    """Run a script on the software GPU."""
    def run(script: str, *arguments: object, root: Path = ROOT, **variables: object
            ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PYTHON, str(root / script), *map(str, arguments)], capture_output=True, text=True, timeout=600,
            env={**environment, "SOFTGPU_LOG": str(log), **{name: str(value) for name, value in variables.items()}},
            check=False)

    return run


def build_arguments(onnx: Path, engine: Path) -> tuple[object, ...]:
    """Arguments that build an FP32 engine of batch 4."""
    return ("build_engine.py", "--model_path", onnx, "--batch", 4, "--precision", "fp32", "--backend", "tensorrt",
            "--engine_path", engine)


@pytest.fixture(scope="module")
def gpu_engine(environment: dict[str, str], model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
               ) -> Path:
    """An engine for the software GPU."""
    engine = tmp_path_factory.mktemp("gpu") / "fp32.engine"
    script, *arguments = build_arguments(model_files["onnx"], engine)
    done = subprocess.run([*PYTHON, str(ROOT / script), *map(str, arguments)], capture_output=True, text=True,
                          env=environment, check=False)
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
def test_keypoints_equal_the_cpu_engines(run: Run, log: Path, gpu_engine: Path, engine_file: Path, drawn: Path,
                                         tmp_path: Path, flip_test: bool, capture: str) -> None:
    """Whether or not the work can be captured into a CUDA graph."""
    done = run("inference.py", "--engine", gpu_engine, "--reference", engine_file, "--datasets", drawn, "--output",
               tmp_path, *(["--flip_test"] if flip_test else []), SOFTGPU_CAPTURE=capture)
    assert (done.returncode, done.stderr) == (0, "")
    agreement = summary(tmp_path)["agreement"]
    assert (agreement["within_bin"], agreement["max_px"], agreement["ap_difference"]) == (1, 0, 0)
    assert findings(log) == []


def test_throughput(run: Run, log: Path, gpu_engine: Path, tmp_path: Path) -> None:
    done = run("inference.py", "--engine", gpu_engine, "--perf_only", "--iterations", 5, "--duration", 0,
               "--output", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    measured = summary(tmp_path)
    assert "CUDA events" in measured["fps_of"] and len(measured["other_timings"]) == 2
    assert findings(log) == []


@pytest.mark.parametrize("scenario", ["offline", "singlestream", "server"])
def test_loadgen(run: Run, log: Path, gpu_engine: Path, cpu_keypoints: bytes, drawn: Path, tmp_path: Path,
                 scenario: str) -> None:
    options = ("--engine", gpu_engine, "--scenario", scenario, "--datasets", drawn, "--output", tmp_path)
    rate = {"offline": ["--target_qps", 50], "singlestream": [],
            "server": ["--target_qps", 50, "--target_latency", 60000]}[scenario]
    done = run("inference.py", *options, "--perf_only", "--min_duration", 0.001, *rate)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(tmp_path)["valid"] is True
    done = run("inference.py", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "keypoints.json").read_bytes() == cpu_keypoints
    assert findings(log) == []


def run_with_each(run: Run, variable: str, engine: Path, drawn: Path, *options: object) -> list[dict[str, Any]]:
    """Results of inference.py with a variable that counts up until a run succeeds; all runs before must have failed."""
    done: list[dict[str, Any]] = []
    while not done or done[-1]["code"] != 0:
        first = len(done) + 1
        process = run("tests/software_gpu/fork_runs.py", variable, *range(first, first + 10), "--", "--engine", engine,
                      "--datasets", drawn, *options, SOFTGPU_NETWORK="zeros", SOFTGPU_DELAY_US=20)
        assert process.returncode == 0, process.stderr
        done += map(json.loads, process.stdout.splitlines())
        assert len(done) < 500
    return [result for result in done if result["code"] != 0]


def test_out_of_memory_at_each_allocation(run: Run, log: Path, gpu_engine: Path, drawn: Path) -> None:
    failed = run_with_each(run, "SOFTGPU_FAIL_ALLOCATION", gpu_engine, drawn, "--flip_test")
    assert len(failed) > 20
    for result in failed:
        assert result["code"] == 2 and len(result["errors"].splitlines()) == 1, result
        assert "smaller batch" in result["errors"], result
    assert findings(log) == []


@pytest.mark.parametrize("options", [(), ("--perf_only", "--iterations", 3, "--duration", 0)],
                         ids=["accuracy", "throughput"])
def test_enqueue_that_fails(run: Run, log: Path, gpu_engine: Path, drawn: Path, options: tuple[object, ...]) -> None:
    """At each place: while the network is timed, captured (which only does without the graph), and run."""
    process = run("tests/software_gpu/fork_runs.py", "SOFTGPU_FAIL_ENQUEUE", *range(1, 40, 2), "--", "--engine",
                  gpu_engine, "--datasets", drawn, *options, SOFTGPU_NETWORK="zeros", SOFTGPU_DELAY_US=20)
    results = list(map(json.loads, process.stdout.splitlines()))
    assert len(results) == 20, process.stderr
    for result in results:
        if result["code"] != 0:
            assert result["code"] == 2 and len(result["errors"].splitlines()) == 1, result
            assert "failed to run the engine (IExecutionContext" in result["errors"]
    assert 5 < sum(result["code"] == 2 for result in results) < 20
    assert findings(log) == []


def test_signals(environment: dict[str, str], log: Path, gpu_engine: Path) -> None:
    command = [*PYTHON, ROOT / "inference.py", "--engine", gpu_engine, "--perf_only", "--duration", "600"]
    variables = {**environment, "SOFTGPU_LOG": str(log), "SOFTGPU_NETWORK": "zeros"}
    numbers = (signal.SIGINT, signal.SIGTERM)
    processes = [subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) for _ in numbers]
    time.sleep(8)
    for process, number in zip(processes, numbers, strict=True):
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (-number, "")
    assert findings(log) == []


def test_driver_that_is_too_old(run: Run, gpu_engine: Path, model_files: dict[str, Path], drawn: Path, tmp_path: Path
                                ) -> None:
    done = run("inference.py", "--engine", gpu_engine, "--datasets", drawn, SOFTGPU_CUDA_VERSION=12040)
    assert done.returncode == 2 and "the driver can't load the kit's kernels" in done.stderr
    done = run(*build_arguments(model_files["onnx"], tmp_path / "a.engine"), SOFTGPU_CUDA_VERSION=11080)
    assert done.returncode == 2 and "the driver speaks CUDA 11.8" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "a.engine").exists()


@pytest.mark.parametrize(("variables", "device"), [
    ({}, "Software GPU"), ({"CUDA_DEVICE": 1}, "Software GPU 1"), ({"CUDA_VISIBLE_DEVICES": "1"}, "Software GPU 1"),
    ({"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE": 1}, "Software GPU")])
def test_gpu_that_is_described_is_the_one_that_runs(run: Run, tmp_path: Path, variables: dict[str, object], device: str
                                                    ) -> None:
    script = tmp_path / "device.py"
    script.write_text("from rtmpose.machine.versions import find_gpu; import pycuda.autoprimaryctx as context; "
                      "print(find_gpu().name, context.device.name(), sep='\\n')")
    done = run(str(script), SOFTGPU_DEVICES=2, root=Path("/"), **variables)
    assert done.stdout.splitlines() == [device, device], done.stderr


@pytest.mark.parametrize(("gpus", "reason"), [
    (2, "was built for Software GPU (compute capability "),  # the two have different names
    (1, "LOCAL_RANK: is '1', expected the number of a GPU from 0 to 0; start fewer ranks")])
def test_each_rank_takes_the_gpu_of_its_number(environment: dict[str, str], gpu_engine: Path, gpus: int, reason: str
                                               ) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ROOT / "inference.py"),
         "--engine", str(gpu_engine), "--perf_only"], capture_output=True, text=True, timeout=120, check=False,
        env={**environment, "SOFTGPU_DEVICES": str(gpus), "OMP_NUM_THREADS": "1"})
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("inference.py: ")]
    assert line.startswith("inference.py: error: rank 1 of 2 on ") and reason in line
    assert gpus == 1 or "but this machine has Software GPU 1 (" in line


def test_gpu_ranks_give_the_same_bytes(environment: dict[str, str], gpu_engine: Path, cpu_keypoints: bytes,
                                       drawn: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # Two machines with one GPU each: the engine is for GPU 0 only.
    launchers = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", node, "--master-addr",
         "127.0.0.1", "--master-port", port, str(ROOT / "inference.py"), "--engine", str(gpu_engine), "--datasets",
         str(drawn), "--output", str(tmp_path)], env={**environment, "OMP_NUM_THREADS": "1"}) for node in "01"]
    assert [launcher.wait(120) for launcher in launchers] == [0, 0]
    assert (tmp_path / "keypoints.json").read_bytes() == cpu_keypoints


def test_auto_leaves_a_gpu_aside_that_lacks_a_package(run: Run, environment: dict[str, str],
                                                      model_files: dict[str, Path], tmp_path: Path) -> None:
    stand_in, _, root = environment["PYTHONPATH"].split(os.pathsep)
    done = run("build_engine.py", "--model_path", model_files["onnx"], "--input", "input:1,3,256,192", "--precision",
               "fp32", "--engine_path", tmp_path / "a.engine", PYTHONPATH=os.pathsep.join([stand_in, root]))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Note: Software GPU is not used: pycuda not installed; run scripts/setup.sh --gpu" in done.stdout


@pytest.mark.parametrize(("variables", "message"), [
    ({"SOFTGPU_TENSORRT_VERSION": "9.9"}, "was built by tensorrt 10.16.1.11, but 9.9 is installed; build it again"),
    ({"SOFTGPU_COMPUTE_CAPABILITY": 80}, "but this machine has Software GPU (compute capability 8.0)"),
    ({"SOFTGPU_DEVICES": 0}, "needs a GPU, and no NVIDIA GPU is here"),
    ({"CUDA_DEVICE": 7}, "inference.py: error: CUDA_DEVICE: is '7', expected"),
    ({"without": "site"}, "can't run: pycuda not installed"),
    ({"without": "packages"}, "was built by tensorrt 10.16.1.11, which is not installed"),
    ({"SOFTGPU_FAIL_BUILD": "load"}, "can't load it (made up); build it again"),
])
def test_engine_that_cannot_run_here(run: Run, environment: dict[str, str], gpu_engine: Path,
                                     variables: dict[str, Any], message: str) -> None:
    without = variables.pop("without", None)
    path = [folder for folder in environment["PYTHONPATH"].split(os.pathsep) if Path(folder).name != without]
    done = run("inference.py", "--engine", gpu_engine, "--perf_only", PYTHONPATH=os.pathsep.join(path), **variables)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(("variables", "message"), [
    ({"SOFTGPU_DEVICES": 0}, "TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU is here"),
    ({"SOFTGPU_FAIL_BUILD": "parse"}, "tensorrt 10.16.1.11 can't build it (can't parse the graph: made up)"),
    ({"SOFTGPU_FAIL_BUILD": "build"}, "tensorrt 10.16.1.11 can't build it (made up)"),
])
def test_build_that_fails(run: Run, model_files: dict[str, Path], tmp_path: Path, variables: dict[str, Any],
                          message: str) -> None:
    done = run(*build_arguments(model_files["onnx"], tmp_path / "a.engine"), **variables)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rtx(run: Run, environment: dict[str, str], log: Path, model_files: dict[str, Path], cpu_keypoints: bytes,
             drawn: Path, tmp_path: Path) -> None:
    """The kernels that one process compiles are there for the next."""
    _, site, root = environment["PYTHONPATH"].split(os.pathsep)
    stand_in = ROOT / "tests/software_gpu/packages_rtx"
    variables = {"PYTHONPATH": os.pathsep.join([str(stand_in), site, root]), "SOFTGPU_COMPUTE_CAPABILITY": 89}
    engine = tmp_path / "rtx.engine"
    build = build_arguments(model_files["onnx"], engine)
    refused = run(*build, **{**variables, "SOFTGPU_COMPUTE_CAPABILITY": 90})
    assert refused.returncode == 2 and "does not support compute capability 9.0" in refused.stderr
    assert run(*build, **variables).returncode == 0
    for processes in (1, 2):
        done = run("inference.py", "--engine", engine, "--datasets", drawn, "--output", tmp_path, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert Path(f"{engine}.runtime_cache").read_bytes() == b"+" * processes
    assert (tmp_path / "keypoints.json").read_bytes() == cpu_keypoints
    assert findings(log) == []


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
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_reported(run: Run, environment: dict[str, str], log: Path, gpu_engine: Path, drawn: Path,
                                   tmp_path: Path, fault: str) -> None:
    name, found, replaced = FAULTS[fault]
    for source in ("common.py", "inference.py", "rtmpose"):
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / source)
    path = tmp_path / "rtmpose/engines/tensorrt" / name
    content = path.read_text()
    assert found in content, "the code that this fault spoils has changed"
    path.write_text(content.replace(found, replaced))
    stand_in, site, _ = environment["PYTHONPATH"].split(os.pathsep)
    variables = {"SOFTGPU_NETWORK": "zeros", "PYTHONPATH": os.pathsep.join([stand_in, site, str(tmp_path)])}
    done = run("inference.py", "--engine", gpu_engine, "--datasets", drawn, root=tmp_path, **variables)
    assert findings(log) or done.returncode not in (0, 2), done
