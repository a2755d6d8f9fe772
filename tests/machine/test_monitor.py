"""The monitor beside a measurement: real load, made-up /proc and /sys trees, a stand-in for NVML's library."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rtmpose.machine import cpu
from rtmpose.machine.gpu import Gpu
from rtmpose.machine.monitor import Monitor, judge_cpu
from rtmpose.report.text import describe_conditions

TICKS = os.sysconf("SC_CLK_TCK")
GPU = Gpu("NVIDIA L4", "8.9", "13.0", 0)
QUOTAS = {"2": ("0::/kit/run\n", "kit", {"cpu.max": "150000 100000\n"}),
          "1": ("3:memory:/x\n2:cpu,cpuacct:/not/visible\n", "cpu",
                {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"})}  # by version: cgroup, folder, files


class Machine:
    """A made-up /proc and /sys of some cores, all of which this process may use."""

    def __init__(self, root: Path, cores: int) -> None:
        self.proc, self.sys, self.cores = root / "proc", root / "sys", cores
        self.uptime = self.own = self.others = self.steal = 0.0
        self.write(self.proc, {"self/cgroup": "0::/\n", "loadavg": "1.50 1.00 0.50 2/300 4242\n"})
        self.let_pass(1000.0, own=0.0)

    @staticmethod
    def write(folder: Path, files: dict[str, object]) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(str(content))

    def let_pass(self, seconds: float, own: float, others: float = 0.0, steal: float = 0.0, idle: float | None = None
                 ) -> None:
        """Seconds of which this process, others and the hypervisor took some core seconds."""
        self.uptime += seconds
        self.own, self.others, self.steal = self.own + own, self.others + others, self.steal + steal
        if idle is None:
            idle = self.uptime * self.cores - self.own - self.others - self.steal
        states = (self.own, 0, self.others, idle, 0, 0, 0, self.steal)  # user ... steal, as in /proc/stat
        row = " ".join(str(round(state / self.cores * TICKS)) for state in states)
        lines = [f"cpu {row} 0 0", *(f"cpu{core} {row} 0 0" for core in range(self.cores)),
                 f"cpu{self.cores} {round(self.uptime * TICKS)} 0 0 0 0 0 0 0 0 0", "intr 1 2 3"]  # that one is busy
        own_ticks = " ".join(str(round(self.own * TICKS / 4)) for _ in range(4))
        self.write(self.proc, {"stat": "\n".join(lines), "uptime": f"{self.uptime:.2f} 1.0\n",
                               "self/stat": f"7 (a (b) c) R 1 7 7 0 -1 0 1 2 3 4 {own_ticks} 20 0 1 0 9"})

    def monitor(self, gpu: Gpu | None = None) -> Monitor:
        """A monitor that reads only at the start and at the end."""
        return Monitor(gpu, self.proc, self.sys, interval=60)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Machine]:
    def make(cores: int = 2) -> Machine:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        return Machine(tmp_path, cores)

    return make


@pytest.fixture
def busy_process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


def test_a_busy_process_beside_is_seen(busy_process: None) -> None:
    with Monitor() as monitor:
        time.sleep(1.5)
    assert monitor.conditions["verdict"] == "busy", monitor.conditions
    assert monitor.conditions["cpu"]["others_share"] > 0.5 / monitor.conditions["cpu"]["cores"]
    assert monitor.conditions["samples"] >= 3


def test_own_threads_and_children_are_not_others() -> None:
    def cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def work() -> None:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass

    before = cpu_seconds()
    with Monitor() as monitor:
        thread = threading.Thread(target=work)
        thread.start()
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
        thread.join()
    assert monitor.conditions["cpu"]["own_seconds"] == pytest.approx(cpu_seconds() - before, abs=0.1)
    assert monitor.conditions["cpu"]["own_seconds"] >= 0.5


@pytest.mark.parametrize(("cores", "passed", "expected"), [
    (2, {"own": 9.9}, "clean"),
    (2, {"own": 9.5, "others": 0.4}, "clean"),
    (2, {"own": 6.2, "others": 3.8}, "busy: others took 38 % of the cores; not a result"),
    (16, {"own": 75, "others": 2.5}, "busy: others took 3 % of the cores; not a result"),  # half a core
    (2, {"own": 8, "others": 1, "steal": 1},
     "busy: others took 10 % of the cores, the hypervisor took 10 % of the cores (steal); not a result"),
    (2, {"own": 1, "idle": 2000}, "unknown: /proc/stat counted 10 % of the time of 2 cores"),  # 2000 since the start
])
def test_others_and_steal(machine: Callable, cores: int, passed: dict, expected: str) -> None:
    here = machine(cores)
    with here.monitor() as monitor:
        here.let_pass(5, **passed)
    assert describe_conditions(monitor.conditions) == expected
    assert monitor.conditions["cpu"]["own_seconds"] == pytest.approx(passed["own"], abs=0.1)
    assert monitor.costs(1000)["cores_per_1000_fps"] == pytest.approx(passed["own"], abs=0.1)
    assert "energy" not in monitor.costs(1000)  # no RAPL


CPU = {"cores": 2, "seconds": 5.0, "counted_share": 1.0, "idle_share": 0.0, "others_share": 0.0, "steal_share": 0.0,
       "quota_stopped": 0, "quota_periods": 100, "quota_cores": 1.5, "slowdowns": 0}


@pytest.mark.parametrize(("reading", "on_gpu", "verdicts"), [  # on both sides of each threshold
    ({"seconds": 0.99}, False, ["unknown"]), ({"seconds": 1.0}, False, []),
    ({"counted_share": 0.49}, False, ["unknown"]), ({"counted_share": 0.5}, False, []),
    ({"others_share": 0.051}, False, ["busy"]), ({"others_share": 0.05}, False, []),
    ({"steal_share": 0.051}, False, ["busy"]), ({"steal_share": 0.05}, False, []),
    ({"cores": 10, "others_share": 0.031}, False, ["busy"]), ({"cores": 10, "others_share": 0.03}, False, []),
    ({"others_share": 0.5, "idle_share": 0.24}, True, ["busy"]), ({"others_share": 0.5, "idle_share": 0.25}, True, []),
    ({"quota_stopped": 2}, False, ["throttled"]), ({"quota_stopped": 1}, False, []),
    ({"slowdowns": 1}, False, ["throttled"])])
def test_thresholds(reading: dict, on_gpu: bool, verdicts: list[str]) -> None:
    assert [verdict for verdict, _ in judge_cpu(CPU | reading, on_gpu)] == verdicts


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(("stopped", "expected"), [
    (31, "throttled: the CPU quota of 1.5 cores stopped this process in 31 of 50 periods"), (0, "clean")])
def test_cpu_quota(machine: Callable, version: str, stopped: int, expected: str) -> None:
    here = machine()
    cgroup, folder, files = QUOTAS[version]
    here.write(here.proc, {"self/cgroup": cgroup})
    here.write(here.sys / "fs/cgroup" / folder, {**files, "cpu.stat": "nr_periods 100\nnr_throttled 7\n"})
    with here.monitor() as monitor:
        here.let_pass(5, own=7.5)
        here.write(here.sys / "fs/cgroup" / folder, {"cpu.stat": f"nr_periods 150\nnr_throttled {7 + stopped}\n"})
    assert describe_conditions(monitor.conditions) == expected
    assert monitor.conditions["cpu"]["quota_cores"] == 1.5


def test_heat_frequency_and_governor(machine: Callable) -> None:
    here = machine()
    cpu = here.sys / "devices/system/cpu"
    for core, khz in ((0, 3000000), (1, 1000000)):
        here.write(cpu / f"cpu{core}", {"cpufreq/scaling_cur_freq": khz, "cpufreq/scaling_governor": "powersave\n",
                                        "thermal_throttle/core_throttle_count": 5})
    with here.monitor() as monitor:
        here.let_pass(5, own=9.9)
        here.write(cpu / "cpu1", {"thermal_throttle/core_throttle_count": 17})
    assert describe_conditions(monitor.conditions) == "throttled: the processor slowed down because of heat, 12 times"
    assert monitor.conditions["cpu"]["mhz"] == {"min": 1000, "mean": 2000, "max": 3000}
    assert monitor.conditions["cpu"]["governor"] == "powersave"


def test_too_short_to_tell(machine: Callable) -> None:
    here = machine()
    with here.monitor() as monitor:
        here.let_pass(0.5, own=1)
    assert describe_conditions(monitor.conditions) == (
        "unknown: 0.50 s are too short to tell, at least 1 s are needed")


def test_a_container_that_hides_its_cores_is_unknown(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 9})
    with here.monitor() as monitor:
        here.let_pass(5, own=9.9)
    assert monitor.conditions["verdict"] == "unknown"
    assert "doesn't list cpu9, which this process may use" in monitor.conditions["reasons"][0]
    assert monitor.costs(1000) == {}


def test_a_monitor_without_proc_is_unknown(tmp_path: Path) -> None:
    with Monitor(proc=tmp_path, sys=tmp_path) as monitor:
        pass
    assert monitor.conditions["verdict"] == "unknown" and monitor.costs(1) == {}


def die(call: int) -> None:
    if call == 2:
        raise SystemExit  # ends the thread without a word


def fail(call: int) -> None:
    if call >= 2:
        raise OSError("gone")


def hang(call: int) -> None:
    if call == 2:
        threading.Event().wait()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("fault", "reason"), [
    (die, "the monitor ended early"), (hang, "the monitor hangs"),
    (fail, "the monitor of the CPU died: OSError: gone")])
def test_a_monitor_that_died_is_never_clean(machine: Callable, monkeypatch: pytest.MonkeyPatch,
                                            fault: Callable[[int], None], reason: str) -> None:
    here, read, calls = machine(), cpu.CpuSensor.read, []

    def faulty(sensor: cpu.CpuSensor) -> cpu.CpuReading:
        calls.append(1)
        fault(len(calls))
        return read(sensor)

    monkeypatch.setattr(cpu.CpuSensor, "read", faulty)
    monkeypatch.setattr("rtmpose.machine.monitor._PATIENCE", 0.2)
    with Monitor(None, here.proc, here.sys, interval=0.02) as monitor:
        time.sleep(0.2)
        here.let_pass(5, own=9.9)
    assert monitor.conditions["verdict"] == "unknown" and monitor.conditions["reasons"] == [reason]
    assert monitor.costs(1) == {}


def test_a_monitor_without_samples_is_unknown(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine()
    monkeypatch.setattr(Monitor, "_watch", lambda self: self._stop.wait())
    with Monitor(None, here.proc, here.sys, interval=0.01) as monitor:
        time.sleep(0.2)
        here.let_pass(5, own=9.9)
    assert describe_conditions(monitor.conditions) == "unknown: the monitor took no sample in 0 s"


def test_a_costly_sensor_is_read_less_often(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 1 % of a core: with 5 ms a sample, one each half second."""
    here, read = machine(), cpu.CpuSensor.read

    def slow(sensor: cpu.CpuSensor) -> cpu.CpuReading:
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass
        return read(sensor)

    monkeypatch.setattr(cpu.CpuSensor, "read", slow)
    with Monitor(None, here.proc, here.sys, interval=0.01) as monitor:
        time.sleep(0.4)
    assert 3 <= monitor.conditions["samples"] <= 4


