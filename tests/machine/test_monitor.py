"""The monitor beside a measurement: real load, made-up readings, a made-up /sys, a stand-in for NVML's library."""

import dataclasses
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rtmpose.machine import cpu, versions
from rtmpose.machine.gpu import Gpu, GpuSensor
from rtmpose.machine.monitor import Monitor, judge_cpu, judge_gpu
from rtmpose.report.text import describe_conditions

CARDS = ("0000:01:00.0", "0000:02:00.0")  # in NVML's order; CUDA counts the second first
GPU = Gpu("NVIDIA L4", "8.9", "13.0", 0, CARDS[1], 2040.0)
CPU_FIGURES = {"cores": 2, "seconds": 5.0, "counted_share": 1.0, "idle_share": 0.0, "others_share": 0.05,
               "steal_share": 0.05, "quota_stopped": 1, "quota_periods": 100, "quota_cores": 1.5, "slowdowns": 0,
               "drift": 0.05}
GPU_FIGURES = {"throttle_reasons": {}, "other_processes": 0, "samples": 9, "temperature_c": {"max": 61.2},
               "power_limit_w": 72.0, "default_power_limit_w": 72.0, "sm_mhz": {"max": 1980.0}, "boost_mhz": 2040.0}


def test_a_busy_process_beside_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        with Monitor() as monitor:
            time.sleep(1.5)
        process.kill()
    figures = monitor.conditions["cpu"]
    assert monitor.conditions["verdict"] == "busy", monitor.conditions
    assert figures["others_share"] > 0.3 / figures["cores"] and figures["counted_share"] == pytest.approx(1, abs=0.2)
    assert monitor.conditions["samples"] >= 3


def test_own_threads_and_children_are_not_others() -> None:
    def cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def work() -> None:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass

    with Monitor() as monitor:
        before = cpu_seconds()
        thread = threading.Thread(target=work)
        thread.start()
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
        thread.join()
        spent = cpu_seconds() - before
    assert monitor.conditions["cpu"]["own_seconds"] == pytest.approx(spent, abs=0.1)
    assert monitor.conditions["cpu"]["own_seconds"] >= 0.5


@pytest.mark.parametrize(("figures", "on_cpu", "finding"), [  # on both sides of each threshold
    ({}, True, ""),
    ({"seconds": 0.99}, True, "unknown: 0.99 s are too short to tell, at least 1 s are needed"),
    ({"seconds": 1.0}, True, ""),
    ({"counted_share": 0.49}, True, "unknown: /proc/stat counted 49 % of the time of 2 cores"),
    ({"counted_share": 0.5}, True, ""),
    ({"others_share": 0.051}, True, "busy: others took 5 % of the cores"),
    ({"steal_share": 0.051}, True, "busy: the hypervisor took 5 % of the cores (steal)"),
    ({"cores": 10, "steal_share": 0, "others_share": 0.031}, True, "busy: others took 3 % of the cores"),
    ({"cores": 10, "steal_share": 0, "others_share": 0.03}, True, ""),
    ({"others_share": 0.5, "idle_share": 0.24}, False, "busy: others took 50 % of the cores"),
    ({"others_share": 0.5, "idle_share": 0.25}, False, ""),
    ({"quota_stopped": 2}, True, "throttled: the CPU quota of 1.5 cores stopped this process in 2 of 100 periods"),
    ({"slowdowns": 1}, True, "throttled: the processor slowed down because of heat, 1 times"),
])
def test_thresholds_of_the_cpu(figures: dict, on_cpu: bool, finding: str) -> None:
    assert [": ".join(found) for found in judge_cpu(CPU_FIGURES | figures, on_cpu)] == [finding] * bool(finding)


