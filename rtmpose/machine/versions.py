"""What produced a result: the machine, versions of the kit and its packages, the command."""

import contextlib
import datetime
import hashlib
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rtmpose.machine.cpu import count_cores, cpu_instruction_sets, cpu_name
from rtmpose.machine.gpu import DriverError, GpuSensor, find_gpu

_PACKAGES = ("torch", "mmpose", "mmengine", "mmcv-lite", "onnx", "onnxsim", "onnxruntime", "openvino", "tensorrt",
             "tensorrt_rtx_cu13", "tensorrt_rtx_cu12", "pycuda", "cuda-bindings", "nvidia-cuda-nvrtc",
             "nvidia-cuda-nvrtc-cu12", "pycocotools", "mlcommons-loadgen", "numpy",
             "simplejpeg", "opencv-python-headless", "opencv-python")


def describe_machine() -> dict[str, Any]:
    """Processor, its instruction sets, cores that this process may use, GPU with its driver and settings, and operating
    system. A GPU whose driver doesn't work counts as none; a setting is None where NVML can't say."""
    gpu, settings = None, {}
    with contextlib.suppress(DriverError):
        gpu = find_gpu()
    with contextlib.suppress(Exception):  # NVML's package is missing, or it has an error of its own
        settings = GpuSensor(gpu).settings if gpu else {}
    return {"cpu": cpu_name(), "instruction_sets": cpu_instruction_sets(), "cores": count_cores(),
            "gpu": gpu.name if gpu else None, "compute_capability": gpu.compute_capability if gpu else None,
            "cuda": gpu.cuda_version if gpu else None,
            **{name: settings.get(name) for name in ("driver", "power_limit_w", "persistence_mode", "mig_mode")},
            "os": platform.platform()}


def peak_memory_mib() -> float | None:
    """Peak memory of this process as Linux counts it; None elsewhere."""
    status = Path("/proc/self/status")  # resource.getrusage would count the parent process before exec as well
    return round(int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024, 1) if status.is_file() else None


def kit_digest() -> str:
    """First 12 digits of the SHA-256 of the code that can change a result: ``rtmpose/`` without ``report/``."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".cu")):
        name = path.relative_to(package).as_posix()
        if not name.startswith("report/"):
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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
