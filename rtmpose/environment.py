"""The machine and the software that produce a result."""

import contextlib
import ctypes
import datetime
import gc
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError

_PACKAGES = ("torch", "mmpose", "mmengine", "mmcv-lite", "onnx", "onnxsim", "onnxruntime", "openvino", "tensorrt",
             "tensorrt_rtx_cu13", "tensorrt_rtx_cu12", "pycuda", "cuda-bindings", "nvidia-cuda-nvrtc",
             "nvidia-cuda-nvrtc-cu12", "pycocotools", "mlcommons-loadgen", "numpy",
             "simplejpeg", "opencv-python-headless", "opencv-python")


RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities of TensorRT-RTX 1.7: it lists 7.5 as well, and then refuses FP32 matrix products on it."""

# What to do about the errors of cuInit that users meet; the driver itself says what they mean.
_DRIVER_REMEDIES = {
    304: "in a container, start it with --gpus all",  # OPERATING_SYSTEM: no /dev/nvidia*
    802: "start NVLink's fabric manager (systemctl start nvidia-fabricmanager)",  # SYSTEM_NOT_READY: HGX
    803: "libcuda.so.1 and the kernel module are of different releases: restart after an update of the driver",
    999: "look for NVRM or Xid in dmesg, and restart",  # UNKNOWN
}
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class DriverError(KitError):
    """The NVIDIA driver is installed and doesn't work."""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU."""

    name: str  # e.g. "NVIDIA L4"
    compute_capability: str  # e.g. "8.9"
    cuda_version: str  # of CUDA, the newest that the driver speaks, e.g. "13.0"
    ordinal: int  # among the devices that CUDA_VISIBLE_DEVICES leaves


def find_gpu() -> Gpu | None:
    """The NVIDIA GPU that engines run on, or None. Asks the driver itself, so that no CUDA package is needed.

    It is the one that pycuda takes: of ``CUDA_DEVICE``, of ``~/.cuda_device``, or the first; under torchrun it is that
    of ``LOCAL_RANK``. Raises KitError if one of them names none, and DriverError if the driver doesn't work.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number))
    if error not in (0, _NO_DEVICE):
        raise DriverError(_describe_driver_error(cuda, error))
    if not number.value:
        return None
    ordinal = _device_ordinal(number.value)
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    # CUdevice_attribute 75 and 76 are the two parts of the compute capability (cuda.h).
    failed = (cuda.cuDeviceGet(ctypes.byref(device), ordinal) or cuda.cuDeviceGetName(name, len(name), device)
              or cuda.cuDriverGetVersion(ctypes.byref(version))
              or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
              or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device))
    return None if failed else Gpu(name.value.decode(), f"{major.value}.{minor.value}",
                                   f"{version.value // 1000}.{version.value % 1000 // 10}", ordinal)


def _describe_driver_error(cuda: ctypes.CDLL, error: int) -> str:
    name, meaning = ctypes.c_char_p(), ctypes.c_char_p()
    cuda.cuGetErrorName(error, ctypes.byref(name))
    cuda.cuGetErrorString(error, ctypes.byref(meaning))
    text = ", ".join(one.value.decode() for one in (name, meaning) if one.value)
    return (f"the NVIDIA driver doesn't work, it answers with error {error} ({text or 'unknown'}): "
            f"{_DRIVER_REMEDIES.get(error, 'check it with nvidia-smi')}")


def _device_ordinal(number: int) -> int:
    file = Path.home() / ".cuda_device"
    if "RANK" in os.environ and "LOCAL_RANK" in os.environ:  # torchrun's: each process has a GPU of its own
        source, text = "LOCAL_RANK", os.environ["LOCAL_RANK"]
    elif "CUDA_DEVICE" in os.environ:
        source, text = "CUDA_DEVICE", os.environ["CUDA_DEVICE"]
    elif file.is_file():
        source, text = str(file), file.read_text().strip()
    else:
        return 0
    if not text.isdecimal() or int(text) >= number:
        raise KitError(f"{source}: is {text!r}, expected the number of a GPU from 0 to {number - 1}; "
                       f"{'start fewer ranks' if source == 'LOCAL_RANK' else 'correct or remove it'}")
    return int(text)


def describe_driver(gpu: Gpu | None) -> dict[str, Any]:
    """Driver and settings of a GPU that change its speed, through NVML; None where NVML can't say."""
    described: dict[str, Any] = dict.fromkeys(("driver", "power_limit_w", "persistence_mode", "mig_mode"))
    if gpu is None or importlib.util.find_spec("pynvml") is None:
        return described
    import pynvml
    readings: dict[str, Callable[[Any], Any]] = {
        "driver": lambda device: pynvml.nvmlSystemGetDriverVersion(),
        "power_limit_w": lambda device: pynvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1e3,
        "persistence_mode": lambda device: bool(pynvml.nvmlDeviceGetPersistenceMode(device)),
        "mig_mode": lambda device: bool(pynvml.nvmlDeviceGetMigMode(device)[0]),
    }
    with contextlib.suppress(pynvml.NVMLError):
        described |= read_nvml(*open_nvml(gpu), readings)
    return described


