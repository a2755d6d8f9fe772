"""Timers of batches in flight, of events whose times are known."""

from collections.abc import Callable
from itertools import count, groupby, pairwise
from types import SimpleNamespace

import pytest

from rtmpose.engines import in_flight
from rtmpose.engines.in_flight import IN_FLIGHT, BatchTimer, graph_pays
from rtmpose.report.summary import notes
from rtmpose.timing import finish


class Event(float):
    """An event at a time in milliseconds."""

    def synchronize(self) -> None:
        waited.append(self)


waited: list[float] = []


def test_timer_tells_intervals_and_each_batch() -> None:
    """A device that starves: each batch takes 3 ms, and one ends every 5, then 6, then 7 ms ..."""
    ends = [Event(sum(range(5, 5 + i))) for i in range(1, 20)]
    timer = BatchTimer(lambda: None, lambda i: (Event(ends[i] - 3), ends[i]), lambda start, end: end - start)
    for _ in range(2):  # after it has finished, it starts again
        waited.clear()
        assert [timer() for _ in range(4)] == [end - start for start, end in pairwise(ends[:5])]
        assert waited == ends[:len(waited)] and len(waited) == 4 + IN_FLIGHT - 1
        found = finish(timer)
        assert found["request_latency_ms"] == [3] * 4 and len(found["enqueue_ms"]) == 4 + IN_FLIGHT


def test_timer_of_two_streams_counts_the_batches_of_both() -> None:
    """Two batches share the device, 4 ms each, the second stream's ends 3 ms before the first's: one every 2 ms."""
    ends = [Event(4 * (i // 2) - 3 * (i % 2)) for i in range(20)]
    timer = BatchTimer(lambda: None, lambda i: (Event(ends[i] - 4), ends[i]), lambda start, end: end - start, streams=2)
    waited.clear()
    assert [timer() for _ in range(5)] == [2] * 5
    assert waited == ends[:len(waited)] and len(waited) == 5 + 2
    found = finish(timer)
    assert found["request_latency_ms"] == [4] * 5 and len(found["enqueue_ms"]) == 5 + 2 * IN_FLIGHT + 1


@pytest.mark.parametrize(("milliseconds", "slower", "longer", "pays"), [
    (1, 1.01, {}, True), (1, 1.03, {}, False),
    # A turn takes longer than the comparison should, the first launch or the first turn still longer.
    (100, 1.01, {("graph", 0): 500}, True), (100, 1.03, {("kernels", 0): 500}, False),
    (100, 1.01, {("graph", 1): 500}, True), (100, 1.03, {("kernels", 1): 500}, False),
    # A first launch as long as the comparison, and a turn that something else disturbs.
    (1, 1.01, {("graph", 0): 500, ("graph", 7): 5}, True), (1, 1.03, {("kernels", 0): 500, ("kernels", 7): 5}, False)])
def test_a_graph_pays_unless_it_is_more_than_2_percent_slower(
        monkeypatch: pytest.MonkeyPatch, milliseconds: float, slower: float, longer: dict[tuple[str, int], float],
        pays: bool) -> None:
    """By the clock of a device on which only work takes time, which it begins when it is waited for."""
    clock, queue, launched = [0.0], [], []
    monkeypatch.setattr(in_flight, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def work(name: str, usual: float) -> Callable[[], None]:
        numbers = count()

        def launch() -> None:
            launched.append(name)
            queue.append(usual + longer.get((name, next(numbers)), 0))

        return launch

    def wait() -> None:
        clock[0] += sum(queue) / 1e3
        queue.clear()

    assert graph_pays(work("graph", milliseconds * slower), work("kernels", milliseconds), wait) == pays
    assert len([*groupby(launched)]) >= 6, "untimed, to warm up, and timed: each in turns"


@pytest.mark.parametrize(("interval", "busy", "enqueue", "streams", "noted"), [  # on both sides of trtexec's limits
    (10.5, 10, 1, 1, False), (10.51, 10, 1, 1, True), (10, 10, 8, 1, False), (10, 10, 8.01, 1, True),
    (5.25, 10, 4, 2, False), (5.26, 10, 4, 2, True), (5, 10, 4.01, 2, True)])
def test_a_host_that_starves_the_device_is_noted(interval: float, busy: float, enqueue: float, streams: int,
                                                 noted: bool) -> None:
    summary = {"missed_targets": [], "engine": {"calibration": {}}, "inputs": {}, "latency_ms": {"mean": interval},
               "streams": streams, "request_latency_ms": {"mean": busy}, "enqueue_ms": {"mean": enqueue}}
    assert any("the host is the limit: a batch takes the device 10.000 ms" in note for note in notes(summary)) == noted
