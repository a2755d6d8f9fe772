"""The packages for a GPU: the choice by its driver, the pins, and pycuda's build."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT

from rtmpose.engines import tensorrt_backend
from rtmpose.errors import KitError

sys.path.insert(1, str(ROOT / "scripts"))
sys.path.insert(1, str(ROOT / "tests/software_gpu"))

import build as software_gpu
import build_pycuda
import gpu_packages


def gpu(cuda_version: str, compute_capability: str) -> SimpleNamespace:
    return SimpleNamespace(name="Made-up GPU", compute_capability=compute_capability, cuda_version=cuda_version)


@pytest.mark.parametrize(("cuda_version", "compute_capability", "choice"), [
    ("12.0", "7.5", "cu12 rtx"), ("12.9", "9.0", "cu12 -"), ("13.0", "8.9", "cu13 rtx"), ("13.2", "10.0", "cu13 -"),
    ("14.0", "12.0", "cu13 rtx"),
])
def test_packages_for_the_drivers_cuda(cuda_version: str, compute_capability: str, choice: str) -> None:
    given, reason = gpu_packages.choose(gpu(cuda_version, compute_capability))
    assert given == choice
    assert all(word in reason for word in ("Made-up GPU", cuda_version, compute_capability, f"CUDA {choice[2:4]}"))
    assert ("RTX" in reason) == ("rtx" in choice)


@pytest.mark.parametrize(("found", "message"), [
    (None, "no NVIDIA driver answers"), (gpu("11.8", "8.0"), "speaks CUDA 11.8, expected 12 or later"),
    (gpu("12.8", "7.0"), "compute capability 7.0, expected 7.5 or later"),
])
def test_machines_that_no_packages_fit(found: SimpleNamespace | None, message: str) -> None:
    with pytest.raises(KitError, match=message):
        gpu_packages.choose(found)


def test_gpus_of_tensorrt_rtx_are_those_of_the_backend() -> None:
    assert gpu_packages.RTX_CAPABILITIES == tensorrt_backend._RTX_CAPABILITIES


def test_choice_and_hint_by_a_driver() -> None:
    """The driver in software stands for an older one."""
    try:
        environment = {**os.environ, **software_gpu.build(), "SOFTGPU_CUDA_VERSION": "12040",
                       "SOFTGPU_COMPUTE_CAPABILITY": "89"}
    except software_gpu.Unavailable as error:
        pytest.skip(f"software GPU: {error}")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(ROOT / "scripts/gpu_packages.py"), *arguments], capture_output=True,
                              text=True, check=False, env=environment | variables)

    first, reason = run().stdout.splitlines()
    assert (first, "driver for CUDA 12.4" in reason) == ("cu12 rtx", True)
    assert run("--hint").stdout == ""  # pycuda is there
    assert run("--hint", PYTHONPATH="").stdout == "Software GPU found; to run on it: bash scripts/setup.sh --gpu\n"
    refused = run(SOFTGPU_CUDA_VERSION="11080")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "setup.sh: --gpu: the driver of Software GPU speaks CUDA 11.8" in refused.stderr


def pins(cuda: str) -> list[str]:
    """All pins of a requirements file, that of TensorRT-RTX in its comment as well."""
    text = (ROOT / f"requirements-gpu-{cuda}.txt").read_text()
    return re.findall(r"^(?:# (?=tensorrt-rtx-))?([\w-]+==\S+)$", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("cuda", ["cu12", "cu13"])
def test_the_package_index_has_every_pin(cuda: str) -> None:
    """TensorRT's own libraries come from NVIDIA's index, so dependencies are left out."""
    wanted = pins(cuda)
    assert len([pin for pin in wanted if pin.startswith("tensorrt-")]) == 2
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps",
                           "--quiet", "--report", "-", *wanted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = (one["metadata"] for one in json.loads(done.stdout)["install"])
    assert {f"{one['name'].lower().replace('_', '-')}=={one['version']}" for one in found} == set(wanted)


def test_headers_of_the_other_cuda_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    include = tmp_path / "include"
    include.mkdir()
    (include / "cuda.h").write_text("#define CUDA_VERSION 12040\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(build_pycuda.importlib.util, "find_spec", lambda name: None)
    assert build_pycuda.find_headers("cu12", tmp_path / "extra") == [str(include), str(tmp_path / "extra")]
    assert "cuProfilerStart" in (tmp_path / "extra/cudaProfiler.h").read_text()
    with pytest.raises(build_pycuda.Unavailable, match="pip install nvidia-cuda-runtime$"):
        build_pycuda.find_headers("cu13", tmp_path / "extra")


def test_pycuda_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build_pycuda.Unavailable, match="apt-get install g.. python3-dev"):
        build_pycuda.build(tmp_path, [])


@pytest.mark.slow
def test_pycuda_is_built_with_the_wheels_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a toolkit. Python can only load it if the driver has every function, so the oldest CUDA 12 must do."""
    (pin,) = (pin for pin in pins("cu12") if "runtime" in pin)
    build_pycuda.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", tmp_path, pin])
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", "/bin"]))  # no nvcc
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "wheel/nvidia/cuda_runtime"))
    monkeypatch.setattr(build_pycuda.importlib.util, "find_spec", lambda name: None)
    build_pycuda.build(tmp_path / "build", build_pycuda.find_headers("cu12", tmp_path / "extra"), tmp_path / "site")
    (library,) = (tmp_path / "site/pycuda").glob("_driver*.so")
    symbols = build_pycuda.run(["nm", "-D", "--undefined-only", library])
    assert "cuCtxCreate_v2" in symbols and "cuCtxCreate_v4" not in symbols and "cuEventElapsedTime_v2" not in symbols
    assert "libcuda.so.1" in build_pycuda.run(["readelf", "--dynamic", library])