def test_rapl_counts_the_packages_and_wraps(machine: Callable) -> None:
    here = machine()
    powercap = here.sys / "class/powercap"
    for domain, name in (("0", "package-0"), ("0:0", "core"), ("1", "package-1"), ("2", "psys")):
        here.write(powercap / f"intel-rapl:{domain}", {"name": f"{name}\n", "max_energy_range_uj": 1_000_000_000,
                                                       "energy_uj": 900_000_000})
    with here.monitor() as monitor:
        here.let_pass(20, own=39)
        for domain, microjoules in (("0", 100_000_000), ("0:0", 950_000_000), ("1", 960_000_000), ("2", 0)):
            here.write(powercap / f"intel-rapl:{domain}", {"energy_uj": microjoules})
    assert monitor.costs(1000)["energy"] == {"joules_per_person": pytest.approx(0.26), "seconds": 20,
                                             "source": "RAPL, processor packages"}
    with here.monitor() as monitor:
        here.let_pass(9.9, own=19)
    assert "energy" not in monitor.costs(1000)  # too short
    (powercap / "intel-rapl:1/energy_uj").unlink()
    with here.monitor() as monitor:
        here.let_pass(20, own=39)
    assert "energy" not in monitor.costs(1000)  # a part of the energy is no guess of the whole


