"""An engine of TensorRT or TensorRT-RTX on the GPU: its streams, the memory of its batches in flight, CUDA graphs."""

import atexit
import contextlib
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np

from rtmpose.engines.record import Record
from rtmpose.engines.tensorrt.graph import Graph
from rtmpose.errors import KitError
from rtmpose.files import write_bytes
from rtmpose.model.graph import OUTPUTS
from rtmpose.timing import wall_clock

IN_FLIGHT = 2  # batches at a time: while one is computed, the next is uploaded and the one before is downloaded
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name


@dataclass
class Slot:
    """Memory and events of one batch in flight."""

    inputs: dict[str, np.ndarray]  # pinned memory
    outputs: dict[str, np.ndarray]  # pinned memory
    device: dict[str, Any]  # GPU memory, of inputs and outputs under the same names
    events: dict[str, Any]
    graph: Graph | None = None  # the computation, if that is faster


class TensorRTEngine:
    """An :class:`rtmpose.engines.Engine` on the GPU, with a stream each for uploads, runs and downloads.

    Use it in the thread that loaded it, which has CUDA's context; :meth:`infer` works in any, one at a time.
    """

    def __init__(self, path: str | Path, record: Record, trt: Any, logger: Any) -> None:
        try:
            import pycuda.driver as cuda
            import pycuda.autoprimaryctx  # makes the context that TensorRT shares  # isort: skip
        except ImportError as error:  # a library of theirs is missing, or the driver is too old for it
            raise KitError(f"{path}: pycuda can't be imported ({error}); run scripts/setup.sh --gpu") from error
        except (RuntimeError, cuda.Error) as error:
            raise KitError(f"{path}: the GPU can't be used ({error}); check the driver, and its free memory") from error
        self.path, self.record = str(path), record
        self.cuda, self._cuda_context, self._logger = cuda, pycuda.autoprimaryctx.context, logger
        self._graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self._slots: list[Slot] = []
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self._engine is None:
            raise KitError(f"{path}: {record.runtime} can't load it ({self._logger.last_error}); build it again")
        for name in (record.input_name, *OUTPUTS):
            if (kind := np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))) != np.float32:
                raise KitError(f"{path}: {name} is {kind}, expected float32; build it again")
        self._runtime_cache: Any = None
        self._context = self._create_context()
        if self._context is None:
            raise KitError(f"{path}: no GPU memory left to run it ({self._logger.last_error}); use a smaller batch")
        self.uploads, self.runs, self.downloads = (cuda.Stream(_NON_BLOCKING) for _ in range(3))
        # Exit hooks run in reverse order: this one before that of pycuda, which destroys the context.
        atexit.register(_close, weakref.ref(self))
        self._slots += [self.make_slot() for _ in range(IN_FLIGHT)]
        self.add_graphs(self._slots, self.enqueue)
        self._write_runtime_cache()

    def _create_context(self) -> Any:
        """TensorRT-RTX compiles kernels at their first run, unless a file beside the engine has them."""
        if not hasattr(self._engine, "create_runtime_config") or self.record.package != "tensorrt_rtx":
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        self._runtime_cache, file = config.create_runtime_cache(), Path(f"{self.path}.runtime_cache")
        if file.is_file():
            self._runtime_cache.deserialize(file.read_bytes())
        config.set_runtime_cache(self._runtime_cache)
        return self._engine.create_execution_context(runtime_config=config)

    def _write_runtime_cache(self) -> None:
        if self._runtime_cache is not None:
            with contextlib.suppress(KitError):  # the engine runs as well from a folder that can't be written
                write_bytes(f"{self.path}.runtime_cache", memoryview(self._runtime_cache.serialize()))

    def close(self) -> None:
        """Free what can't be freed without CUDA's context; the engine can't run any more."""
        self.wait()
        for graph in self._graphs:
            graph.close()
        self._slots.clear()
        self._runtime_cache = self._context = self._engine = self._runtime = None

    def wait(self) -> None:
        """Wait for all work in flight."""
        for stream in (self.uploads, self.runs, self.downloads):
            stream.synchronize()

    def make_slot(self) -> Slot:
        """Memory and events for one more batch in flight; raises KitError if there is not enough."""
        shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in (self.record.input_name, *OUTPUTS)}
        host = {name: self.pinned(shape, np.float32) for name, shape in shapes.items()}
        device = {name: self.allocate(array.nbytes) for name, array in host.items()}
        events = {stage: self.cuda.Event() for stage in ("uploaded", "computed", "downloaded")}
        inputs = {self.record.input_name: host.pop(self.record.input_name)}
        return Slot(inputs, host, device, events)

    def load_module(self, code: bytes) -> Any:
        """A module of compiled kernels; raises KitError if the driver refuses it."""
        try:
            return self.cuda.module_from_buffer(code)
        except self.cuda.Error as error:
            raise KitError(f"{self.path}: the driver can't load the kit's kernels ({error}); install a driver for the "
                           "CUDA version of nvidia-cuda-nvrtc, or a newer one") from error

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Pinned host memory, zeros; raises KitError if there is not enough."""
        try:
            return self.cuda.pagelocked_zeros(shape, dtype)
        except self.cuda.MemoryError as error:
            raise KitError(f"{self.path}: no pinned memory left for {shape} ({error}); use a smaller batch") from error

    def allocate(self, size: int) -> Any:
        """GPU memory, ``size`` bytes; raises KitError if there is not enough."""
        try:
            return self.cuda.mem_alloc(size)
        except self.cuda.MemoryError as error:
            raise KitError(f"{self.path}: the GPU has no {size / 2**20:.0f} MiB left ({error}); free some of its "
                           "memory or use a smaller batch") from error

    def enqueue(self, tensors: Mapping[str, SupportsInt]) -> None:
        """Enqueue the network on the stream ``runs``, given its tensors on the GPU; raises KitError if that fails."""
        for name, memory in tensors.items():
            self._context.set_tensor_address(name, int(memory))
        if not self._context.execute_async_v3(self.runs.handle):
            raise KitError(f"{self.path}: {self.record.runtime} failed to run the engine ({self._logger.last_error})")

    def add_graphs(self, slots: Iterable[Slot], compute: Callable[[dict[str, Any]], None]) -> None:
        """Record each slot's computation as a CUDA graph, if that works and is faster for the first slot."""
        record = self.faster_graph
        for slot in slots:
            slot.graph = record(partial(compute, slot.device))
            if slot.graph is None:
                return
            record = self._record

    def faster_graph(self, work: Callable[[], None]) -> Graph | None:
        """Work on the stream ``runs`` as a CUDA graph, that is in one launch; None if that is not faster or fails."""
        self._seconds(work, runs=2)  # TensorRT loads its kernels
        graph = self._record(work)
        return graph if graph and self._seconds(graph.launch) < self._seconds(work) else None

    def _record(self, work: Callable[[], None]) -> Graph | None:
        try:
            graph = Graph(self.runs, work)
        except (RuntimeError, KitError, self.cuda.Error):  # a run that allocates or waits can't be recorded
            return None
        self._graphs.add(graph)
        return graph

    def _seconds(self, work: Callable[[], None], runs: int = 10) -> float:
        start = time.perf_counter()
        try:
            for _ in range(runs):
                work()
        finally:  # after an error, too, memory is freed that the runs before it use
            self.runs.synchronize()
        return time.perf_counter() - start

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slot = self._slots[0]
        self._cuda_context.push()
        try:
            self.wait()  # a timer may have left a batch in flight
            slot.inputs[self.record.input_name][...] = crops
            self.enqueue_batch(slot, slot.inputs, self.enqueue)
            slot.events["downloaded"].synchronize()
        finally:
            self.cuda.Context.pop()
        simcc_x, simcc_y = (slot.outputs[name].copy() for name in OUTPUTS)
        return simcc_x, simcc_y

    def run(self, slot: Slot, compute: Callable[[dict[str, Any]], None]) -> None:
        """Launch a slot's graph, or call ``compute`` with its GPU memory to enqueue kernel by kernel."""
        try:
            if slot.graph:
                slot.graph.launch()
            else:
                compute(slot.device)
        except BaseException:
            self.wait()  # what is in flight uses memory that the error may free
            raise

    def enqueue_batch(self, slot: Slot, inputs: Mapping[str, np.ndarray], compute: Callable[[dict[str, Any]], None]
                      ) -> None:
        """Enqueue the upload of inputs, the computation (see :meth:`run`) and the download of all outputs."""
        for name, array in inputs.items():
            self.cuda.memcpy_htod_async(slot.device[name], array, self.uploads)
        slot.events["uploaded"].record(self.uploads)
        self.runs.wait_for_event(slot.events["uploaded"])
        self.run(slot, compute)
        slot.events["computed"].record(self.runs)
        self.downloads.wait_for_event(slot.events["computed"])
        for name, array in slot.outputs.items():
            self.cuda.memcpy_dtoh_async(array, slot.device[name], self.downloads)
        slot.events["downloaded"].record(self.downloads)

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        for slot in self._slots:
            slot.inputs[self.record.input_name][...] = crops
            self.enqueue_batch(slot, slot.inputs, self.enqueue)
            slot.events["downloaded"].synchronize()
        first = self._slots[0]
        how = "as CUDA graphs" if first.graph else "kernel by kernel"
        on_gpu = self._intervals(self.runs, lambda i: self.run(first, self.enqueue))
        with_copies = self._intervals(self.downloads, lambda i: self.enqueue_batch(
            self._slots[i % IN_FLIGHT], self._slots[i % IN_FLIGHT].inputs, self.enqueue))
        return {
            f"device time by CUDA events, crops on the GPU, batches back to back {how}": on_gpu.__next__,
            f"the same with host-device copies from and to pinned memory, {IN_FLIGHT} batches in flight":
                with_copies.__next__,
            "end to end by the wall clock, crops and logits in ordinary memory, one batch at a time":
                wall_clock(lambda: self.infer(crops)),
        }

    def _intervals(self, stream: Any, enqueue: Callable[[int], None]) -> Iterator[float]:
        """Milliseconds from the end of each batch to the end of the next; batches end on ``stream``.

        Batch ``i`` starts when batch ``i - IN_FLIGHT`` has ended, so they can share a slot. The batches in flight keep
        the GPU busy meanwhile, so the mean is that of a loop that only enqueues.
        """
        self.wait()  # the timer before this one has left batches in flight
        in_flight: deque[Any] = deque()  # the event at the end of each batch
        previous = None
        for i in count():
            enqueue(i)
            in_flight.append(self.cuda.Event().record(stream))
            if len(in_flight) == IN_FLIGHT:
                oldest = in_flight.popleft()
                oldest.synchronize()
                if previous is not None:
                    yield previous.time_till(oldest)
                previous = oldest


def _close(reference: weakref.ref[TensorRTEngine]) -> None:
    if engine := reference():
        engine.close()
