"""check_gpu.py on the driver in software and without a GPU."""

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, refused, run_script

import check_gpu
from rtmpose.machine.gpu import find_gpu


@pytest.mark.slow
def test_every_check_passes_on_the_software_gpu(software_gpu: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "software_gpu.log"
    done = run_script("scripts/check_gpu.py", cwd=tmp_path, env=software_gpu | {"SOFTGPU_LOG": str(log)})
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "timings are meaningless" in done.stdout.splitlines()[0]
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert (content["passed"], content["timings_count"], content["machine"]["gpu"]) == (True, False, "Software GPU")
    rows = {row["check"]: row for row in content["checks"]}
    assert [*rows] == [*check_gpu.CHECKS] and all(row["reason"] and not row["to_do"] for row in rows.values())
    assert {name: row["passed"] for name, row in rows.items()} == {**dict.fromkeys(rows, True), "speed": None}
    assert "speed       not checked" in done.stdout
    assert rows["fp32"]["reason"].startswith("100.00%")
    findings = [line for line in log.read_text().splitlines() if ": note:" not in line] if log.exists() else []
    assert findings == []


@pytest.mark.slow
def test_a_cuda_graph_that_is_refused_is_a_failure(software_gpu: dict[str, str], demo_onnx: Path, tmp_path: Path
                                                   ) -> None:
    program = f"""
from pathlib import Path
import check_gpu
from rtmpose.engines.build import build_engine, plan_build
if __name__ == "__main__":
    build_engine(plan_build({str(demo_onnx)!r}, "fp16.engine", 1, "fp16", "tensorrt"))
    check_gpu.run_check("CUDA graph", Path(), False)
"""
    (tmp_path / "program.py").write_text(program)
    path = os.pathsep.join([software_gpu["PYTHONPATH"], str(ROOT / "scripts")])
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env=software_gpu | {"SOFTGPU_CAPTURE": "refuse", "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    row, to_do = done.stdout.splitlines()
    assert re.match("CUDA graph  FAIL .*capturing", row) and "FPS at small batches" in to_do


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path) -> None:
    assert "no NVIDIA GPU" in refused("scripts/check_gpu.py", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_crashes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check_gpu.CHECKS, "crash", (ctypes.string_at, "report it"))
    result = check_gpu.run_check("crash", 0, -1)  # reads a string from a null pointer
    assert (result["passed"], result["to_do"]) == (False, "report it")
    assert "process pool was terminated abruptly" in result["reason"]


GPU = {"sm_mhz": {"max": 1755.0}, "temperature_c": {"max": 61.0}}


@pytest.mark.parametrize(("verdict", "gpu", "passed", "reason"), [
    ("clean", GPU, True, "10 persons a second; 1755 MHz at most; 61 °C at most; clean"),
    ("throttled", GPU, False, "10 persons a second; 1755 MHz at most; 61 °C at most; throttled; not a result"),
    ("busy", GPU | {"boost_mhz": 1980.0}, False,
     "10 persons a second; 1755 of 1980 MHz at most; 61 °C at most; busy; not a result"),
    ("unknown", None, None, "10 persons a second; unknown")])
def test_speed(monkeypatch: pytest.MonkeyPatch, verdict: str, gpu: dict | None, passed: bool | None, reason: str
               ) -> None:
    summary = {"fps": 10.0, "conditions": {"verdict": verdict, "reasons": [], "gpu": gpu}}
    monkeypatch.setattr(check_gpu, "run_inference", lambda *arguments: summary)
    assert check_gpu.check_speed(Path(), True) == (passed, reason)
