"""The GPU path on a CUDA driver in software (tests/software_gpu): the same bytes as the CPU, no finding of the driver,
every failure in one line; and the driver reports faults that are planted on purpose."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, build_engine

sys.path.insert(1, str(ROOT / "tests/software_gpu"))

import build as software_gpu

pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")

Run = Callable[..., subprocess.CompletedProcess[str]]


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
        path = environment["PYTHONPATH"].replace(str(ROOT), str(root)) if root != ROOT else environment["PYTHONPATH"]
        path = os.pathsep.join([str(ROOT / "tests/software_gpu"), *path.split(os.pathsep)[1:]])
        return subprocess.run(
            [sys.executable, str(root / script), *map(str, arguments)], capture_output=True, text=True, timeout=300,
            env={**environment, "PYTHONPATH": path, "SOFTGPU_LOG": str(log), **{k: str(v) for k, v in variables.items()}})

    return run


@pytest.fixture(scope="module")
def gpu_engine(environment: dict[str, str], model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
               ) -> Path:
    """An FP32 engine of batch 4 for the software GPU."""
    engine = tmp_path_factory.mktemp("gpu") / "fp32.engine"
    done = subprocess.run(
        [sys.executable, str(ROOT / "build_engine.py"), "--model_path", str(model_files["onnx"]), "--input",
         "input:4,3,256,192", "--precision", "fp32", "--backend", "tensorrt", "--engine_path", str(engine)],
        capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return engine


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("capture", ["allow", "refuse", "spoil"])
@pytest.mark.parametrize("flip_test", [False, True])
def test_keypoints_equal_the_cpu_engines(run: Run, log: Path, gpu_engine: Path, engine_file: Path, drawn: Path,
                                         tmp_path: Path, flip_test: bool, capture: str) -> None:
    """Whether or not the work can be captured into a CUDA graph."""
    options = ["--flip_test"] if flip_test else []
    for engine, output in ((gpu_engine, "gpu"), (engine_file, "cpu")):
        done = run("inference.py", "--engine", engine, "--datasets", drawn, "--output", tmp_path / output, *options,
                   SOFTGPU_CAPTURE=capture)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "gpu/keypoints.json").read_bytes() == (tmp_path / "cpu/keypoints.json").read_bytes()
    assert findings(log) == []


def test_reference_on_another_backend(run: Run, log: Path, gpu_engine: Path, engine_file: Path, drawn: Path,
                                      tmp_path: Path) -> None:
    for engine, reference in ((gpu_engine, engine_file), (engine_file, gpu_engine)):
        done = run("inference.py", "--engine", engine, "--reference", reference, "--datasets", drawn, "--output",
                   tmp_path)
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
def test_loadgen(run: Run, log: Path, gpu_engine: Path, engine_file: Path, drawn: Path, tmp_path: Path, scenario: str
                 ) -> None:
    options = ("--scenario", scenario, "--datasets", drawn)
    rate = [] if scenario == "singlestream" else ["--target_qps", 50]
    done = run("inference.py", "--engine", gpu_engine, *options, "--perf_only", "--min_duration", 0.001, *rate,
               "--target_latency", 60000, "--output", tmp_path / "performance")
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(tmp_path / "performance")["valid"] is True
    for engine, output in ((gpu_engine, "gpu"), (engine_file, "cpu")):
        done = run("inference.py", "--engine", engine, *options, "--output", tmp_path / output)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "gpu/keypoints.json").read_bytes() == (tmp_path / "cpu/keypoints.json").read_bytes()
    assert findings(log) == []
