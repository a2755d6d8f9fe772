"""Throughput mode: one batch through the engine, over and over."""

from itertools import cycle, islice
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data import preprocess
from rtmpose.data.dataset import load_persons
from rtmpose.data.loader import iterate_crops
from rtmpose.engines import Engine


def measure_throughput(engine: Engine, folder: str | None, warmup: int, iterations: int, duration: float
                       ) -> dict[str, Any]:
    """Time the engine on one batch.

    Args:
        engine: to be timed.
        folder: data set whose first crops are taken; None: random input.
        warmup: batches before the measurement.
        iterations, duration: at least so many batches, and seconds.

    Returns:
        The result as ``summary.json`` has it. ``fps`` and ``latency_ms`` are of the first of the engine's timers,
        ``other_timings`` of the others; ``percentiles_ms`` is the latency's distribution.
    """
    crops, source = throughput_input(folder, engine)
    timings = {name: describe_timing(timing.measure(timer, warmup, iterations, duration, "Timing"), engine.record.batch)
               for name, timer in engine.timers(crops).items()}
    (name, headline), *others = timings.items()
    return {
        "mode": "throughput",
        "fps": headline["fps"],
        "fps_of": name,
        "latency_ms": {key: headline[key] for key in ("mean", "median", "p90", "p99")},
        "percentiles_ms": headline["percentiles_ms"],
        "spread": headline["spread"],
        "iterations": headline["iterations"],
        "warmup": warmup,
        "input": source,
        "other_timings": dict(others),
    }


def throughput_input(folder: str | None, engine: Engine) -> tuple[np.ndarray, str]:
    """One batch, float32 (batch, 3, H, W), and what it is: real crops where a data set is given, else random input."""
    batch, size = engine.record.batch, engine.record.input_size
    if folder:
        images = load_persons(folder, limit=batch).images
        crops = [one.pixels for one in islice(iterate_crops(images, size), batch)]
        return np.stack(list(islice(cycle(crops), batch))), f"crops of {folder}"
    return preprocess.random_input(batch, size), "random pixels"


def describe_timing(samples: np.ndarray, batch: int) -> dict[str, Any]:
    """Milliseconds a batch and persons a second."""
    latency = timing.describe_latency(samples)
    return {**latency, "percentiles_ms": timing.percentiles(samples), "spread": timing.spread(samples),
            "iterations": len(samples), "fps": batch / latency["mean"] * 1e3}
