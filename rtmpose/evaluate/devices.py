"""Accuracy and throughput on several devices at once, by all ranks (rtmpose.evaluate.ranks) together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data.coco import DataSet, PersonSet
from rtmpose.engines import Engine, monitor
from rtmpose.errors import KitError
from rtmpose.evaluate.accuracy import AccuracyResult, predict_all, score
from rtmpose.evaluate.predictions import join
from rtmpose.evaluate.ranks import Ranks
from rtmpose.evaluate.throughput import WARMUP_LIMIT, throughput_input
from rtmpose.machine.monitor import Monitor, combine_conditions

_ALONE = 0.25  # of --duration, for each device alone


def measure_accuracy_by_ranks(ranks: Ranks, engine: Engine, persons: PersonSet, flip_test: bool
                              ) -> AccuracyResult:
    """Predict this rank's share of the persons. Rank 0 returns the result of all persons, scored; the others that of
    their share, not scored.

    A share is whole batches of the set, one after the other: each batch is the one that a single process makes, so
    that its keypoints are the same bits. All start at a barrier, and the seconds are those of the slowest.
    Raises KitError if there are fewer batches than ranks.
    """
    share = take_share(persons, ranks.rank, ranks.world_size, engine.record.batch)
    ranks.barrier()
    predicted = predict_all(engine, share, flip_test)
    parts, described = ranks.gather(predicted), ranks.describe()
    if ranks.rank:
        return predicted
    numbers = [len(part.predictions) for part in parts]
    fps = [number / part.seconds for number, part in zip(numbers, parts, strict=True)]
    return score(AccuracyResult(
        predictions=join([part.predictions for part in parts]),
        batch_ms=[milliseconds for part in parts for milliseconds in part.batch_ms],
        seconds=max(part.seconds for part in parts),
        conditions=combine_conditions([part.conditions for part in parts], "rank"),
        costs=combine_costs([part.costs for part in parts], numbers), ranks={**described, "fps": fps}), persons)


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


def measure_throughput_by_ranks(ranks: Ranks, engine: Engine, data_set: DataSet | str | None, warmup: int,
                                iterations: int, duration: float) -> dict[str, Any]:
    """Time each device alone, one after the other, then all at once, by the engine's first timer.

    Options and result are those of :func:`rtmpose.evaluate.throughput.measure_throughput`, except that alone each gets
    a quarter of ``duration``. Ranks other than 0 return an empty result.
    """
    crops, source = throughput_input(data_set, engine)
    (name, timer), batch = next(iter(engine.timers(crops).items())), engine.record.batch
    alone_ms = time_alone(ranks, timer, warmup, iterations, duration)
    warmed = timing.warm_up(timer, warmup, min(WARMUP_LIMIT, 2 * duration))
    watched, samples, ends = time_together(ranks, engine, timer, iterations, duration)
    parts = ranks.gather((alone_ms, samples, ends, warmed, watched.conditions, watched.costs(len(samples) * batch)))
    described = ranks.describe()
    if ranks.rank:
        return {}
    alone, all_samples, all_ends, warmups, conditions, costs = zip(*parts, strict=True)
    window, counted = count_in_window(all_samples, all_ends)
    together = np.concatenate(counted)
    fps = [batch / float(np.mean(milliseconds)) * 1e3 for milliseconds in counted]
    alone_fps = [batch / milliseconds * 1e3 for milliseconds in alone]
    return {
        "mode": "throughput",
        "fps": sum(fps),
        "fps_of": f"sum of {ranks.world_size} ranks at once, each: {name}",
        "latency_ms": timing.describe_latency(together), "percentiles_ms": timing.percentiles(together),
        "spread": timing.spread(together), "iterations": len(together),
        "warmup": min(one["warmup"] for one in warmups), "warmup_s": max(one["warmup_s"] for one in warmups),
        "steady": all(one["steady"] for one in warmups),
        "input": source, "other_timings": {}, "conditions": combine_conditions(conditions, "rank"),
        **combine_costs(costs, [len(one) for one in all_samples]),
        "ranks": {**described, "fps": fps, "alone_fps": alone_fps, "efficiency": sum(fps) / sum(alone_fps),
                  "window_s": window},
    }


def time_alone(ranks: Ranks, timer: Callable[[], float], warmup: int, iterations: int, duration: float) -> float:
    """Milliseconds a batch of this rank, measured while the others wait."""
    for _ in range(ranks.rank):
        ranks.barrier()
    timing.warm_up(timer, warmup, min(WARMUP_LIMIT, duration))
    milliseconds = float(np.mean(timing.measure(timer, 0, iterations, _ALONE * duration, "Alone")))
    for _ in range(ranks.rank, ranks.world_size):
        ranks.barrier()
    return milliseconds


def time_together(ranks: Ranks, engine: Engine, timer: Callable[[], float], iterations: int, duration: float
                  ) -> tuple[Monitor, list[float], list[float]]:
    """Time all ranks at once. Returns this one's monitor, each batch's milliseconds, and the seconds from the start of
    all to each batch's end."""
    slowest = max(ranks.all_gather(float(np.mean([timer() for _ in range(3)]))))
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


def count_in_window(samples: Sequence[Sequence[float]], ends: Sequence[Sequence[float]]
                    ) -> tuple[float, list[Sequence[float]]]:
    """The window in which all ranks ran, in seconds from their start, and each rank's samples that count.

    The window ends with the last batch of the rank that stops first. A batch counts if it ends in the window; a rank's
    first batch always does. Takes each rank's milliseconds and ends, in seconds, of its batches.
    """
    window = min(rank_ends[-1] for rank_ends in ends)
    return window, [rank_samples[:max(1, sum(end <= window for end in rank_ends))]
                    for rank_samples, rank_ends in zip(samples, ends, strict=True)]


def combine_costs(costs: Sequence[dict[str, Any]], persons: Sequence[int]) -> dict[str, Any]:
    """Cores of all ranks for each person, if all measured them. No energy: ranks may share what it is measured of."""
    if not all("cores_per_1000_fps" in one for one in costs):
        return {}
    return {"cores_per_1000_fps": float(np.average([one["cores_per_1000_fps"] for one in costs], weights=persons))}
