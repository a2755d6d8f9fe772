"""Throughput of one process, of several devices and of several processes: what is timed, counted and combined."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rtmpose import timing
from rtmpose.engines import load_engine
from rtmpose.evaluate.devices import combine_costs, count_in_window
from rtmpose.evaluate.repeats import combine, mean_interval
from rtmpose.evaluate.throughput import default_seconds, measure_throughput
from rtmpose.report.summary import is_result, speed


def test_warm_up_and_timing_take_their_seconds(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_WINDOW", 0.1)
    measured = measure_throughput(load_engine(engine_file), None, warmup=1, iterations=2, duration=0.3)
    assert measured["warmup_s"] >= 0.2 and measured["warmup"] > 2  # two windows, whose speeds are compared
    assert measured["conditions"]["cpu"]["seconds"] >= 0.3 and measured["iterations"] >= 2
    assert measured["fps"] == pytest.approx(4e3 / measured["latency_ms"]["mean"]) and not measured["other_timings"]


def test_speed_that_never_gets_steady_is_no_result(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_STEADY", -1.0)
    measured = measure_throughput(load_engine(engine_file), None, warmup=1, iterations=2, duration=1)
    assert "the warm-up ended before the speed was steady" in measured["conditions"]["reasons"]
    assert not is_result(measured)


def test_a_gpu_is_timed_for_longer() -> None:
    assert [default_seconds(device) for device in ("cpu", "cuda", "gpu.1", "npu")] == [5, 30, 30, 30]


def test_only_batches_that_end_in_the_window_count() -> None:
    samples = [[10, 11, 12, 13], [20, 21], [30, 31, 32], [99]]
    ends = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.3], [0.29, 0.31, 0.5], [0.9]]
    assert count_in_window(samples, ends) == (0.3, [[10, 11, 12], [20, 21], [30], [99]])


def test_cores_of_all_ranks() -> None:
    conditions = [{"cpu": {"own_seconds": 2}}, {"cpu": {"own_seconds": 4}}]
    assert combine_costs(conditions, 3000) == {"cores_per_1000_fps": 2}
    assert combine_costs([*conditions, {"cpu": None}], 3000) == {}


def run(fps: float, verdict: str = "clean", *reasons: str) -> dict:
    """A summary.json in short."""
    return {"fps": fps, "latency_ms": {"mean": 8 / fps * 1e3},
            "conditions": {"verdict": verdict, "reasons": list(reasons), "seconds": fps}}


@pytest.mark.parametrize("number", [2, 3, 5, 10])
def test_interval_is_students(number: int) -> None:
    values = np.random.default_rng(number).normal(300, 10, number)
    expected = stats.t.interval(0.95, number - 1, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, rel=1e-6)


def test_the_worst_conditions_and_the_process_nearest_to_the_median() -> None:
    runs = [run(300), run(340, "busy", "others took 38 % of the cores"), run(310, "unknown", "too short")]
    combined = combine(runs)
    assert combined["fps"] == 310 and combined["latency_ms"] == runs[2]["latency_ms"]
    assert combined["conditions"] == {
        "verdict": "busy", "seconds": 340,
        "reasons": ["process 2: others took 38 % of the cores", "process 3: too short",
                    "the interval is 33 % of the speed wide"]}
    assert combined["repeats"]["values"] == [300, 340, 310]
    assert combined["repeats"]["conditions"] == [one["conditions"] for one in runs]


@pytest.mark.parametrize(("speeds", "verdicts", "expected"), [
    ([99.1, 100, 100.9], ["clean"] * 3, "clean"), ([99, 100, 101.1], ["clean"] * 3, "unsteady"),  # t is 4.30
    ([100, 100, 100], ["unsteady", "clean", "clean"], "clean"), ([100] * 3, ["unsteady"] * 3, "clean"),
    ([100, 100, 100], ["unsteady", "unknown", "clean"], "unknown"), ([100, 100, 100], ["unsteady", "busy"], "busy"),
    # A quarter may have been disturbed.
    ([100] * 3, ["busy", "clean", "clean"], "busy"), ([100] * 4, ["busy", "clean", "clean", "clean"], "clean"),
    ([100] * 7, ["clean"] * 5 + ["busy", "throttled"], "throttled"), ([100] * 8, ["busy"] * 2 + ["clean"] * 6, "clean"),
    ([100] * 4, ["busy", "unsteady", "clean", "clean"], "clean"), ([100] * 4, ["unsteady"] * 3 + ["busy"], "clean")])
def test_a_wide_interval_is_unsteady_and_a_narrow_one_is_not(speeds: list[float], verdicts: list[str], expected: str
                                                             ) -> None:
    combined = combine(list(map(run, speeds, verdicts)))
    assert combined["conditions"]["verdict"] == expected


@pytest.mark.parametrize(("median", "interval", "expected"), [
    (351.4, [347.5, 354.6], "351 ± 4"), (351.4, [339, 354], "351 ± 12"), (24.63, [24.3, 25.0], "24.6 ± 0.4"),
    (24.63, [24.6291, 24.6309], "24.63 ± 0.00"), (20.0, [20.0, 20.0], "20.00 ± 0.00")])
def test_speed_with_its_interval(median: float, interval: list[float], expected: str) -> None:
    assert speed({"fps": median, "repeats": {"interval": interval}}) == expected


def test_speed_of_one_process() -> None:
    assert speed({"fps": 351.514}) == "351.51" and speed({}) == "-"
