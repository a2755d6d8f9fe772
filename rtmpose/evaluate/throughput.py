"""Throughput mode: one batch through the engine, over and over."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data import preprocess
from rtmpose.data.batches import iterate_batches
from rtmpose.data.coco import DataSet, load_persons
from rtmpose.engines import Engine, monitor

SECONDS, SECONDS_ON_GPU = 5.0, 30.0  # to time by default: a card that heats slowly holds higher clocks at first


def default_seconds(device: str) -> float:
    """Seconds to time an engine, by the device of its record."""
    return SECONDS if device == "cpu" else SECONDS_ON_GPU


def measure_throughput(engine: Engine, data_set: DataSet | str | None, warmup: int, iterations: int,
                       duration: float) -> dict[str, Any]:
    """Time the engine on one batch of :func:`throughput_input`.

    Returns the result as ``summary.json`` has it: the figures are those of the engine's first timer, ``other_timings``
    those of the others, which get at most :data:`SECONDS` each.
    """
    crops, source = throughput_input(data_set, engine)
    (name, first), *rest = engine.timers(crops).items()
    headline = time_batches(engine, first, warmup, iterations, duration)
    others = [(other, time_batches(engine, timer, warmup, iterations, min(duration, SECONDS))) for other, timer in rest]
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
    watched = monitor(engine)
    warmed = timing.warm_up(timer, warmup, duration)
    watched.steady = warmed["steady"]
    with watched:
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
