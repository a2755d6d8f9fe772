"""The processor: what it is, and readings of it: CPU times by psutil; quota, heat and energy from /sys."""

import contextlib
import os
import platform
import re
import time
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

CGROUP, CPUINFO = Path("/proc/self/cgroup"), Path("/proc/cpuinfo")
_PROBE_SECONDS = 0.05


class CpuSensor:
    """The cores that this process may use. ``sys`` is the root of that file system."""

    def __init__(self, sys: Path) -> None:
        self.cores = sorted(os.sched_getaffinity(0))
        self._folders = [sys / f"devices/system/cpu/cpu{core}" for core in self.cores]
        self._stats = [folder / "cpu.stat" for folder in _cgroups(sys / "fs/cgroup")]
        quotas = [_read(folder.with_name("cpu.max")).split() for folder in self._stats]
        self.quota = min((int(quota) / int(period) for quota, period in quotas if quota != "max"), default=None)
        governors = set(_read_all(folder / "cpufreq/scaling_governor" for folder in self._folders))
        self.governor = ", ".join(sorted(governors)) or None
        # RAPL's packages hold their cores and more.
        packages = [folder for folder in sorted((sys / "class/powercap").glob("intel-rapl:*"))
                    if _read(folder / "name").startswith("package")]
        self._counters = [package / "energy_uj" for package in packages]
        if len(_read_all(self._counters)) < len(packages):  # a part of the energy is no guess of the whole
            self._counters = []
        self.energy_ranges = [int(_read(counter.with_name("max_energy_range_uj"))) for counter in self._counters]

    def read(self) -> dict[str, Any]:
        """Counters, and states of the moment. Raises ValueError if the system doesn't show this process's cores.

        ``time`` is in seconds. ``busy`` (processes and interrupts), ``steal`` (taken by the hypervisor), ``counted``
        (any state) and ``own`` (this process, its threads, its children that have ended) are CPU seconds, summed over
        the cores. ``slowdowns`` because of heat; ``periods`` of the quota, in ``stopped`` of which it stopped the
        process. ``mhz`` of each core and ``microjoules`` of each package are empty where they can't be read.
        """
        listed, own = psutil.cpu_times(percpu=True), psutil.Process().cpu_times()
        if self.cores[-1] >= len(listed):  # in a container it may list other cores than these
            raise ValueError(f"/proc/stat doesn't list cpu{self.cores[-1]}, which this process may use")
        times = [listed[core] for core in self.cores]
        stats = [dict(line.split() for line in text.splitlines()) for text in _read_all(self._stats)]
        throttle_counts = (folder / f"thermal_throttle/{part}_throttle_count"
                           for folder in self._folders for part in ("core", "package"))
        return {
            "time": time.monotonic(),
            "busy": sum(core.user + core.nice + core.system + core.irq + core.softirq for core in times),
            "steal": sum(core.steal for core in times),
            "counted": sum(sum(core[:8]) for core in times),  # without guests, which count as users as well
            "own": own.user + own.system + own.children_user + own.children_system,
            "load_average": os.getloadavg()[0],
            "mhz": [int(khz) / 1e3 for khz in _read_all(core / "cpufreq/scaling_cur_freq" for core in self._folders)],
            "slowdowns": sum(map(int, _read_all(throttle_counts))),
            "periods": sum(int(stat["nr_periods"]) for stat in stats),
            "stopped": sum(int(stat["nr_throttled"]) for stat in stats),
            "microjoules": [int(_read(counter)) for counter in self._counters],
        }


@cache
def _probe_bytes() -> np.ndarray:
    return np.ones(32 << 20, np.uint8)


def probe() -> float:
    """Milliseconds of a fixed piece of work: to read 32 MiB, and to compute a checksum of 2 MiB.

    What moves them moves an engine's time, too: other clocks, or neighbours on the same host that take memory bandwidth
    or cache. It is the fastest of 50 ms of runs, in CPU time: waiting for a core is not in it, the monitor sees that.
    """
    numbers, end = _probe_bytes(), time.perf_counter() + _PROBE_SECONDS
    times: list[float] = []
    while time.perf_counter() < end or not times:
        start = time.thread_time()
        numbers.sum(dtype=np.uint8)
        zlib.crc32(numbers[:2 << 20].data)
        times.append(time.thread_time() - start)
    return min(times) * 1e3


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _read_all(paths: Iterable[Path]) -> list[str]:
    """The files that can be read."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append(_read(path))
    return found


def _cgroups(top: Path) -> list[Path]:
    """Folders of the cgroups (version 2) whose CPU quotas bind this process."""
    own = re.search(r"^0::/(.*)", "".join(_read_all([CGROUP])), re.MULTILINE)
    folders = [top / own[1], *(top / own[1]).parents] if own else []
    return [folder for folder in folders if folder.is_relative_to(top) and (folder / "cpu.max").is_file()]


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
    found = re.search(rf"^{key}\s*:(.*)", "".join(_read_all([CPUINFO])), re.MULTILINE)
    return found[1].strip() if found else ""


def count_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