@pytest.mark.parametrize(("figures", "finding"), [
    ({}, ""),
    ({"other_processes": 1}, "busy: 1 other process on the GPU"),
    ({"other_processes": 2}, "busy: 2 other processes on the GPU"),
    ({"other_processes": None},
     "unknown: NVML lists no process on the GPU, not even this one; in a container, see --pid=host"),
    ({"throttle_reasons": None}, "unknown: NVML doesn't say whether the GPU slows down"),
    ({"throttle_reasons": {"power brake": 1}},
     "throttled: the GPU slowed down in 1 of 9 samples: power brake, at up to 61 °C"),
    ({"throttle_reasons": {"software power cap": 9}}, ""),  # an L4 always runs at its limit
    ({"throttle_reasons": {"software power cap": 9}, "power_limit_w": 71.0},
     "throttled: the GPU reached its power limit in 9 of 9 samples: 71 W, 72 W by default"),
    ({"sm_mhz": {"max": 1978.0}}, "throttled: the SM clock reached 1978 MHz, and this GPU's boost clock is 2040 MHz: "
                                  "locked or lowered; nvidia-smi -rgc and -rac reset it"),
    ({"sm_mhz": {"max": 1200.0}, "throttle_reasons": {"software power cap": 1}}, ""),
    ({"sm_mhz": {"max": 1200.0}, "boost_mhz": 0.0}, ""), ({"sm_mhz": None}, ""),
])
def test_thresholds_of_the_gpu(figures: dict, finding: str) -> None:
    assert [": ".join(found) for found in judge_gpu(GPU_FIGURES | figures)] == [finding] * bool(finding)


class Machine:
    """Two cores, by the readings of its sensor."""

    def __init__(self) -> None:
        self.probes: list[float] = []  # the next ones, in milliseconds
        self.now: dict[str, Any] = {"load_average": 1.5, "mhz": [1000.0, 3000.0], "microjoules": [], **dict.fromkeys(
            ("time", "busy", "steal", "counted", "own", "slowdowns", "periods", "stopped"), 100)}

    def let_pass(self, seconds: float, own: float, others: float = 0.0, steal: float = 0.0) -> None:
        """Seconds of which this process, others and the hypervisor took some core seconds."""
        for name, change in (("time", seconds), ("busy", own + others), ("steal", steal), ("counted", 2 * seconds),
                             ("own", own)):
            self.now[name] += change


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    here = Machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(cpu.CpuSensor, "read", lambda sensor: dict(here.now))
    monkeypatch.setattr("rtmpose.machine.monitor.probe", lambda: here.probes.pop(0) if here.probes else 1.0)
    return here


@pytest.mark.parametrize(("probes", "on_cpu", "expected"), [
    ([1, 1.02, 0.975], True, "clean"), ([1, 1.01, 0.95], True, "busy: the machine itself varied by 6 %; not a result"),
    ([1, 1.01, 0.95], False, "clean")])
def test_drift_of_the_machine_is_seen(machine: Machine, probes: list[float], on_cpu: bool, expected: str) -> None:
    machine.probes = probes
    with Monitor(on_cpu=on_cpu) as monitor:
        machine.let_pass(5, own=9.9)
    assert describe_conditions(monitor.conditions) == expected


def test_figures_of_the_cpu(machine: Machine, tmp_path: Path) -> None:
    with Monitor(sys=tmp_path) as monitor:
        machine.let_pass(5, own=6, others=2, steal=1)
        machine.now.update(slowdowns=103, periods=150, stopped=102)
    assert monitor.conditions["cpu"] == {
        "seconds": 5, "cores": 2, "own_seconds": 6, "own_share": 0.6, "others_share": 0.2, "steal_share": 0.1,
        "idle_share": pytest.approx(0.1), "counted_share": 1, "load_average": 1.5,
        "drift": 0, "mhz": {"min": 1000, "mean": 2000, "max": 3000}, "governor": None, "slowdowns": 3,
        "quota_cores": None, "quota_periods": 50, "quota_stopped": 2}
    assert describe_conditions(monitor.conditions) == (
        "busy: others took 20 % of the cores, the hypervisor took 10 % of the cores (steal), the CPU quota stopped "
        "this process in 2 of 50 periods, the processor slowed down because of heat, 3 times; not a result")
    assert monitor.costs(1000) == {"cores_per_1000_fps": 6}


def write(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content}\n")


