"""Timed loops, and statistics of their samples."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

_WINDOW = 0.5  # seconds
_STEADY = 0.02
_WARMUP_LIMIT = 10.0  # seconds


def warm_up(run: Callable[[], float], batches: int, duration: float) -> dict[str, Any]:
    """Run at least ``batches`` batches, then until the speed is steady, but for at most 10 more seconds and twice
    ``duration``, the seconds to be timed.

    It is steady when the mean milliseconds of two consecutive windows of half a second differ by at most 2 %. Returns
    ``warmup`` (number of batches), ``warmup_s`` and ``steady`` of ``summary.json``.
    """
    start, done, means, steady = time.perf_counter(), 0, [math.inf], False
    with tqdm(desc="Warming up", unit="batch", leave=False, disable=None) as bar:
        while done < batches:
            run()
            done += 1
            bar.update()
        end = time.perf_counter() + min(_WARMUP_LIMIT, 2 * duration)
        while not steady and time.perf_counter() < end:
            window: list[float] = []
            window_end = time.perf_counter() + _WINDOW
            while not window or time.perf_counter() < window_end:
                window.append(run())
                bar.update()
            done += len(window)
            means.append(float(np.mean(window)))
            steady = abs(means[-1] - means[-2]) <= _STEADY * means[-1]
    return {"warmup": done, "warmup_s": time.perf_counter() - start, "steady": steady}


class Countdown(tqdm):
    """A progress bar of a loop that runs for some seconds: it shows how many are left."""

    def __init__(self, seconds: float, **options: Any) -> None:
        self.end = time.perf_counter() + seconds
        super().__init__(disable=None, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar: the seconds are only written when they are seen, not in the loop that is timed."""
        left = self.end - time.perf_counter()
        self.set_postfix_str(f"{left:.0f} s left" if left > 0 else "", refresh=False)
        return super().display(msg, pos)


def measure(run: Callable[[], float], warmup: int, iterations: int, duration: float, name: str) -> np.ndarray:
    """Milliseconds a batch, float64 (n,), of at least ``iterations`` batches and ``duration`` seconds after a warm-up.

    ``run`` runs one batch and returns its milliseconds; ``name`` is for the progress bar.
    """
    samples: list[float] = []
    with Countdown(duration, desc=name, unit="batch", leave=False) as bar:
        for _ in range(warmup):
            run()
            bar.update()
        bar.end = time.perf_counter() + duration
        while len(samples) < iterations or time.perf_counter() < bar.end:
            samples.append(run())
            bar.update()
    return np.array(samples)


def wall_clock(work: Callable[[], object]) -> Callable[[], float]:
    """A timer: a function that does the work and returns its milliseconds by the wall clock."""
    def run() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    return run


def finish(timer: Callable[[], float]) -> dict[str, list[float]]:
    """Wait for the batches that a timer has left in flight, by its method ``finish`` if it has one.

    Returns other milliseconds of each batch than those between two batches: ``request_latency_ms`` from its start to
    its end, and ``enqueue_ms`` for the host to start it.
    """
    wait: Callable[[], dict[str, list[float]]] = getattr(timer, "finish", dict)
    return wait()


def describe_latency(samples: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, median, 90th and 99th percentile, in the unit of the samples."""
    median, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {"mean": float(np.mean(samples)), "median": float(median), "p90": float(p90), "p99": float(p99)}


def describe_samples(samples: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """``latency_ms``, ``percentiles_ms`` (0 to 100, to four decimals), ``spread`` (standard deviation divided by the
    mean) and ``iterations`` of ``summary.json``, from the milliseconds of each batch."""
    return {"latency_ms": describe_latency(samples),
            "percentiles_ms": [round(float(value), 4) for value in np.percentile(samples, range(101))],
            "spread": float(np.std(samples) / np.mean(samples)), "iterations": len(samples)}
