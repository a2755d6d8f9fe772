"""CUDA graphs on pycuda's streams, by cuda-bindings, because pycuda has none."""

from collections.abc import Callable


class Graph:
    """Work on a stream, recorded once and launched as a whole from then on."""

    def __init__(self, stream: "object", work: Callable[[], None]) -> None:
        """Record work.

        Args:
            stream: a ``pycuda.driver.Stream``, on which the graph will be launched, too.
            work: enqueues onto ``stream`` and nowhere else, always on the same memory; it must have run before, so
                that nothing is left to be loaded or allocated.

        Raises:
            RuntimeError: the work can't be recorded.
        """
        from cuda.bindings import driver
        self._driver, self._stream, self._executable = driver, driver.CUstream(stream.handle), None
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

    def launch(self) -> None:
        """Enqueue the work.

        Raises:
            RuntimeError: the driver refuses.
        """
        self._call(self._driver.cuGraphLaunch, self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; it can't be launched any more."""
        if self._executable is not None:
            self._driver.cuGraphExecDestroy(self._executable)
            self._executable = None

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def _call(function: Callable, *arguments: object) -> "object":
        status, *given = function(*arguments)
        if int(status):
            raise RuntimeError(f"{function.__name__}: {status.name}")
        return given[0] if given else None
