"""The machine and the software that produce a result."""

import contextlib
import ctypes
import datetime
import hashlib
import os
import platform
import re
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
    """An NVIDIA GPU."""

    name: str  # e.g. "NVIDIA L4"
    compute_capability: str  # e.g. "8.9"


def find_gpu() -> Gpu | None:
    """The first NVIDIA GPU, or None. Asks the driver itself, so that no CUDA package is needed."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    # CUdevice_attribute 75 and 76 are the two parts of the compute capability (cuda.h).
    failed = (cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
              or cuda.cuDeviceGetName(name, len(name), device)
              or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
              or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device))
    return None if failed else Gpu(name.value.decode(), f"{major.value}.{minor.value}")


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:(.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def count_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, str | int | None]:
    """Processor, cores that this process may use, GPU and operating system."""
    gpu = find_gpu()
    return {"cpu": cpu_name(), "cores": count_cores(), "gpu": gpu.name if gpu else None,
            "compute_capability": gpu.compute_capability if gpu else None, "os": platform.platform()}


def peak_memory_mib() -> float | None:
    """Peak memory of this process as Linux counts it; None elsewhere."""
    status = Path("/proc/self/status")  # resource.getrusage would count the parent process before exec as well
    return round(int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024, 1) if status.is_file() else None


def kit_digest() -> str:
    """First 12 digits of the SHA-256 of the code that can change a result: ``rtmpose/`` without ``report/``."""
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
    """The running command, quoted for a shell."""
    return shlex.join(["python3", *sys.argv])


def describe_versions() -> dict[str, str]:
    """Versions of the kit, of Python, and of the installed packages of the stack."""
    versions = {"kit": kit_digest(), "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
