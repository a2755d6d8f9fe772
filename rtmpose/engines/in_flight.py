"""What engines on a GPU share: timers of batches in flight by the device's events, and whether a CUDA graph pays."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

IN_FLIGHT = 2  # batches at a time: while one is computed, the next is uploaded and the one before is downloaded
_SLOWER = 1.02  # ratio up to which a CUDA graph is taken: it frees the host
_COMPARISON = 0.4  # seconds


def name_timers(events: str, how: str, on_device: Iterator[float], with_copies: Iterator[float]
                ) -> dict[str, Callable[[], float]]:
    """Timers of the computation alone, launched as ``how`` says, and with copies; ``events`` are e.g. CUDA's."""
    return {f"device time by {events} events, crops on the device, batches back to back {how}": on_device.__next__,
            f"the same with host-device copies from and to pinned memory, {IN_FLIGHT} batches in flight":
                with_copies.__next__}


def intervals(wait: Callable[[], None], enqueue: Callable[[int], Any], milliseconds: Callable[[Any, Any], float]
              ) -> Iterator[float]:
    """Milliseconds from the end of each batch to the end of the next, between the events that ``enqueue`` returns.

    Batch ``i`` starts when batch ``i - IN_FLIGHT`` has ended, so they can share a slot. The batches in flight keep the
    GPU busy meanwhile, so the mean is that of a loop that only enqueues.
    """
    wait()  # the timer before this one has left batches in flight
    ends: deque[Any] = deque()
    for i in count():
        ends.append(enqueue(i))
        if len(ends) >= IN_FLIGHT:
            ends[-IN_FLIGHT].synchronize()
        if len(ends) > IN_FLIGHT:
            yield milliseconds(ends.popleft(), ends[0])


def graph_pays(graph: Callable[[], object], kernels: Callable[[], object], wait: Callable[[], None]) -> bool:
    """Whether work is not slower as a CUDA graph than kernel by kernel; they take turns."""
    ratios: list[float] = []
    end = time.perf_counter() + _COMPARISON
    while not ratios or time.perf_counter() < end:
        ratios.append(seconds(graph, wait) / seconds(kernels, wait))
    # An idle GPU has low clocks, and a new graph is uploaded.
    return statistics.median(ratios[len(ratios) // 2:]) <= _SLOWER


def seconds(work: Callable[[], object], wait: Callable[[], None], runs: int = 5) -> float:
    """Seconds of some runs of work."""
    start = time.perf_counter()
    try:
        for _ in range(runs):
            work()
    finally:  # after an error, too, memory is freed that the runs before it use
        wait()
    return time.perf_counter() - start