class NVMLError(Exception):
    """As in pynvml."""


def not_supported(*_: Any) -> None:
    raise NVMLError("Not Supported")


def nvml(**changed: Any) -> ModuleType:
    """A stand-in for pynvml: an idle L4 with this process on it, with some functions changed."""
    module = ModuleType("pynvml")
    energy = iter(range(10**6, 10**9, 720_000))
    functions = {
        "NVMLError": NVMLError, "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: f"device {index}",
        "nvmlDeviceGetEnforcedPowerLimit": lambda device: 72000,
        "nvmlDeviceGetPowerManagementDefaultLimit": lambda device: 72000,
        "nvmlDeviceGetEccMode": lambda device: (1, 1),
        "nvmlDeviceGetMigMode": not_supported,
        "nvmlDeviceGetClockInfo": lambda device, clock: {1: 2040, 2: 6251}[clock],
        "nvmlDeviceGetTemperature": lambda device, sensor: 61,
        "nvmlDeviceGetPowerUsage": lambda device: 71500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda device: next(energy),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 0x1,
        "nvmlDeviceGetComputeRunningProcesses": lambda device: [SimpleNamespace(pid=os.getpid())],
    }
    vars(module).update({**functions, **changed})
    return module


def two_processes(_: Any) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=1), SimpleNamespace(pid=2)]


