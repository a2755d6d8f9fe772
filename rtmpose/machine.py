"""What ran where: the names of processor and GPU, and the versions of the software."""

import ctypes
import hashlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "mmpose", "mmengine", "mmcv-lite", "onnx", "onnxsim", "onnxruntime", "openvino", "tensorrt",
             "tensorrt_rtx_cu13", "tensorrt_rtx_cu12", "pycuda", "pycocotools", "mlcommons-loadgen", "numpy",
             "opencv-python-headless", "opencv-python")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its name and compute capability, e.g. ``("NVIDIA L4", "8.9")``."""

    name: str
    compute_capability: str


def find_gpu() -> Gpu | None:
    """The first NVIDIA GPU, or None; asks the driver itself, so that no CUDA package is needed for a no."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    # CUdevice_attribute 75 and 76 are the two parts of the compute capability (cuda.h).
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(name, len(name), device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return Gpu(name.value.decode(), f"{major.value}.{minor.value}")


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def count_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, str | int | None]:
    """Processor, cores this process may use, GPU and operating system, for the record beside a result."""
    gpu = find_gpu()
    return {
        "cpu": cpu_name(),
        "cores": count_cores(),
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.compute_capability if gpu else None,
        "os": platform.platform(),
    }


def peak_memory_mib() -> float | None:
    """The most memory that this process has held so far, as Linux counts it (``VmHWM``); None elsewhere.

    ``resource.getrusage`` would count what the process was started from as well.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def kit_digest() -> str:
    """Which kit this is: the first 12 hexadecimal digits of the SHA-256 of all its code."""
    package = Path(__file__).parent
    scripts = [package.with_name(f"{name}.py") for name in ("build_engine", "common", "export", "inference")]
    digest = hashlib.sha256()
    for path in (*scripts, *sorted(package.rglob("*.py")), *sorted(package.rglob("*.cu"))):
        digest.update(path.relative_to(package.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def describe_versions() -> dict[str, str]:
    """Versions of the kit, of Python, and of those packages of the stack that are installed."""
    versions = {"kit": kit_digest(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
