"""CUDA graphs on pycuda's streams, by cuda-bindings, because pycuda has none."""

import weakref
from collections.abc import Callable
from typing import Any


class Graph:
    """Work on a stream, recorded once, then launched as a whole."""

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        """Record work on a ``pycuda.driver.Stream``; raises RuntimeError if it can't be recorded.

        ``work`` uses this stream only, and always the same memory. It has run before, so nothing is left to allocate.
        """
        from cuda.bindings import driver
        self._driver, self._stream = driver, driver.CUstream(stream.handle)
        self._call(driver.cuStreamBeginCapture, self._stream,
                   driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            driver.cuStreamEndCapture(self._stream)
            raise
        graph = self._call(driver.cuStreamEndCapture, self._stream)
        try:
            self._executable = self._call(driver.cuGraphInstantiate, graph, 0)
        finally:
            driver.cuGraphDestroy(graph)
        # CUDA's context frees the graphs that are left at exit.
        weakref.finalize(self, driver.cuGraphExecDestroy, self._executable).atexit = False

    def launch(self) -> None:
        """Enqueue the work; raises RuntimeError if the driver refuses."""
        self._call(self._driver.cuGraphLaunch, self._executable, self._stream)

    @staticmethod
    def _call(function: Callable[..., Any], *arguments: Any) -> Any:
        status, *results = function(*arguments)
        if int(status):
            raise RuntimeError(f"{function.__name__}: {status.name}")
        return results[0] if results else None
