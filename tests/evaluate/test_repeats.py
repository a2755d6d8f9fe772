"""Median and interval over processes."""

import numpy as np
import pytest

from rtmpose.evaluate.repeats import combine, mean_interval
from rtmpose.report.summary import speed


def run(fps: float, verdict: str = "clean", *reasons: str) -> dict:
    """A summary.json in short."""
    return {"fps": fps, "latency_ms": {"mean": 8 / fps * 1e3},
            "conditions": {"verdict": verdict, "reasons": list(reasons), "seconds": fps}}


def test_interval_of_a_textbook_sample() -> None:
    """Student's t for four degrees of freedom is 2.776."""
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx([3 - 2.776 * (2.5 / 5) ** 0.5, 3 + 2.776 * (2.5 / 5) ** 0.5],
                                                           abs=1e-3)


@pytest.mark.parametrize("number", [2, 3, 5, 10])
def test_interval_covers_the_mean_in_95_of_100_samples(number: int) -> None:
    samples = np.random.default_rng(number).normal(300, 10, (2000, number))
    low, high = np.array([mean_interval(sample) for sample in samples]).T
    assert np.mean((low <= 300) & (high >= 300)) == pytest.approx(0.95, abs=0.015)


def test_the_worst_conditions_and_the_process_nearest_to_the_median() -> None:
    runs = [run(300), run(340, "busy", "others took 38 % of the cores"), run(310, "unknown", "too short"), run(320)]
    combined = combine(runs)
    assert combined["fps"] == 315 and combined["latency_ms"] in (runs[2]["latency_ms"], runs[3]["latency_ms"])
    assert combined["conditions"] == {
        "verdict": "busy", "seconds": 340,
        "reasons": ["process 2: others took 38 % of the cores", "process 3: too short"]}
    assert combined["repeats"]["values"] == [300, 340, 310, 320]
    assert combined["repeats"]["conditions"] == [one["conditions"] for one in runs]
    assert combine(runs[:1] + runs[3:])["conditions"]["verdict"] == "clean"


@pytest.mark.parametrize(("median", "interval", "expected"), [
    (351.4, [347.5, 354.6], "351 ± 4"), (351.4, [339, 354], "351 ± 12"), (24.63, [24.3, 25.0], "24.6 ± 0.4"),
    (24.63, [24.6291, 24.6309], "24.63 ± 0.00"), (20.0, [20.0, 20.0], "20.00 ± 0.00")])
def test_speed_with_its_interval(median: float, interval: list[float], expected: str) -> None:
    assert speed({"fps": median, "repeats": {"interval": interval}}) == expected


def test_speed_of_one_process() -> None:
    assert speed({"fps": 351.514}) == "351.51" and speed({}) == "-"