@pytest.mark.parametrize(("changed", "expected"), [
    ({}, "clean"),
    ({"nvmlDeviceGetComputeRunningProcesses": two_processes}, "busy: 1 other process on the GPU; not a result"),
    ({"nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 0x21},
     "throttled: the GPU slowed down in 2 of 2 samples: software thermal slowdown, at up to 61 °C"),
    ({"nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 0x4}, "clean"),  # an L4 always runs at its limit
    ({"nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 0x4,
      "nvmlDeviceGetPowerManagementDefaultLimit": lambda device: 100000},
     "throttled: the GPU reached its power limit in 2 of 2 samples: 72 W, 100 W by default"),
    ({"nvmlDeviceGetCurrentClocksThrottleReasons": not_supported},
     "unknown: NVML doesn't say whether the GPU slows down"),
    ({"nvmlDeviceGetComputeRunningProcesses": lambda device: []},
     "unknown: NVML lists no process on the GPU, not even this one; in a container, see --pid=host"),
    ({"nvmlInit": not_supported}, "unknown: the monitor of the GPU died: NVMLError: Not Supported"),
])
def test_gpu(machine: Callable, monkeypatch: pytest.MonkeyPatch, changed: dict, expected: str) -> None:
    here = machine()
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**changed))
    with here.monitor(GPU) as monitor:
        here.let_pass(20, own=1)
    assert describe_conditions(monitor.conditions) == expected
    if not changed:
        assert monitor.conditions["gpu"] == {
            "power_limit_w": 72, "default_power_limit_w": 72, "ecc": True, "mig": None, "samples": 2,
            **{name: {"min": value, "mean": value, "max": value} for name, value in (
                ("sm_mhz", 2040), ("memory_mhz", 6251), ("temperature_c", 61), ("power_w", 71.5))},
            "throttle_reasons": {}, "other_processes": 0}
        assert monitor.costs(10_000)["energy"] == {"joules_per_person": 0.072, "seconds": 20,
                                                   "source": "NVML, the whole GPU board"}


@pytest.mark.parametrize("changed", [{"nvmlDeviceGetTotalEnergyConsumption": not_supported},
                                     {"nvmlDeviceGetMigMode": lambda device: (1, 1)}])
def test_energy_of_a_gpu_is_absent_where_it_would_be_a_guess(machine: Callable, monkeypatch: pytest.MonkeyPatch,
                                                             changed: dict) -> None:
    here = machine()
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**changed))
    with here.monitor(GPU) as monitor:
        here.let_pass(20, own=1)
    assert monitor.conditions["verdict"] == "clean" and set(monitor.costs(1)) == {"cores_per_1000_fps"}


def test_a_gpu_without_its_package_is_unknown(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine()
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    with here.monitor(GPU) as monitor:
        here.let_pass(5, own=1)
    assert monitor.conditions["verdict"] == "unknown"
    assert monitor.conditions["reasons"][0].startswith("the monitor of the GPU died: ModuleNotFoundError")


@pytest.mark.parametrize(("others", "verdict"), [(5, "clean"), (8.9, "busy")])
def test_a_gpu_minds_other_processes_only_on_full_cores(machine: Callable, monkeypatch: pytest.MonkeyPatch,
                                                        others: float, verdict: str) -> None:
    here = machine()
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    with here.monitor(GPU) as monitor:
        here.let_pass(5, own=1, others=others)
    assert monitor.conditions["verdict"] == verdict