def test_readings_from_sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(cpu, "CGROUP", tmp_path / "cgroup")
    write(tmp_path, {"cgroup": "4:memory:/x\n0::/kit/run"})
    write(tmp_path / "fs/cgroup", {"kit/run/cpu.max": "max 100000", "kit/cpu.max": "150000 100000",
                                   "kit/run/cpu.stat": "usage_usec 5\nnr_periods 0\nnr_throttled 0",
                                   "kit/cpu.stat": "usage_usec 5\nnr_periods 100\nnr_throttled 7"})
    write(tmp_path / "devices/system/cpu/cpu0", {
        "cpufreq/scaling_cur_freq": 3000000, "cpufreq/scaling_governor": "powersave",
        "thermal_throttle/core_throttle_count": 5, "thermal_throttle/package_throttle_count": 12})
    for domain, name in (("0", "package-0"), ("0:0", "core"), ("1", "package-1"), ("2", "psys")):
        write(tmp_path / f"class/powercap/intel-rapl:{domain}", {"name": name, "max_energy_range_uj": 10**9,
                                                                 "energy_uj": 9 * 10**8})
    sensor = cpu.CpuSensor(tmp_path)
    assert (sensor.quota, sensor.governor, sensor.energy_ranges) == (1.5, "powersave", [10**9, 10**9])
    expected = {"mhz": [3000], "slowdowns": 17, "periods": 100, "stopped": 7, "microjoules": [9 * 10**8] * 2}
    assert {name: value for name, value in sensor.read().items() if name in expected} == expected
    (tmp_path / "class/powercap/intel-rapl:1/energy_uj").unlink()
    assert cpu.CpuSensor(tmp_path).read()["microjoules"] == []  # a part of the energy is no guess of the whole
    bare = cpu.CpuSensor(tmp_path / "nothing")
    assert (bare.quota, bare.governor, bare.read()["mhz"], bare.read()["microjoules"]) == (None, None, [], [])


def test_a_container_that_hides_its_cores_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 9999})
    with Monitor() as monitor:
        pass
    assert monitor.conditions["verdict"] == "unknown"
    assert "doesn't list cpu9999, which this process may use" in monitor.conditions["reasons"][0]
    assert monitor.costs(1000) == {}


def fail() -> None:
    raise OSError("gone")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("fault", "reason"), [
    (sys.exit, "the monitor ended early"), (lambda: threading.Event().wait(), "the monitor hangs"),
    (fail, "the monitor of the CPU died: OSError: gone")])
def test_a_monitor_that_died_is_never_clean(machine: Machine, monkeypatch: pytest.MonkeyPatch,
                                            fault: Callable[[], None], reason: str) -> None:
    def read(sensor: cpu.CpuSensor) -> dict[str, Any]:
        if threading.current_thread().name == "monitor":
            fault()
        return dict(machine.now)

    monkeypatch.setattr(cpu.CpuSensor, "read", read)
    monkeypatch.setattr("rtmpose.machine.monitor._PATIENCE", 0.2)
    with Monitor(interval=0.02) as monitor:
        time.sleep(0.2)
        machine.let_pass(5, own=9.9)
    assert monitor.conditions["verdict"] == "unknown" and monitor.conditions["reasons"] == [reason]
    assert monitor.costs(1) == {}


@pytest.mark.parametrize(("seconds", "expected"), [(0.6, "clean"), (1.1, "unknown: the monitor took no sample in 1 s")])
def test_a_monitor_without_samples_is_unknown(machine: Machine, monkeypatch: pytest.MonkeyPatch, seconds: float,
                                              expected: str) -> None:
    monkeypatch.setattr(Monitor, "_watch", lambda self: self._stop.wait())
    with Monitor(interval=0.1) as monitor:
        time.sleep(seconds)
        machine.let_pass(5, own=9.9)
    assert describe_conditions(monitor.conditions) == expected


