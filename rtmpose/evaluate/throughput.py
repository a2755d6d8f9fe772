"""Throughput mode: one batch through the engine, over and over."""

from itertools import cycle, islice
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data import preprocess
from rtmpose.data.batches import iterate_crops
from rtmpose.data.coco import DataSet, load_persons
from rtmpose.engines import Engine, monitor

WARMUP_LIMIT = 10.0  # seconds


def measure_throughput(engine: Engine, data_set: DataSet | str | None, warmup: int, iterations: int,
                       duration: float) -> dict[str, Any]:
    """Time the engine on one batch of :func:`throughput_input`.

    Warms up with ``warmup`` batches and until the speed is steady, for at most :data:`WARMUP_LIMIT` and twice
    ``duration``; then times at least ``iterations`` batches and ``duration`` seconds, under a monitor. Returns the
    result as ``summary.json`` has it: ``fps`` and ``latency_ms`` come from the engine's first timer, ``other_timings``
    from the others.
    """
    crops, source = throughput_input(data_set, engine)
    timings = {}
    for name, timer in engine.timers(crops).items():
        warmed = timing.warm_up(timer, warmup, min(WARMUP_LIMIT, 2 * duration))
        with monitor(engine) as watched:
            samples = timing.measure(timer, 0, iterations, duration, "Timing")
        latency = timing.describe_latency(samples)
        timings[name] = {**latency, "percentiles_ms": timing.percentiles(samples), "spread": timing.spread(samples),
                         "iterations": len(samples), "fps": engine.record.batch / latency["mean"] * 1e3, **warmed,
                         "conditions": watched.conditions, **watched.costs(len(samples) * engine.record.batch)}
    (name, headline), *others = timings.items()
    return {
        "mode": "throughput",
        "fps_of": name,
        "latency_ms": {key: headline[key] for key in latency},
        **{key: value for key, value in headline.items() if key not in latency},
        "input": source,
        "other_timings": dict(others),
    }


def throughput_input(data_set: DataSet | str | None, engine: Engine) -> tuple[np.ndarray, str]:
    """One batch, float32 (batch, 3, H, W), and its name: crops of a data set, or random input."""
    batch, size = engine.record.batch, engine.record.input_size
    if not data_set:
        return preprocess.random_input(batch, size), "random pixels"
    images = load_persons(data_set, limit=batch).images
    crops = [crop.pixels for crop in islice(iterate_crops(images, size), batch)]
    return np.stack(list(islice(cycle(crops), batch))), f"crops of {data_set}"
