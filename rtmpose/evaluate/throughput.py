"""Throughput mode: one batch through the engine, over and over."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data import preprocess
from rtmpose.data.batches import iterate_batches
from rtmpose.data.coco import DataSet, load_persons
from rtmpose.engines import Engine, monitor


def measure_throughput(engine: Engine, data_set: DataSet | str | None, warmup: int, iterations: int,
                       duration: float) -> dict[str, Any]:
    """Time the engine on one batch of :func:`throughput_input`.

    Returns the result as ``summary.json`` has it: the figures are those of the engine's first timer, ``other_timings``
    those of the others.
    """
    crops, source = throughput_input(data_set, engine)
    (name, headline), *others = [(name, time_batches(engine, timer, warmup, iterations, duration))
                                 for name, timer in engine.timers(crops).items()]
    return {
        "mode": "throughput",
        "fps_of": name,
        **headline,
        "input": source,
        "other_timings": {name: {**other.pop("latency_ms"), **other} for name, other in others},
    }


def time_batches(engine: Engine, timer: Callable[[], float], warmup: int, iterations: int, duration: float
                 ) -> dict[str, Any]:
    """Warm up with at least ``warmup`` batches; then time at least ``iterations`` and ``duration`` seconds, under a
    monitor.

    Of a timer that has several batches in flight, what :func:`rtmpose.timing.finish` returns is described as well.
    """
    warmed = timing.warm_up(timer, warmup, duration)
    with monitor(engine) as watched:
        samples = timing.measure(timer, 0, iterations, duration, "Timing")
    others = {name: timing.describe_latency(one[-len(samples):]) for name, one in timing.finish(timer).items()}
    return {**timing.describe_samples(samples), "fps": engine.record.batch / float(samples.mean()) * 1e3, **warmed,
            **others, "conditions": watched.conditions, **watched.costs(len(samples) * engine.record.batch)}


def throughput_input(data_set: DataSet | str | None, engine: Engine) -> tuple[np.ndarray, str]:
    """One batch, float32 (batch, 3, H, W), and its name: crops of a data set, or random input."""
    batch, size = engine.record.batch, engine.record.input_size
    if not data_set:
        return preprocess.random_input(batch, size), "random pixels"
    first = next(iterate_batches(load_persons(data_set, limit=batch).images, size, batch))
    return first.pixels, f"crops of {data_set}"
