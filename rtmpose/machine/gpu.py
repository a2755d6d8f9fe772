"""The NVIDIA GPU: found by its driver, described and watched through NVML."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rtmpose.errors import KitError

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
    bus_id: str  # of PCI, e.g. "0000:01:00.0", by which NVML finds it
    boost_mhz: float = 0.0  # its boost clock; 0 if CUDA doesn't say


def find_gpu() -> Gpu | None:
    """The NVIDIA GPU that engines run on, or None. Asks the driver itself, so that no CUDA package is needed.

    It is the first, or that of ``CUDA_DEVICE``, or under torchrun of ``LOCAL_RANK``. Raises KitError if that is none,
    and DriverError if the driver doesn't work.
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
    device, version, major, minor, kilohertz = (ctypes.c_int() for _ in range(5))
    name, bus_id = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    # CUdevice_attribute 75 and 76 are the two parts of the compute capability, 13 is the SM clock (cuda.h).
    failed = (cuda.cuDeviceGet(ctypes.byref(device), ordinal) or cuda.cuDeviceGetName(name, len(name), device)
              or cuda.cuDeviceGetPCIBusId(bus_id, len(bus_id), device) or cuda.cuDriverGetVersion(ctypes.byref(version))
              or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
              or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device))
    cuda.cuDeviceGetAttribute(ctypes.byref(kilohertz), 13, device)  # stays 0 if the driver doesn't say
    return None if failed else Gpu(name.value.decode(), f"{major.value}.{minor.value}",
                                   f"{version.value // 1000}.{version.value % 1000 // 10}", ordinal,
                                   bus_id.value.decode(), kilohertz.value / 1e3)


def _describe_driver_error(cuda: ctypes.CDLL, error: int) -> str:
    name, meaning = ctypes.c_char_p(), ctypes.c_char_p()
    cuda.cuGetErrorName(error, ctypes.byref(name))
    cuda.cuGetErrorString(error, ctypes.byref(meaning))
    text = ", ".join(one.value.decode() for one in (name, meaning) if one.value)
    return (f"the NVIDIA driver doesn't work, it answers with error {error} ({text or 'unknown'}): "
            f"{_DRIVER_REMEDIES.get(error, 'check it with nvidia-smi')}")


def _device_ordinal(number: int) -> int:
    # Each process of torchrun has a GPU of its own.
    source = "LOCAL_RANK" if {"RANK", "LOCAL_RANK"} <= {*os.environ} else "CUDA_DEVICE"
    text = os.environ.get(source, "0")
    if not text.isdecimal() or int(text) >= number:
        raise KitError(f"{source}: is {text!r}, expected the number of a GPU from 0 to {number - 1}; "
                       f"{'start fewer ranks' if source == 'LOCAL_RANK' else 'correct or remove it'}")
    return int(text)


class GpuSensor:
    """An NVIDIA GPU, through NVML. What the card or its driver can't say is missing in settings and readings.

    Raises ImportError without NVML's package, and its NVMLError where it doesn't find the GPU.
    """

    def __init__(self, gpu: Gpu) -> None:
        import pynvml as nvml
        self._nvml, self.boost_mhz = nvml, gpu.boost_mhz
        nvml.nvmlInit()
        # NVML counts in another order than CUDA. MIG instances, chosen by their UUID, share their card's PCI address.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[gpu.ordinal:][:1]
        self._device = (nvml.nvmlDeviceGetHandleByUUID(visible[0]) if visible and visible[0].startswith("MIG-")
                        else nvml.nvmlDeviceGetHandleByPciBusId(gpu.bus_id))
        self.settings = self._take({
            "driver": lambda device: nvml.nvmlSystemGetDriverVersion(),
            "power_limit_w": lambda device: nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1e3,
            "default_power_limit_w": lambda device: nvml.nvmlDeviceGetPowerManagementDefaultLimit(device) / 1e3,
            "persistence_mode": lambda device: bool(nvml.nvmlDeviceGetPersistenceMode(device)),
            "ecc": lambda device: bool(nvml.nvmlDeviceGetEccMode(device)[0]),
            "mig_mode": lambda device: bool(nvml.nvmlDeviceGetMigMode(device)[0])})

    def read(self) -> dict[str, Any]:
        """Clocks (MHz), temperature (°C), power (W), energy (mJ), reasons for slower clocks, other processes."""
        nvml = self._nvml
        return self._take({
            "sm_mhz": lambda device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
            "temperature_c": lambda device: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            "power_w": lambda device: nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
            "energy_mj": nvml.nvmlDeviceGetTotalEnergyConsumption,
            "throttle_reasons": nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
            "other_processes": self._count_others})

    def _take(self, readings: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
        taken = {}
        for name, read in readings.items():
            with contextlib.suppress(self._nvml.NVMLError):
                taken[name] = read(self._device)
        return taken

    def _count_others(self, device: Any) -> int | None:
        """Other processes that compute on the GPU, None if NVML doesn't even list this one.

        In a container it may list this one under another number, or none at all.
        """
        pids = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device)}
        return len(pids) - 1 if pids else None
