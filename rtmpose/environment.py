"""The machine and the software that a result was measured with."""

import ctypes
import datetime
import hashlib
import os
import platform
import shlex
import sys
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
    """Digest of the kit's code that can change a number: the first 12 hexadecimal digits of its SHA-256.

    That is all of ``rtmpose/`` but ``report/``, which only shows what was measured.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".cu")):
        name = path.relative_to(package).as_posix()
        if not name.startswith("report/"):
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def command_line() -> str:
    """The command that is running, as a shell takes it."""
    return shlex.join(["python3", *sys.argv])


def describe_versions() -> dict[str, str]:
    """Versions of the kit, of Python, and of those packages of the stack that are installed."""
    versions = {"kit": kit_digest(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
