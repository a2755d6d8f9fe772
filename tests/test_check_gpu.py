"""check_gpu.py on the driver in software and without a GPU."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_script

import check_gpu
from rtmpose.machine.gpu import find_gpu

sys.path.insert(1, str(ROOT / "tests/software_gpu"))

import build as software_gpu

NVIDIA_SMI = """#!/bin/bash
[ "$1" = --id=0000:01:00.0 ] || exit 1
echo "1755, 1980, 61, 650.10, 0x0000000000000004"
exec sleep 60
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Environment of a process that sees the software GPU."""
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
    try:
        return {**os.environ, **software_gpu.build()}
    except software_gpu.Unavailable as error:
        pytest.skip(f"software GPU: {error}")


@pytest.mark.slow
def test_every_check_passes_on_the_software_gpu(environment: dict[str, str], tmp_path: Path) -> None:
    smi, log = tmp_path / "bin/nvidia-smi", tmp_path / "software_gpu.log"
    smi.parent.mkdir()
    smi.write_text(NVIDIA_SMI)
    smi.chmod(0o755)
    environment = environment | {"SOFTGPU_LOG": str(log), "PATH": f"{smi.parent}{os.pathsep}{os.environ['PATH']}"}
    done = run_script("scripts/check_gpu.py", cwd=tmp_path, env=environment, timeout=900)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "timings are meaningless" in done.stdout.splitlines()[0]
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert (content["passed"], content["timings_count"], content["machine"]["gpu"]) == (True, False, "Software GPU")
    rows = {row["check"]: row for row in content["checks"]}
    assert list(rows) == list(check_gpu.CHECKS)
    assert all(row["passed"] and row["reason"] and not row["to_do"] for row in rows.values())
    assert rows["keypoints fp32"]["reason"].startswith("100.00%")
    assert "int8" in rows["build int8"]["reason"]
    assert "1755 of 1980 MHz" in rows["clocks"]["reason"]
    findings = [line for line in log.read_text().splitlines() if ": note:" not in line] if log.exists() else []
    assert findings == []


@pytest.mark.slow
def test_a_cuda_graph_that_is_refused_is_a_failure(environment: dict[str, str], demo_onnx: Path) -> None:
    program = f"""
from pathlib import Path
from scripts.check_gpu import Setting, check_build, check_graph
setting = Setting(Path({str(demo_onnx.parent)!r}), 2, False)
assert check_build("fp16", setting)[0]
print(check_graph(setting))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False,
                          env=environment | {"SOFTGPU_CAPTURE": "refuse"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(False, \"not used: it can't be recorded (")


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path) -> None:
    done = run_script("scripts/check_gpu.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no NVIDIA GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_check_with_an_error_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = check_gpu.run_check("keypoints fp32", check_gpu.Setting(tmp_path, 2, False))
    assert not result.passed and "people" in result.reason
    check_gpu.report(result)
    row, to_do = capsys.readouterr().out.splitlines()
    assert row.startswith("keypoints fp32  FAIL") and to_do.strip() == f"to do: {result.to_do}"


def test_a_check_that_crashes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check_gpu.CHECKS, "crash", (ctypes.string_at, "report it"))
    result = check_gpu.run_check("crash", 0)  # reads from a null pointer
    assert (result.passed, result.reason, result.to_do) == (False, "its process crashed", "report it")


@pytest.mark.parametrize(("lines", "passed", "reason"), [
    (["1980, 1980, 40, 300.0, 0x0", "1700, 1980, 62, 700.0, 0x4"], True,
     "1980 of 1980 MHz at most, 62 C, throttled by: nothing; power cap reached in 1 of 2 readings"),
    (["1200, 1980, 91, 300.0, 0x0000000000000048"], False,
     "1200 of 1980 MHz at most, 91 C, throttled by: hardware slowdown, hardware thermal slowdown; "
     "power cap reached in 0 of 1 readings"),
    (["[N/A], [N/A], 50, [N/A], 0x0"], True, "50 C, throttled by: nothing; power cap reached in 0 of 1 readings"),
    (["NVIDIA-SMI has failed"], True, "unknown: nvidia-smi says NVIDIA-SMI has failed"),
    ([], True, "unknown: nvidia-smi says nothing"),
])
def test_clocks(lines: list[str], passed: bool, reason: str) -> None:
    assert check_gpu.judge_clocks(lines) == (passed, reason)
