"""Accuracy and throughput on several devices at once, by all ranks (rtmpose.evaluate.ranks) together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from rtmpose import timing
from rtmpose.data.coco import DataSet, PersonSet, regroup
from rtmpose.engines import Engine, monitor
from rtmpose.errors import KitError
from rtmpose.evaluate.accuracy import AccuracyResult, add_score, predict_all
from rtmpose.evaluate.predictions import join
from rtmpose.evaluate.ranks import Ranks
from rtmpose.evaluate.throughput import throughput_input, time_batches
from rtmpose.machine.monitor import Monitor, combine_conditions

_ALONE = 0.25  # of --duration, for each device alone


def measure_accuracy_by_ranks(ranks: Ranks, engine: Engine, persons: PersonSet, flip_test: bool) -> AccuracyResult:
    """Predict this rank's share of the persons. Rank 0 returns the result of all persons, scored; the others that of
    their share, not scored.

    A share is whole batches of the set, one after the other: each batch is the one that a single process makes, so
    that its keypoints are the same bits. All start at a barrier, and the seconds are those of the slowest.
    Raises KitError if there are fewer batches than ranks.
    """
    share = take_share(persons, ranks.rank, ranks.world_size, engine.record.batch)
    ranks.barrier()
    predicted = predict_all(engine, share, flip_test)
    parts, described = ranks.all_gather(predicted), ranks.describe()
    if ranks.rank:
        return predicted
    conditions = [part.conditions for part in parts]
    return add_score(AccuracyResult(
        predictions=join([part.predictions for part in parts]),
        batch_ms=[milliseconds for part in parts for milliseconds in part.batch_ms],
        seconds=max(part.seconds for part in parts),
        conditions=combine_conditions(conditions, "rank"), costs=combine_costs(conditions, len(persons)),
        ranks={**described, "fps": [len(part.predictions) / part.seconds for part in parts]}), persons)


def take_share(persons: PersonSet, rank: int, world_size: int, batch: int) -> PersonSet:
    """A rank's share of a set: whole batches. An image whose persons are of two shares is in both.

    Raises KitError if there are fewer batches than ranks.
    """
    batches = -(-len(persons) // batch)
    if batches < world_size:
        raise KitError(f"{len(persons)} persons are {batches} batch{'es' * (batches > 1)} of {batch}, too few for "
                       f"{world_size} ranks; start fewer")
    first, end = (batches * number // world_size * batch for number in (rank, rank + 1))
    return replace(persons, images=tuple(regroup(persons.pairs[first:end])))


def measure_throughput_by_ranks(ranks: Ranks, engine: Engine, data_set: DataSet | str | None, warmup: int,
                                iterations: int, duration: float) -> dict[str, Any]:
    """Time each device alone, one after the other, then all at once, by the engine's first timer.

    Options and result are those of :func:`rtmpose.evaluate.throughput.measure_throughput`, except that alone each gets
    a quarter of ``duration``. Ranks other than 0 return an empty result.
    """
    crops, source = throughput_input(data_set, engine)
    (name, timer), batch = next(iter(engine.timers(crops).items())), engine.record.batch
    for rank in range(ranks.world_size):
        if rank == ranks.rank:
            alone = time_batches(engine, timer, warmup, iterations, _ALONE * duration)["fps"]
        ranks.barrier()
    warmed = timing.warm_up(timer, warmup, duration)
    watched, samples, ends = time_together(ranks, engine, timer, iterations, duration)
    parts, described = ranks.all_gather((alone, samples, ends, warmed, watched.conditions)), ranks.describe()
    if ranks.rank:
        return {}
    alone_fps, all_samples, all_ends, warmups, conditions = zip(*parts, strict=True)
    window, counted = count_in_window(all_samples, all_ends)
    fps = [batch / float(np.mean(milliseconds)) * 1e3 for milliseconds in counted]
    return {
        "mode": "throughput",
        "fps": sum(fps),
        "fps_of": f"sum of {ranks.world_size} ranks at once, each: {name}",
        **timing.describe_samples(np.concatenate(counted)),
        "warmup": min(one["warmup"] for one in warmups), "warmup_s": max(one["warmup_s"] for one in warmups),
        "steady": all(one["steady"] for one in warmups),
        "input": source, "other_timings": {}, "conditions": combine_conditions(conditions, "rank"),
        **combine_costs(conditions, batch * sum(map(len, all_samples))),
        "ranks": {**described, "fps": fps, "alone_fps": list(alone_fps), "efficiency": sum(fps) / sum(alone_fps),
                  "window_s": window},
    }


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


def combine_costs(conditions: Sequence[dict[str, Any]], persons: int) -> dict[str, Any]:
    """Cores of all ranks for each person, if all measured them. No energy: ranks may share what it is measured of."""
    cpus = [one["cpu"] for one in conditions]
    return {"cores_per_1000_fps": sum(cpu["own_seconds"] for cpu in cpus) / persons * 1e3} if all(cpus) else {}
