"""Measured loops: warm-up, then enough batches and enough seconds; and what is said of the samples."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm


def measure(run: Callable[[], float], warmup: int, iterations: int, duration: float, name: str) -> np.ndarray:
    """Run a timer ``warmup`` times unrecorded, then at least ``iterations`` times and ``duration`` seconds.

    Args:
        run: runs one batch and returns its milliseconds.
        warmup, iterations: numbers of batches.
        duration: seconds.
        name: for the progress bar.

    Returns:
        float64 (n,), milliseconds a batch.
    """
    samples: list[float] = []
    with tqdm(desc=name, unit="batch", leave=False, disable=None) as bar:
        for _ in range(warmup):
            run()
            bar.update()
        end = time.perf_counter() + duration
        while len(samples) < iterations or time.perf_counter() < end:
            samples.append(run())
            bar.update()
    return np.array(samples)


def wall_clock(work: Callable[[], object]) -> Callable[[], float]:
    """A timer of work by the wall clock: does it and returns its milliseconds."""
    def run() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    return run


def describe_latency(samples: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, median, 90th and 99th percentile of samples, in their unit, and their number."""
    median, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {"mean": float(np.mean(samples)), "median": float(median), "p90": float(p90), "p99": float(p99)}


def percentiles(samples: Sequence[float] | np.ndarray) -> list[float]:
    """The distribution of samples in 101 numbers, in their unit: the least, percentiles 1 to 99, the greatest."""
    return [round(float(value), 4) for value in np.percentile(samples, range(101))]


def spread(samples: Sequence[float] | np.ndarray) -> float:
    """Standard deviation as a share of the mean: how steady the machine was."""
    return float(np.std(samples) / np.mean(samples))
