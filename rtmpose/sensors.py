"""Readings of the processor from /proc and /sys, and of the GPU through NVML."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtmpose.environment import Gpu, open_nvml, read_nvml

_TICKS = os.sysconf("SC_CLK_TCK")  # a second
_STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # columns of /proc/stat
_BUSY = ("user", "nice", "system", "irq", "softirq")


@dataclass(frozen=True)
class CpuReading:
    """Counters since the machine's start, and states of the moment. Times are seconds, summed over the cores."""

    uptime: float  # seconds
    busy: float  # time in processes and interrupts
    steal: float  # time that the hypervisor gave to other machines
    counted: float  # time in any state
    own: float  # CPU time of this process, its threads, and its children that have ended
    mhz: list[float]  # of each core; empty where it can't be read
    slowdowns: int  # because of heat
    periods: int  # of the CPU quota
    stopped: int  # periods of which the quota stopped the process
    microjoules: list[int]  # counters of the processor packages; empty where they can't be read
    load_average: float  # of the last minute


class CpuSensor:
    """The cores that this process may use. ``proc`` and ``sys`` are the roots of the two file systems."""

    def __init__(self, proc: Path, sys: Path) -> None:
        self.cores = sorted(os.sched_getaffinity(0))
        self._proc, self._sys = proc, sys
        self._cgroups = list(_cgroups(proc, sys / "fs/cgroup"))
        self._packages = _packages(sys / "class/powercap")
        self.energy_ranges = [int(_read(package / "max_energy_range_uj")) for package in self._packages]
        self.governor = ", ".join(sorted(set(self._read_each("cpufreq/scaling_governor")))) or None
        self.quota = min((quota for folder in self._cgroups if (quota := _quota(folder))), default=None)

    def read(self) -> CpuReading:
        """Read everything. Raises OSError or ValueError if /proc doesn't show this process's cores."""
        states = self._read_states()
        own = _read(self._proc / "self/stat").rpartition(")")[2].split()[11:15]
        stats = [_read_pairs(folder / "cpu.stat") for folder in self._cgroups]
        throttle_counts = (self._read_each(f"thermal_throttle/{part}_throttle_count") for part in ("core", "package"))
        return CpuReading(
            uptime=float(_read(self._proc / "uptime").split()[0]),
            busy=sum(states[name] for name in _BUSY),
            steal=states["steal"],
            counted=sum(states.values()),
            own=sum(map(int, own)) / _TICKS,
            mhz=[int(khz) / 1e3 for khz in self._read_each("cpufreq/scaling_cur_freq")],
            slowdowns=sum(int(count) for counts in throttle_counts for count in counts),
            periods=sum(stat.get("nr_periods", 0) for stat in stats),
            stopped=sum(stat.get("nr_throttled", 0) for stat in stats),
            microjoules=[int(_read(package / "energy_uj")) for package in self._packages],
            load_average=float(_read(self._proc / "loadavg").split()[0]))

    def _read_states(self) -> dict[str, float]:
        """Seconds in each state, summed over the cores. In a container the file may list other cores than these."""
        lines = [line.split() for line in _read(self._proc / "stat").splitlines() if line.startswith("cpu")]
        by_name = {name: [int(ticks) / _TICKS for ticks in columns] for name, *columns in lines}
        missing = [core for core in self.cores if len(by_name.get(f"cpu{core}", ())) < len(_STATES)]
        if missing:
            raise ValueError(f"{self._proc / 'stat'} doesn't list cpu{missing[0]}, which this process may use")
        return {state: sum(by_name[f"cpu{core}"][column] for core in self.cores)
                for column, state in enumerate(_STATES)}

    def _read_each(self, name: str) -> list[str]:
        """A file of each core, where it can be read."""
        found = []
        for core in self.cores:
            with contextlib.suppress(OSError):
                found.append(_read(self._sys / f"devices/system/cpu/cpu{core}" / name))
        return found


class GpuSensor:
    """An NVIDIA GPU. What the card or its driver can't say is missing in the readings."""

    def __init__(self, gpu: Gpu) -> None:
        self._nvml, self._device = open_nvml(gpu)
        nvml = self._nvml
        self.settings = read_nvml(nvml, self._device, {
            "power_limit_w": lambda device: nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1e3,
            "default_power_limit_w": lambda device: nvml.nvmlDeviceGetPowerManagementDefaultLimit(device) / 1e3,
            "ecc": lambda device: bool(nvml.nvmlDeviceGetEccMode(device)[0]),
            "mig": lambda device: bool(nvml.nvmlDeviceGetMigMode(device)[0])})

    def read(self) -> dict[str, Any]:
        """Clocks (MHz), temperature (°C), power (W), energy (mJ), reasons for slower clocks, other processes."""
        nvml = self._nvml
        return read_nvml(nvml, self._device, {
            "sm_mhz": lambda device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
            "temperature_c": lambda device: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            "power_w": lambda device: nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
            "energy_mj": nvml.nvmlDeviceGetTotalEnergyConsumption,
            "throttle_reasons": nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
            "other_processes": self._count_others})

    def _count_others(self, device: Any) -> int | None:
        """Other processes that compute on the GPU, None if NVML doesn't even list this one.

        In a container it may list this one under another number, or none at all.
        """
        pids = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device)}
        return len(pids) - 1 if pids else None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _read_pairs(path: Path) -> dict[str, int]:
    """Names and numbers of a file with one of each a line; nothing if it can't be read."""
    with contextlib.suppress(OSError):
        return {name: int(number) for name, number in map(str.split, _read(path).splitlines())}
    return {}


def _cgroups(proc: Path, mount: Path) -> Iterator[Path]:
    """The folders of the cgroups, version 1 or 2, whose CPU quotas bind this process."""
    with contextlib.suppress(OSError):
        for line in _read(proc / "self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                top = mount / "cpu" if controllers else mount
                folder = top / path.strip("/")
                # A container may not see the folder of its own, but the top is then that folder.
                yield from (found for found in (folder, *folder.parents) if found.is_relative_to(top))


def _quota(cgroup: Path) -> float | None:
    """A cgroup's CPU quota in cores, None without one."""
    with contextlib.suppress(OSError, ValueError):
        if (cgroup / "cpu.max").exists():
            quota, period = _read(cgroup / "cpu.max").split()
        else:
            quota, period = (_read(cgroup / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def _packages(powercap: Path) -> list[Path]:
    """RAPL's folders of the processor packages, which hold their cores and more; none unless all can be read."""
    with contextlib.suppress(OSError):
        packages = [folder for folder in sorted(powercap.glob("intel-rapl:*"))
                    if _read(folder / "name").startswith("package")]
        for package in packages:
            _read(package / "energy_uj")
        return packages
    return []
