"""What engines on a GPU share: batches in flight, timers by the device's events, whether a recorded graph pays."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from rtmpose.timing import wall_clock

IN_FLIGHT = 2  # batches at a time: while one is computed, the next is uploaded and the one before is downloaded
_SLOWER = 1.02  # ratio up to which a recorded graph is taken: it frees the host
_COMPARISON = 0.4  # seconds


def intervals(wait: Callable[[], None], enqueue: Callable[[int], Any], milliseconds: Callable[[Any, Any], float]
              ) -> Iterator[float]:
    """Milliseconds from the end of each batch to the end of the next.

    Batch ``i`` starts when batch ``i - IN_FLIGHT`` has ended, so they can share memory. The batches in flight keep the
    device busy meanwhile, so the mean is that of a loop that only enqueues.

    Args:
        wait: waits for all work on the device.
        enqueue: enqueues a batch by its number, and returns the event of its end.
        milliseconds: the time between two events.
    """
    wait()  # the timer before this one has left batches in flight
    ends: deque[Any] = deque()
    for i in count():
        ends.append(enqueue(i))
        if len(ends) >= IN_FLIGHT:
            ends[-IN_FLIGHT].synchronize()
        if len(ends) > IN_FLIGHT:
            yield milliseconds(ends.popleft(), ends[0])


def device_timers(events: str, how: str, on_device: Iterator[float], with_copies: Iterator[float],
                  infer: Callable[[], object]) -> dict[str, Callable[[], float]]:
    """The timers of an engine: its computation alone, with copies, and :meth:`infer`.

    ``events`` is whose events they are, e.g. CUDA; ``how`` is how the computation is launched.
    """
    return {
        f"device time by {events} events, crops on the device, batches back to back {how}": on_device.__next__,
        f"the same with host-device copies from and to pinned memory, {IN_FLIGHT} batches in flight":
            with_copies.__next__,
        "end to end by the wall clock, crops and logits in ordinary memory, one batch at a time": wall_clock(infer),
    }


def graph_pays(graph: Callable[[], None], kernels: Callable[[], None], wait: Callable[[], None]) -> bool:
    """Whether work that was recorded as a graph is not slower than kernel by kernel; they take turns."""
    ratios: list[float] = []
    end = time.perf_counter() + _COMPARISON
    while not ratios or time.perf_counter() < end:
        ratios.append(run_times(graph, wait) / run_times(kernels, wait))
    # An idle GPU has low clocks, and a new graph is uploaded.
    return statistics.median(ratios[len(ratios) // 2:]) <= _SLOWER


def run_times(work: Callable[[], None], wait: Callable[[], None], runs: int = 5) -> float:
    """Seconds of some runs of work."""
    start = time.perf_counter()
    try:
        for _ in range(runs):
            work()
    finally:  # after an error, too, memory is freed that the runs before it use
        wait()
    return time.perf_counter() - start
