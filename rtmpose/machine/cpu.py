"""The processor: what it is, and readings of it from /proc and /sys."""

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
