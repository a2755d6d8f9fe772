"""The packages for a GPU: the choice by its driver, the pins, and pycuda's build."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT

import build_pycuda
import gpu_packages
from rtmpose.errors import KitError


def gpu(cuda_version: str, compute_capability: str) -> SimpleNamespace:
    return SimpleNamespace(name="Made-up GPU", compute_capability=compute_capability, cuda_version=cuda_version)


@pytest.mark.parametrize(("cuda_version", "compute_capability", "choice"), [
    ("12.0", "7.5", "cu12 -"), ("12.4", "8.6", "cu12 rtx"), ("12.9", "9.0", "cu12 -"), ("13.0", "8.9", "cu13 rtx"),
    ("13.2", "10.0", "cu13 -"), ("14.0", "12.0", "cu13 rtx"),
])
def test_packages_for_the_drivers_cuda(cuda_version: str, compute_capability: str, choice: str) -> None:
    given, reason = gpu_packages.choose(gpu(cuda_version, compute_capability))
    assert given == choice and ("RTX" in reason) == ("rtx" in choice)
    assert all(word in reason for word in ("Made-up GPU", cuda_version, compute_capability, f"CUDA {choice[2:4]}"))


def test_gpu_that_tensorrt_does_not_support() -> None:
    with pytest.raises(KitError, match="compute capability 7.0, expected 7.5 or later"):
        gpu_packages.choose(gpu("12.8", "7.0"))


def test_jetson_takes_the_tensorrt_of_jetpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_packages, "JETSON", tmp_path)
    monkeypatch.setattr(gpu_packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="comes with JetPack.* has none: sudo apt-get install python3-libnv"):
        gpu_packages.choose(gpu("13.0", "11.0"))
    monkeypatch.setattr(gpu_packages.importlib.util, "find_spec", lambda name: name)
    assert gpu_packages.choose(gpu("13.0", "11.0"))[0] == "cu13 jetpack"


@pytest.mark.slow
def test_choice_and_hint_by_a_driver(software_gpu: dict[str, str]) -> None:
    """The driver in software stands for an older one."""
    older = software_gpu | {"SOFTGPU_CUDA_VERSION": "12040", "SOFTGPU_COMPUTE_CAPABILITY": "89"}

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(ROOT / "scripts/gpu_packages.py"), *arguments], capture_output=True,
                              text=True, check=False, env=older | variables)

    first, reason = run().stdout.splitlines()
    assert (first, "driver for CUDA 12.4" in reason) == ("cu12 rtx", True)
    assert run("--hint").stdout == ""  # pycuda is there
    assert run("--hint", PYTHONPATH="").stdout == "Software GPU found; to run on it: bash scripts/setup.sh --gpu\n"
    for variable, value, message in (
            ("CUDA_VERSION", "11080", "setup.sh: --gpu: the driver of Software GPU speaks CUDA 11.8"),
            ("FAIL_INIT", "802", "answers with error 802 (CUDA error 802, CUDA error 802): start NVLink's fabric"),
            ("FAIL_INIT", "5", "answers with error 5 (CUDA error 5, CUDA error 5): check it with nvidia-smi"),
            ("FAIL_INIT", "100", "no NVIDIA driver answers (libcuda.so.1), or it finds no GPU")):
        refused = run(**{f"SOFTGPU_{variable}": value})
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert message in refused.stderr


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


def check_functions(site: Path, *newer: str) -> None:
    """Python can only load pycuda if the driver has every function, so the oldest one must do."""
    (library,) = (site / "pycuda").glob("_driver*.so")
    symbols = build_pycuda.run(["nm", "-D", "--undefined-only", library])
    assert "cuCtxCreate_v" in symbols and not [symbol for symbol in newer if symbol in symbols]
    assert "libcuda.so.1" in build_pycuda.run(["readelf", "--dynamic", library])


@pytest.mark.slow
def test_pycuda_is_built_with_the_headers_of_cuda_12s_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a toolkit."""
    pins = (ROOT / "requirements/tensorrt-cu12.txt").read_text().splitlines()
    (pin,) = (pin for pin in pins if "runtime" in pin)
    build_pycuda.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", tmp_path, pin])
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", "/bin"]))  # no nvcc
    for name in ("CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(name, raising=False)
    (include,) = (tmp_path / "wheel").glob("nvidia/*/include")
    monkeypatch.setenv("CUDA_HOME", str(include.parent))
    monkeypatch.setattr(build_pycuda.importlib.util, "find_spec", lambda name: None)
    headers = build_pycuda.find_headers("cu12", tmp_path / "extra")
    assert headers == [str(include), str(tmp_path / "extra")]
    build_pycuda.build(tmp_path / "build", headers, tmp_path / "site")
    check_functions(tmp_path / "site", "cuCtxCreate_v4", "cuEventElapsedTime_v2")


@pytest.mark.slow
def test_the_software_gpus_pycuda_is_built_with_the_headers_of_cuda_13s_wheel(software_gpu: dict[str, str],
                                                                              tmp_path: Path) -> None:
    headers = build_pycuda.find_headers("cu13", tmp_path / "extra")
    assert headers == [str(Path(sysconfig.get_path("purelib"), "nvidia/cu13/include")), str(tmp_path / "extra")]
    pin = f"nvidia-cuda-runtime=={version('nvidia-cuda-runtime')}"
    assert pin in (ROOT / "requirements/tensorrt-cu13.txt").read_text().splitlines()
    folders = map(Path, software_gpu["PYTHONPATH"].split(os.pathsep))
    (site,) = (folder for folder in folders if (folder / "pycuda").is_dir())
    check_functions(site, "cuCtxCreate_v5")
