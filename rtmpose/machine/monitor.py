"""The conditions of a measurement: what else used the machine, what slowed it down, and the energy that it took."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.machine.cpu import CpuSensor, probe
from rtmpose.machine.gpu import Gpu, GpuSensor

VERDICTS = ("clean", "unknown", "unsteady", "throttled", "busy")  # from best to worst
INTERVAL = 0.5  # seconds between samples
_MOST_COST = 0.01  # CPU time of the monitor, as a share of one core
_PATIENCE = 2.0  # seconds to wait for a sample in progress at the end

# Counters tick a hundred times a second, so less than a second says little.
_LEAST_SECONDS = 1.0
# Others are busy above 5 % of the cores, or above 0.3 of a core where that is less. One busy process beside an engine
# on all cores gets half a core to a whole one, however many cores there are, and the threads of a batch wait for the
# slowest. System services alone take a few hundredths of a core.
_OTHERS_SHARE, _OTHERS_CORES = 0.05, 0.3
# /proc/stat counts all time of a core, except where a container or a virtual machine makes it up.
_COUNTED_SHARE = 0.5
# An engine on another device needs the CPU only to enqueue: others disturb it where they leave few cores idle.
_IDLE_SHARE = 0.25
# A process that uses exactly its quota is now and then stopped for a moment.
_STOPPED_SHARE = 0.01
# Energy counters move in steps of up to 0.1 s, and power varies within seconds.
_LEAST_ENERGY_SECONDS = 10.0
_MOST_MISSED = 10  # samples that may be late at the start of a region
# A GPU with work runs at its boost clock or above, unless power, heat or a setting holds it down.
_BOOST_SHARE = 0.97

# Probes of a quiet machine differ by 1 to 3 %.
_MOST_DRIFT = 0.05

# Bits of NVML's nvmlClocksEventReasons. The others are idleness and choices of the user.
_POWER_CAP = "software power cap"
_SLOWDOWNS = {0x4: _POWER_CAP, 0x8: "hardware slowdown", 0x20: "software thermal slowdown",
              0x40: "hardware thermal slowdown", 0x80: "power brake"}

Finding = tuple[str, str]  # a verdict, and its reason with figures


class Monitor:
    """Watch the machine while the block runs, in a thread of its own; then ``conditions`` is for ``summary.json``.

    Work on the processor has probes around it: one when the monitor is made, that is before a warm-up, one at the start
    of the block and one at its end. ``steady`` is for the owner to set to False, if the warm-up ended too early.

    ``gpu`` is the NVIDIA GPU that the work runs on, if any; ``on_cpu`` is whether it runs on the processor, if not;
    ``sys`` is the root of that file system. Where something can't be read, the verdict is ``unknown``; no error leaves
    the monitor.
    """

    def __init__(self, gpu: Gpu | None = None, sys: Path = Path("/sys"), interval: float = INTERVAL,
                 on_cpu: bool = True) -> None:
        self.conditions: dict[str, Any] = {}
        self.steady = True
        self._interval = interval
        self._errors: dict[str, str] = {}
        self._sensors: dict[str, Any] = {}
        self._samples: dict[str, list[Any]] = {"cpu": [], "gpu": []}
        self._on_gpu, self._on_cpu = gpu is not None, gpu is None and on_cpu
        with self._guard("cpu"):
            self._sensors["cpu"] = CpuSensor(sys)
        if gpu:
            with self._guard("gpu"):
                self._sensors["gpu"] = GpuSensor(gpu)
        self._cost = 0.0  # CPU seconds
        self._probes: list[float] = []
        self._probe()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="monitor")

    def __enter__(self) -> "Monitor":
        self._probe()
        self._start = time.perf_counter()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        died = not self._thread.is_alive()
        self._stop.set()
        self._thread.join(_PATIENCE)
        self.seconds = time.perf_counter() - self._start
        if died or self._thread.is_alive():
            self._errors["thread"] = f"the monitor {'ended early' if died else 'hangs'}"
        else:
            self._sample()
        self._probe()
        self.conditions = self._judge()

    def costs(self, persons: int) -> dict[str, Any]:
        """``energy`` and ``cores_per_1000_fps`` of ``summary.json`` for this many persons, where they were measured."""
        cpu, joules = self.conditions["cpu"], self._joules()
        found: dict[str, Any] = {"cores_per_1000_fps": cpu["own_seconds"] / persons * 1e3} if cpu else {}
        if joules is not None and cpu["seconds"] >= _LEAST_ENERGY_SECONDS:
            found["energy"] = {"joules_per_person": joules / persons, "seconds": cpu["seconds"],
                               "source": "NVML, the whole GPU board" if self._on_gpu else "RAPL, processor packages"}
        return found

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Keep an error of a sensor; the measurement goes on."""
        try:
            yield
        except Exception as error:
            self._errors[name] = f"the monitor of the {name.upper()} died: {type(error).__name__}: {error}"

    def _probe(self) -> None:
        if self._on_cpu:
            self._probes.append(probe())

    def _watch(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            pause = max(self._interval, self._sample() / _MOST_COST)

    def _sample(self) -> float:
        """Read every sensor that has not failed; returns the CPU seconds that this took."""
        start = time.thread_time()
        for name in set(self._sensors) - set(self._errors):
            with self._guard(name):
                self._samples[name].append(self._sensors[name].read())
        cost = time.thread_time() - start
        self._cost += cost
        return cost

    def _judge(self) -> dict[str, Any]:
        """``conditions`` of ``summary.json``: the worst verdict, all reasons, and the figures."""
        findings = [("unknown", error) for error in self._errors.values()]
        cpu = gpu = None
        if not {"cpu", "thread"} & set(self._errors):
            cpu = _describe_cpu(self._sensors["cpu"], self._samples["cpu"], self._probes)
            findings += judge_cpu(cpu, self._on_cpu)
        if self._on_gpu and not {"gpu", "thread"} & set(self._errors):
            gpu = _describe_gpu(self._sensors["gpu"], self._samples["gpu"])
            findings += judge_gpu(gpu)
        if not self.steady and self.seconds >= _LEAST_SECONDS:
            findings.append(("unsteady", "the warm-up ended before the speed was steady"))
        taken = len(self._samples["cpu"])
        if taken == 2 and self.seconds > _MOST_MISSED * self._interval:
            findings.append(("unknown", f"the monitor took no sample in {self.seconds:.0f} s"))
        return add_findings({"verdict": "clean", "reasons": []}, findings) | {
            "seconds": self.seconds, "samples": taken, "monitor_share": self._cost / self.seconds, "cpu": cpu,
            "gpu": gpu}

    def _joules(self) -> float | None:
        """Energy from the first to the last sample; None if it could not be read throughout."""
        if self._errors:
            return None
        if self._on_gpu:
            counters = [sample.get("energy_mj") for sample in self._samples["gpu"]]
            # A MIG instance shares the counter with the others of its card.
            if None in counters or self.conditions["gpu"]["mig"]:
                return None
            return (counters[-1] - counters[0]) / 1e3
        if not self._on_cpu:
            return None
        packages = np.array([sample["microjoules"] for sample in self._samples["cpu"]], dtype=np.int64)
        # The counters start again at 0, after a minute at the earliest.
        steps = np.diff(packages, axis=0) % np.array(self._sensors["cpu"].energy_ranges, dtype=np.int64)
        return float(steps.sum()) / 1e6 if packages.size else None


def add_findings(conditions: dict[str, Any], findings: Sequence[Finding]) -> dict[str, Any]:
    """Conditions with more findings."""
    return {**conditions, "reasons": [*conditions["reasons"], *(reason for _, reason in findings)],
            "verdict": max([conditions["verdict"], *(verdict for verdict, _ in findings)], key=VERDICTS.index)}


def combine_conditions(conditions: Sequence[dict[str, Any]], of: str, first: int = 0) -> dict[str, Any]:
    """The worst of several conditions, with the reasons of all, from the worst on; each of them is ``of`` a rank, say,
    numbered from ``first``."""
    worst = sorted(enumerate(conditions, first), key=lambda one: -VERDICTS.index(one[1]["verdict"]))
    reasons = [f"{of} {number}: {reason}" for number, one in worst for reason in one["reasons"]]
    return {**worst[0][1], "reasons": reasons}


def _describe_cpu(sensor: CpuSensor, samples: Sequence[dict[str, Any]], probes: Sequence[float]) -> dict[str, Any]:
    """Figures from the first to the last sample; shares are of all cores that this process may use."""
    first, last, cores = samples[0], samples[-1], len(sensor.cores)
    passed = {name: last[name] - first[name] for name in
              ("time", "busy", "steal", "counted", "own", "slowdowns", "periods", "stopped")}
    capacity = max(passed["time"], 0.01) * cores
    return {
        "seconds": passed["time"], "cores": cores,
        "own_seconds": passed["own"], "own_share": passed["own"] / capacity,
        "others_share": max(0.0, passed["busy"] - passed["own"]) / capacity,
        "steal_share": passed["steal"] / capacity,
        "idle_share": max(0.0, 1 - (passed["busy"] + passed["steal"]) / capacity),
        "counted_share": passed["counted"] / capacity,
        "drift": float(np.ptp(probes) / np.median(probes)) if probes else None,
        "load_average": last["load_average"],
        "mhz": _range([mhz for sample in samples for mhz in sample["mhz"]]),
        "governor": sensor.governor, "slowdowns": passed["slowdowns"],
        "quota_cores": sensor.quota, "quota_periods": passed["periods"], "quota_stopped": passed["stopped"],
    }


def judge_cpu(cpu: dict[str, Any], on_cpu: bool) -> Iterator[Finding]:
    """What is wrong with a measurement's figures of the processor, as ``conditions`` of ``summary.json`` has them."""
    cores, seconds = cpu["cores"], cpu["seconds"]
    if seconds < _LEAST_SECONDS:
        yield "unknown", f"{seconds:.2f} s are too short to tell, at least {_LEAST_SECONDS:g} s are needed"
        return
    if cpu["counted_share"] < _COUNTED_SHARE:
        yield "unknown", f"/proc/stat counted {100 * cpu['counted_share']:.0f} % of the time of {cores} cores"
    limit = min(_OTHERS_SHARE, _OTHERS_CORES / cores)
    if on_cpu or cpu["idle_share"] < _IDLE_SHARE:
        if cpu["others_share"] > limit:
            yield "busy", f"others took {100 * cpu['others_share']:.0f} % of the cores"
        if cpu["steal_share"] > limit:
            yield "busy", f"the hypervisor took {100 * cpu['steal_share']:.0f} % of the cores (steal)"
    if (cpu["drift"] or 0.0) > _MOST_DRIFT:
        yield "busy", f"the machine itself varied by {100 * cpu['drift']:.0f} %"
    if cpu["quota_stopped"] > _STOPPED_SHARE * cpu["quota_periods"]:
        quota = f"of {cpu['quota_cores']:.3g} cores " if cpu["quota_cores"] else ""
        yield "throttled", (f"the CPU quota {quota}stopped this process in {cpu['quota_stopped']} of "
                            f"{cpu['quota_periods']} periods")
    if cpu["slowdowns"]:
        yield "throttled", f"the processor slowed down because of heat, {cpu['slowdowns']} times"


def _describe_gpu(sensor: GpuSensor, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Settings and figures of all samples; None where NVML gave none."""
    readings = {name: [sample[name] for sample in samples if sample.get(name) is not None]
                for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w", "throttle_reasons",
                             "other_processes")}
    reasons = readings["throttle_reasons"]
    return {
        **{name: sensor.settings.get(name) for name in ("power_limit_w", "default_power_limit_w", "ecc")},
        "mig": sensor.settings.get("mig_mode"), "boost_mhz": sensor.boost_mhz,
        **{name: _range(readings[name]) for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w")},
        # Number of samples in which each held.
        "throttle_reasons": dict(Counter(name for bits in reasons for bit, name in _SLOWDOWNS.items() if bits & bit))
                            if reasons else None,
        "other_processes": max(readings["other_processes"], default=None),
        "samples": len(samples),
    }


def judge_gpu(gpu: dict[str, Any]) -> Iterator[Finding]:
    """What is wrong with a measurement's figures of the GPU."""
    reasons, others, samples = gpu["throttle_reasons"], gpu["other_processes"], gpu["samples"]
    if others is None:
        yield "unknown", "NVML lists no process on the GPU, not even this one; in a container, see --pid=host"
    elif others:
        yield "busy", f"{others} other process{'es' * (others > 1)} on the GPU"
    if reasons is None:
        yield "unknown", "NVML doesn't say whether the GPU slows down"
        return
    highest, boost = gpu["sm_mhz"]["max"] if gpu["sm_mhz"] else 0.0, gpu["boost_mhz"]
    if 0 < highest < _BOOST_SHARE * boost and not reasons:
        yield "throttled", (f"the SM clock reached {highest:.0f} MHz, and this GPU's boost clock is {boost:.0f} MHz: "
                            "locked or lowered; nvidia-smi -rgc and -rac reset it")
    for name, count in reasons.items():
        # Many cards run at their power limit all the time, which is then their speed, unless somebody lowered it.
        limit, default = gpu["power_limit_w"], gpu["default_power_limit_w"]
        lowered = limit is not None and default is not None and limit < default
        if name != _POWER_CAP:
            hottest = f", at up to {gpu['temperature_c']['max']:.0f} °C" if gpu["temperature_c"] else ""
            yield "throttled", f"the GPU slowed down in {count} of {samples} samples: {name}{hottest}"
        elif lowered:
            yield "throttled", (f"the GPU reached its power limit in {count} of {samples} samples: {limit:.0f} W, "
                                f"{default:.0f} W by default")


def _range(values: Sequence[float]) -> dict[str, float] | None:
    return {"min": float(min(values)), "mean": float(np.mean(values)), "max": float(max(values))} if values else None