def test_a_costly_sensor_is_read_less_often(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 1 % of a core: with 5 ms a sample, one each half second."""
    def slow(sensor: cpu.CpuSensor) -> dict[str, Any]:
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass
        return dict(machine.now)

    monkeypatch.setattr(cpu.CpuSensor, "read", slow)
    with Monitor(interval=0.01) as monitor:
        time.sleep(0.4)
    assert 3 <= monitor.conditions["samples"] <= 3 + monitor.seconds // 0.5  # a loaded machine sleeps longer


@pytest.mark.parametrize(("seconds", "energy"), [(9.9, None), (10, {
    "joules_per_person": pytest.approx(0.26), "seconds": 10, "source": "RAPL, processor packages"})])
def test_rapl_counts_the_packages_and_wraps(machine: Machine, seconds: float, energy: dict | None) -> None:
    with Monitor(interval=60) as monitor:
        monitor._sensors["cpu"].energy_ranges = [10**9, 10**9]
        monitor._samples["cpu"][0]["microjoules"] = [900_000_000, 900_000_000]
        machine.let_pass(seconds, own=1)
        machine.now["microjoules"] = [100_000_000, 960_000_000]
    assert monitor.costs(1000).get("energy") == energy


class NVMLError(Exception):
    """As in pynvml."""


def not_supported(*_: Any) -> None:
    raise NVMLError("Not Supported")


def nvml(**changed: Any) -> ModuleType:
    """A stand-in for pynvml: two L4 with this process and another one on them, with some functions changed.

    A handle is NVML's index of a card, or a MIG instance's UUID, and the second card takes the most power.
    """
    module = ModuleType("pynvml")
    energy = iter(range(10**6, 10**9, 720_000))
    functions = {
        "NVMLError": NVMLError, "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65.06",
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByPciBusId": CARDS.index,
        "nvmlDeviceGetHandleByUUID": str,
        "nvmlDeviceGetEnforcedPowerLimit": lambda device: 72000,
        "nvmlDeviceGetPowerManagementDefaultLimit": lambda device: 75000,
        "nvmlDeviceGetPersistenceMode": lambda device: 1,
        "nvmlDeviceGetEccMode": lambda device: (1, 1),
        "nvmlDeviceGetMigMode": not_supported,
        "nvmlDeviceGetClockInfo": lambda device, clock: {1: 2040, 2: 6251}[clock],
        "nvmlDeviceGetTemperature": lambda device, sensor: 61,
        "nvmlDeviceGetPowerUsage": {0: 9000, 1: 71500, "MIG-12": 3000, "MIG-34": 4000}.get,
        "nvmlDeviceGetTotalEnergyConsumption": lambda device: next(energy),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 0x21,
        "nvmlDeviceGetComputeRunningProcesses": lambda device: [SimpleNamespace(pid=pid) for pid in (1, os.getpid())],
    }
    vars(module).update({**functions, **changed})
    return module


def described(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Settings of the GPU in a result."""
    monkeypatch.setattr(versions, "find_gpu", lambda: GPU)
    machine = versions.describe_machine()
    return [machine[name] for name in ("driver", "power_limit_w", "persistence_mode", "mig_mode")]


@pytest.mark.parametrize("changed", [
    {}, {"nvmlDeviceGetTotalEnergyConsumption": not_supported}, {"nvmlDeviceGetMigMode": lambda device: (1, 1)}])
def test_figures_of_the_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch, changed: dict) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**changed))
    with Monitor(GPU, interval=60) as monitor:
        machine.let_pass(20, own=1)
    mig = True if "nvmlDeviceGetMigMode" in changed else None
    assert monitor.conditions["gpu"] == {
        "power_limit_w": 72, "default_power_limit_w": 75, "ecc": True, "mig": mig, "boost_mhz": 2040, "samples": 2,
        **{name: {"min": value, "mean": value, "max": value} for name, value in (
            ("sm_mhz", 2040), ("memory_mhz", 6251), ("temperature_c", 61), ("power_w", 71.5))},
        "throttle_reasons": {"software thermal slowdown": 2}, "other_processes": 1}
    assert monitor.conditions["verdict"] == "busy"
    energy = {"joules_per_person": 0.072, "seconds": 20, "source": "NVML, the whole GPU board"}
    assert monitor.costs(10_000).get("energy") == (None if changed else energy)
    assert described(monkeypatch) == ["580.65.06", 72, True, mig]


@pytest.mark.parametrize(("visible", "ordinal", "watts"), [
    ("", 0, 71.5), ("", 1, 9), ("1,0", 0, 71.5), ("GPU-12", 0, 71.5), ("MIG-12,MIG-34", 0, 3), ("MIG-12,MIG-34", 1, 4)])
def test_nvml_watches_the_gpu_that_cuda_uses(monkeypatch: pytest.MonkeyPatch, visible: str, ordinal: int, watts: float
                                             ) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = dataclasses.replace(GPU, ordinal=ordinal, bus_id=CARDS[1 - ordinal])
    assert GpuSensor(gpu).read()["power_w"] == watts


@pytest.mark.parametrize(("module", "reason"), [
    (None, "the monitor of the GPU died: ModuleNotFoundError: "),  # as if it were not installed
    (nvml(nvmlInit=not_supported), "the monitor of the GPU died: NVMLError: Not Supported")])
def test_a_gpu_without_nvml_is_unknown(machine: Machine, monkeypatch: pytest.MonkeyPatch, module: ModuleType | None,
                                       reason: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with Monitor(GPU) as monitor:
        machine.let_pass(5, own=1)
    assert monitor.conditions["verdict"] == "unknown" and monitor.conditions["reasons"][0].startswith(reason)
    assert described(monkeypatch) == [None] * 4
