"""Accuracy and throughput on several devices at once, by all ranks (rtmpose.evaluate.ranks) together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data.coco import PersonSet
from rtmpose.engines import Engine, monitor
from rtmpose.errors import KitError
from rtmpose.evaluate.accuracy import Pass, predict_all
from rtmpose.evaluate.predict import Run
from rtmpose.evaluate.predictions import Predictions
from rtmpose.evaluate.ranks import Ranks
from rtmpose.evaluate.throughput import WARMUP_LIMIT, throughput_input
from rtmpose.machine.monitor import Monitor, combine_conditions

_ALONE = 0.25  # of --duration, for each device alone


def predict(ranks: Ranks, engine: Engine, persons: PersonSet, flip_test: bool) -> Pass:
    """Predict this rank's share of the persons; returns those of all ranks.

    A share is whole batches of the set, one after the other: each batch is the one that a single process makes, so
    that its keypoints are the same bits. The seconds are those from a barrier to the end of the slowest rank.
    Raises KitError if there are fewer batches than ranks.
    """
    mine = take_share(persons, ranks.rank, ranks.world_size, engine.record.batch)
    ranks.barrier()
    start = perf_counter()
    done = predict_all(engine, mine, flip_test)
    seconds = perf_counter() - start
    found = done.run.predictions
    parts = ranks.gather((found.keypoints, found.scores, found.scales, done.run.batch_ms, len(mine), seconds,
                          done.conditions, done.costs))
    described = ranks.describe()
    *arrays, batch_ms, numbers, times, verdicts, costs = zip(*parts, strict=True)
    run = Run(Predictions(list(persons), *map(np.concatenate, arrays)), [one for some in batch_ms for one in some],
              max(times))
    return Pass(run, combine_conditions(verdicts, "rank"), combine_costs(costs, numbers),
                {**described, "fps": [number / taken for number, taken in zip(numbers, times, strict=True)]})


def take_share(persons: PersonSet, rank: int, world_size: int, batch: int) -> PersonSet:
    """A rank's share of a set: whole batches. An image whose persons are of two shares is in both.

    Raises KitError if there are fewer batches than ranks.
    """
    batches = -(-len(persons) // batch)
    if batches < world_size:
        raise KitError(f"{len(persons)} persons are {batches} batch{'es' * (batches > 1)} of {batch}, too few for "
                       f"{world_size} ranks; start fewer")
    first, end = (batches * number // world_size * batch for number in (rank, rank + 1))
    images, start = [], 0
    for image in persons.images:
        chosen = image.persons[max(first - start, 0):max(end - start, 0)]
        if chosen:
            images.append(replace(image, persons=chosen))
        start += len(image.persons)
    return replace(persons, images=tuple(images))


def measure_throughput(ranks: Ranks, engine: Engine, data_set: Any, warmup: int, iterations: int, duration: float
                       ) -> dict[str, Any]:
    """Time each device alone, one after the other, then all at once, by the engine's first timer.

    Options and result are those of :func:`rtmpose.evaluate.throughput.measure_throughput`, except that alone each
    gets a quarter of ``duration``. Together all start at a barrier, and only the batches count that end before the
    first rank stops.
    """
    crops, source = throughput_input(data_set, engine)
    (name, timer), batch = next(iter(engine.timers(crops).items())), engine.record.batch
    alone = time_alone(ranks, timer, warmup, iterations, duration)
    ranks.barrier()
    warmed = timing.warm_up(timer, warmup, min(WARMUP_LIMIT, 2 * duration))
    watched, samples, ends = time_together(ranks, engine, timer, iterations, duration)
    window, persons = min(ranks.gather(ends[-1])), len(samples) * batch
    counted = samples[:max(1, sum(end <= window for end in ends))]
    parts = ranks.gather((counted, warmed, watched.conditions, watched.costs(persons), persons))
    milliseconds, warmups, verdicts, costs, numbers = zip(*parts, strict=True)
    together = np.concatenate(milliseconds)
    fps = [batch / float(np.mean(one)) * 1e3 for one in milliseconds]
    alone_fps = [batch / mean * 1e3 for mean in alone]
    return {
        "mode": "throughput",
        "fps": sum(fps),
        "fps_of": f"sum of {ranks.world_size} ranks at once, each: {name}",
        "latency_ms": timing.describe_latency(together), "percentiles_ms": timing.percentiles(together),
        "spread": timing.spread(together), "iterations": len(together),
        "warmup": min(one["warmup"] for one in warmups), "warmup_s": max(one["warmup_s"] for one in warmups),
        "steady": all(one["steady"] for one in warmups),
        "input": source, "other_timings": {}, "conditions": combine_conditions(verdicts, "rank"),
        **combine_costs(costs, numbers),
        "ranks": {**ranks.describe(), "fps": fps, "alone_fps": alone_fps,
                  "efficiency": sum(fps) / sum(alone_fps), "window_s": window},
    }


def time_alone(ranks: Ranks, timer: Callable[[], float], warmup: int, iterations: int, duration: float) -> list[float]:
    """Milliseconds a batch of each rank while the others wait, on every rank."""
    milliseconds = []
    for rank in range(ranks.world_size):
        mean = None
        if rank == ranks.rank:
            timing.warm_up(timer, warmup, min(WARMUP_LIMIT, duration))
            mean = float(np.mean(timing.measure(timer, 0, iterations, _ALONE * duration, "Alone")))
        milliseconds.append(ranks.gather(mean)[rank])
    return milliseconds


def time_together(ranks: Ranks, engine: Engine, timer: Callable[[], float], iterations: int, duration: float
                  ) -> tuple[Monitor, list[float], list[float]]:
    """Time all ranks at once. Returns this one's monitor, each batch's milliseconds, and the seconds from the start of
    all to each batch's end."""
    slowest = max(ranks.gather(float(np.mean([timer() for _ in range(3)]))))
    seconds = max(duration, iterations * slowest / 1e3)
    samples: list[float] = []
    ends: list[float] = []
    with monitor(engine) as watched:
        ranks.barrier()
        start = perf_counter()
        while not ends or ends[-1] < seconds:
            samples.append(timer())
            ends.append(perf_counter() - start)
    return watched, samples, ends


def combine_costs(costs: Sequence[dict[str, Any]], persons: Sequence[int]) -> dict[str, Any]:
    """Cores of all ranks for each person, if all measured them. No energy: ranks may share what it is measured of."""
    if not all("cores_per_1000_fps" in one for one in costs):
        return {}
    return {"cores_per_1000_fps": float(np.average([one["cores_per_1000_fps"] for one in costs], weights=persons))}
