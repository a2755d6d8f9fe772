"""Throughput mode: one batch through the engine, over and over."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from rtmpose import crop, timing
from rtmpose.coco import load_persons
from rtmpose.engines import Engine
from rtmpose.pipeline import iterate_crops


def measure_throughput(engine: Engine, folder: str | None, warmup: int, iterations: int, duration: float
                       ) -> dict[str, Any]:
    """Time the engine on one batch, and print what was found.

    Args:
        engine: to be timed.
        folder: data set whose first crops are taken; None: noise.
        warmup: batches before the measurement.
        iterations, duration: at least so many batches, and seconds.

    Returns:
        ``fps``, ``latency_ms`` and what they are of; ``percentiles_ms`` is the latency's distribution.
    """
    crops, source = throughput_input(folder, engine)
    latencies = {}
    for what, timer in engine.timers(crops).items():
        samples = timing.measure(timer, warmup, iterations, duration, "Timing")
        latencies[what] = describe_timing(samples, engine.record.batch)
    (what, headline), *others = latencies.items()
    print(f"* Mean inference time: {headline['mean']:.3f} ms, Mean fps: {headline['fps']:.2f}")
    for name, latency in latencies.items():
        print(f"  {name}: mean {latency['mean']:.3f} ms, median {latency['median']:.3f} ms, p90 {latency['p90']:.3f} "
              f"ms, p99 {latency['p99']:.3f} ms, spread {latency['spread']:.1%}, {latency['fps']:.2f} persons a second")
    print(f"  timed: {headline['iterations']} batches of {engine.record.batch} after {warmup} to warm up; "
          f"input: {source}; reading, cropping and decoding not included")
    return {
        "mode": "throughput",
        "fps": headline["fps"],
        "fps_of": what,
        "latency_ms": {key: headline[key] for key in ("mean", "median", "p90", "p99")},
        "percentiles_ms": headline["percentiles_ms"],
        "spread": headline["spread"],
        "iterations": headline["iterations"],
        "warmup": warmup,
        "input": source,
        "other_timings": dict(others),
    }


def compare_fps(engines: Sequence[Engine], turns: int = 4) -> list[float]:
    """Persons a second of engines for the same input, by the median of batches.

    Each engine has ``turns`` of three batches, of which the first is not counted: the threads of the engine before it
    may still be waiting for work at full speed then. Nor is the first turn.
    """
    crops, _ = throughput_input(None, engines[0])
    timers = [headline_timer(engine, crops) for engine in engines]
    samples = np.array([[[timer() for _ in range(3)][1:] for timer in timers] for _ in range(turns)])
    return [engines[0].record.batch / float(ms) * 1e3 for ms in np.median(samples[1:], axis=(0, 2))]


def headline_timer(engine: Engine, crops: np.ndarray) -> Callable[[], float]:
    """What times the headline: runs one batch of ``crops`` and returns its milliseconds."""
    return next(iter(engine.timers(crops).values()))


def throughput_input(folder: str | None, engine: Engine) -> tuple[np.ndarray, str]:
    """One batch, float32 (batch, 3, H, W), and what it is: real crops where a data set is given, else noise."""
    batch, size = engine.record.batch, engine.record.input_size
    if folder:
        images = load_persons(folder, limit=batch).images
        crops = [one.pixels for one in islice(iterate_crops(images, size), batch)]
        return np.stack(list(islice(cycle(crops), batch))), f"crops of {folder}"
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (batch, size[1], size[0], 3), np.uint8)
    return np.stack([crop.normalize(image) for image in pixels]), "random pixels"


def describe_timing(samples: np.ndarray, batch: int) -> dict[str, Any]:
    """Milliseconds a batch and persons a second."""
    latency = timing.describe_latency(samples)
    return {**latency, "percentiles_ms": timing.percentiles(samples), "spread": timing.spread(samples),
            "iterations": len(samples), "fps": batch / latency["mean"] * 1e3}
