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


def name_timers(events: str, how: str, on_device: Callable[[], float], with_copies: Callable[[], float],
                streams: int = 1) -> dict[str, Callable[[], float]]:
    """Timers of the computation alone, launched as ``how`` says, and with copies; ``events`` are e.g. CUDA's."""
    how += f", {streams} streams" if streams > 1 else ""
    return {f"device time by {events} events, crops on the device, batches back to back {how}": on_device,
            f"the same with host-device copies from and to pinned memory, {IN_FLIGHT * streams} batches in flight":
                with_copies}


class BatchTimer:
    """A timer by a device's events: milliseconds from the end of each batch to the end of the next.

    Batch ``i`` starts when batch ``i - IN_FLIGHT`` has ended, so they can share a slot. The batches in flight keep the
    GPU busy meanwhile, so the mean is that of a loop that only enqueues.

    Of several ``streams``, which take turns, each has as many in flight. The time is that to the end of the stream's
    next batch, divided by their number, because others end meanwhile.
    """

    def __init__(self, wait: Callable[[], None], enqueue: Callable[[int], tuple[Any, Any]],
                 milliseconds: Callable[[Any, Any], float], streams: int = 1) -> None:
        """``enqueue`` returns the events of a batch's start and end, and ``milliseconds`` the time between two."""
        self._wait, self._enqueue, self._milliseconds, self._streams = wait, enqueue, milliseconds, streams
        self._restart()

    def _restart(self) -> None:
        self._latencies: list[float] = []
        self._enqueues: list[float] = []
        self._intervals = self._run()

    def __call__(self) -> float:
        return next(self._intervals)

    def _run(self) -> Iterator[float]:
        self._wait()  # the timer before this one has left batches in flight
        batches: deque[tuple[Any, Any]] = deque()
        in_flight = IN_FLIGHT * self._streams
        for i in count():
            before = time.perf_counter()
            batches.append(self._enqueue(i))
            self._enqueues.append((time.perf_counter() - before) * 1e3)
            if len(batches) >= in_flight:
                batches[-in_flight][1].synchronize()
            if len(batches) >= in_flight + self._streams:
                start, end = batches.popleft()
                self._latencies.append(self._milliseconds(start, end))
                yield self._milliseconds(end, batches[self._streams - 1][1]) / self._streams

    def finish(self) -> dict[str, list[float]]:
        """See :func:`rtmpose.timing.finish`: of each batch, the time on the device, and the host's to enqueue it."""
        self._wait()
        found = {"request_latency_ms": self._latencies, "enqueue_ms": self._enqueues}
        self._restart()
        return found


def graph_pays(graph: Callable[[], object], kernels: Callable[[], object], wait: Callable[[], None]) -> bool:
    """Whether work is not slower as a CUDA graph than kernel by kernel; they take turns."""
    seconds(lambda: (graph(), kernels()), wait, runs=1)  # a new graph is uploaded
    ratios: list[float] = []
    end = time.perf_counter() + _COMPARISON
    while len(ratios) < 2 or time.perf_counter() < end:
        ratios.append(seconds(graph, wait) / seconds(kernels, wait))
    return statistics.median(ratios[len(ratios) // 2:]) <= _SLOWER  # an idle GPU has low clocks at first


def seconds(work: Callable[[], object], wait: Callable[[], None], runs: int = 5) -> float:
    """Seconds of some runs of work."""
    start = time.perf_counter()
    try:
        for _ in range(runs):
            work()
    finally:  # after an error, too, memory is freed that the runs before it use
        wait()
    return time.perf_counter() - start