def open_nvml(gpu: Gpu) -> tuple[Any, Any]:
    """NVML, i.e. the module pynvml, and its handle of a GPU. Raises ImportError or the module's NVMLError."""
    import pynvml
    pynvml.nvmlInit()
    # NVML counts all devices, whatever CUDA_VISIBLE_DEVICES says.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    chosen = visible[gpu.ordinal] if gpu.ordinal < len(visible) and visible[gpu.ordinal] else str(gpu.ordinal)
    return pynvml, (pynvml.nvmlDeviceGetHandleByIndex(int(chosen)) if chosen.isdecimal()
                    else pynvml.nvmlDeviceGetHandleByUUID(chosen))


def read_nvml(nvml: Any, device: Any, readings: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Take the readings of a GPU; those that it or its driver can't give are missing."""
    taken = {}
    for name, read in readings.items():
        with contextlib.suppress(nvml.NVMLError):
            taken[name] = read(device)
    return taken


CPUINFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    return _read_cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The processor's features as Linux names them, e.g. avx512_bf16; none elsewhere."""
    return (_read_cpuinfo("flags") or _read_cpuinfo("Features")).split()


_INSTRUCTION_SETS = {
    "AVX2": "avx2", "AVX-512": "avx512f", "VNNI": "avx512_vnni avx_vnni", "BF16": "avx512_bf16 bf16",
    "FP16": "avx512_fp16 asimdhp", "AMX": "amx_tile", "NEON": "asimd", "dot product": "asimddp", "I8MM": "i8mm",
    "SVE": "sve"}


def cpu_instruction_sets() -> str:
    """The processor's instruction sets that decide how fast a network runs, e.g. ``AVX2, AVX-512, VNNI``."""
    flags = set(cpu_flags())
    return ", ".join(name for name, ones in _INSTRUCTION_SETS.items() if flags.intersection(ones.split()))


def _read_cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*:(.*)", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.is_file() else None
    return found[1].strip() if found else ""


def count_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, its instruction sets, cores that this process may use, GPU with its driver and settings, and operating
    system. A GPU whose driver doesn't work counts as none."""
    gpu = None
    with contextlib.suppress(DriverError):
        gpu = find_gpu()
    return {"cpu": cpu_name(), "instruction_sets": cpu_instruction_sets(), "cores": count_cores(),
            "gpu": gpu.name if gpu else None, "compute_capability": gpu.compute_capability if gpu else None,
            "cuda": gpu.cuda_version if gpu else None, **describe_driver(gpu), "os": platform.platform()}


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """Pause the garbage collector, which walks through all records again and again while more are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
