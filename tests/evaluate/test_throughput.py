"""Throughput of one device and of several: what is warmed up, timed and counted."""

from pathlib import Path

import pytest

from rtmpose import timing
from rtmpose.engines import load_engine
from rtmpose.evaluate.devices import combine_costs, count_in_window
from rtmpose.evaluate.throughput import measure_throughput


def test_warm_up_and_timing_take_their_seconds(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_WINDOW", 0.1)
    measured = measure_throughput(load_engine(engine_file), None, warmup=1, iterations=2, duration=0.3)
    assert measured["warmup_s"] >= 0.2 and measured["warmup"] > 2  # two windows, whose speeds are compared
    assert measured["conditions"]["cpu"]["seconds"] >= 0.3 and measured["iterations"] >= 2
    assert measured["fps"] == pytest.approx(4e3 / measured["latency_ms"]["mean"]) and not measured["other_timings"]


def test_only_batches_that_end_in_the_window_count() -> None:
    samples = [[10, 11, 12, 13], [20, 21], [30, 31, 32], [99]]
    ends = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.3], [0.29, 0.31, 0.5], [0.9]]
    assert count_in_window(samples, ends) == (0.3, [[10, 11, 12], [20, 21], [30], [99]])


def test_cores_of_all_ranks() -> None:
    conditions = [{"cpu": {"own_seconds": 2}}, {"cpu": {"own_seconds": 4}}]
    assert combine_costs(conditions, 3000) == {"cores_per_1000_fps": 2}
    assert combine_costs([*conditions, {"cpu": None}], 3000) == {}
