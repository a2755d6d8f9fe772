"""An engine of TensorRT or TensorRT-RTX on the GPU: its streams, the memory of its batches in flight, CUDA graphs."""

import atexit
import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np

from rtmpose.engines.in_flight import IN_FLIGHT, BatchTimer, graph_pays, name_timers, seconds
from rtmpose.engines.record import Record
from rtmpose.engines.runtime import import_package
from rtmpose.engines.tensorrt.build import find_obstacle, get_logger, open_context
from rtmpose.engines.tensorrt.graph import Graph
from rtmpose.errors import KitError
from rtmpose.files import write_bytes
from rtmpose.machine.gpu import find_gpu
from rtmpose.model.graph import INPUT, OUTPUTS
from rtmpose.timing import wall_clock

KEYPOINTS = "keypoints"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name

Device = Mapping[str, SupportsInt]  # GPU memory, by the name of what is in it


@dataclass
class Slot:
    """Memory, events and computation of one batch in flight."""

    outputs: dict[str, np.ndarray]  # pinned memory, for what is downloaded
    device: dict[str, Any]  # GPU memory, by name
    events: dict[str, Any]
    launch: Callable[[], None]  # enqueue the computation on the stream ``runs``
    how: str = "kernel by kernel"


class TensorRTEngine:
    """An :class:`rtmpose.engines.Engine` on the GPU, with a CUDA stream each for uploads, runs and downloads.

    Use it in the thread that loaded it, which has CUDA's context; :meth:`infer` works in any, one at a time.
    """

    def __init__(self, content: bytes, path: str | Path, record: Record) -> None:
        gpu = find_gpu()
        if gpu is None:
            raise KitError(f"{path}: needs a GPU, and no NVIDIA GPU is here; build it with --backend onnxruntime")
        if obstacle := find_obstacle(gpu, record.package):
            raise KitError(f"{path}: can't run: {obstacle}")
        self.path, self.record = str(path), record
        self.cuda, self._cuda_context = open_context(gpu, path)
        width, height = record.input_size
        self.shapes = {INPUT: (record.batch, 3, height, width),
                       **{name: (record.batch, record.num_keypoints, number)
                          for name, number in zip((*OUTPUTS, KEYPOINTS), (*record.bins, 3), strict=True)}}
        trt = import_package(record.package)
        self._logger = get_logger(trt)
        self._logger.clear()
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise RuntimeError(self._logger.last_error)
        self._start()
        atexit.register(self.close)  # exit hooks run in reverse order: before that of pycuda, which ends the context
        if self._runtime_cache is not None:
            with contextlib.suppress(KitError):  # the engine runs as well from a folder that can't be written
                write_bytes(f"{path}.runtime_cache", memoryview(self._runtime_cache.serialize()))

    def _start(self) -> None:
        """Make what a stream of batches has of its own: an execution context, CUDA streams, memory."""
        self._others: list[TensorRTEngine] = []
        self._context = self._create_context()
        if self._context is None:
            raise KitError(f"{self.path}: no GPU memory left ({self._logger.last_error}); use a smaller batch")
        # Else detailed engines take longer to enqueue.
        self._context.nvtx_verbosity = import_package(self.record.package).ProfilingVerbosity.NONE
        self.uploads, self.runs, self.downloads = (self.cuda.Stream(_NON_BLOCKING) for _ in range(3))
        self._slots = [self.make_network_slot() for _ in range(IN_FLIGHT)]
        self._crops = self.pinned(self.shapes[INPUT], np.float32)
        self.add_graphs(self._slots)

    def add_streams(self, number: int) -> None:
        """Let the timers keep a number of other streams of batches busy, too. They share the weights.

        Raises KitError if memory runs out.
        """
        for _ in range(number):
            self._others.append(copy.copy(self))
            self._others[-1]._start()

    def _create_context(self) -> Any:
        """TensorRT-RTX compiles kernels at their first run, unless a file beside the engine has them."""
        self._runtime_cache: Any = None
        if self.record.package != "tensorrt_rtx":
            return self._engine.create_execution_context()
        config, file = self._engine.create_runtime_config(), Path(f"{self.path}.runtime_cache")
        self._runtime_cache = config.create_runtime_cache()
        if file.is_file():
            self._runtime_cache.deserialize(file.read_bytes())
        config.set_runtime_cache(self._runtime_cache)
        return self._engine.create_execution_context(runtime_config=config)

    def close(self) -> None:
        """Free what can't be freed without CUDA's context; the engine can't run any more."""
        atexit.unregister(self.close)
        for other in self._others:
            other.close()
        self.wait()
        self._slots.clear()
        self._runtime_cache = self._context = self._engine = self._runtime = None

    def wait(self) -> None:
        """Wait for all work in flight."""
        for engine in (self, *self._others):
            for stream in (engine.uploads, engine.runs, engine.downloads):
                stream.synchronize()

    @contextlib.contextmanager
    def in_context(self) -> Iterator[None]:
        """Let the thread that enters it, whichever it is, call CUDA."""
        self._cuda_context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()

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

    def allocate_tensors(self, names: Sequence[str]) -> dict[str, Any]:
        """GPU memory for float32 tensors of :attr:`shapes`, by name."""
        return {name: self.allocate(4 * math.prod(self.shapes[name])) for name in names}

    def make_slot(self, outputs: Sequence[str], device: dict[str, Any], compute: Callable[[Device], None]) -> Slot:
        """A slot with GPU memory, in which ``compute`` enqueues the computation, and pinned memory for its outputs."""
        pinned = {name: self.pinned(self.shapes[name], np.float32) for name in outputs}
        events = {stage: self.cuda.Event() for stage in ("started", "uploaded", "computed", "downloaded")}
        return Slot(pinned, device, events, partial(compute, device))

    def make_network_slot(self) -> Slot:
        """A slot for the network alone."""
        return self.make_slot(OUTPUTS, self.allocate_tensors((INPUT, *OUTPUTS)), self.enqueue)

    def enqueue(self, device: Device, prefix: str = "") -> None:
        """Enqueue the network on the stream ``runs``, from GPU memory to GPU memory; raises KitError if that fails.

        ``prefix`` is what stands before the outputs' names in ``device``.
        """
        self._context.set_tensor_address(self.record.input_name, int(device[INPUT]))
        for name in OUTPUTS:
            self._context.set_tensor_address(name, int(device[prefix + name]))
        if not self._context.execute_async_v3(self.runs.handle):
            raise KitError(f"{self.path}: {self.record.runtime} failed to run the engine ({self._logger.last_error})")

    def add_graphs(self, slots: Sequence[Slot]) -> None:
        """Let slots launch their computation as a CUDA graph, that is at once, if that works and is not slower."""
        seconds(slots[0].launch, self.runs.synchronize, runs=2)  # TensorRT loads its kernels
        try:
            graphs = [Graph(self.runs, slot.launch) for slot in slots]
        except (RuntimeError, KitError, self.cuda.Error):  # a run that allocates or waits can't be recorded
            return
        if graph_pays(graphs[0].launch, slots[0].launch, self.runs.synchronize):
            for slot, graph in zip(slots, graphs, strict=True):
                slot.launch, slot.how = graph.launch, "as CUDA graphs"

    def enqueue_batch(self, slot: Slot, uploads: Iterable[tuple[str, int, np.ndarray]]) -> None:
        """Enqueue uploads, the computation, and the download of all outputs.

        An upload is the name of GPU memory, an offset in bytes there, and an array in pinned memory.
        """
        slot.events["started"].record(self.uploads)
        for name, offset, array in uploads:
            self.cuda.memcpy_htod_async(int(slot.device[name]) + offset, array, self.uploads)
        slot.events["uploaded"].record(self.uploads)
        self.runs.wait_for_event(slot.events["uploaded"])
        slot.launch()
        slot.events["computed"].record(self.runs)
        self.downloads.wait_for_event(slot.events["computed"])
        for name, array in slot.outputs.items():
            self.cuda.memcpy_dtoh_async(array, slot.device[name], self.downloads)
        slot.events["downloaded"].record(self.downloads)

    def _enqueue_crops(self, i: int) -> None:
        self.enqueue_batch(self._slots[i % IN_FLIGHT], [(INPUT, 0, self._crops)])

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with self.in_context():
            self.wait()  # a timer may have left a batch in flight
            self._crops[...] = crops
            self._enqueue_crops(0)
            self.wait()
        simcc_x, simcc_y = (array.copy() for array in self._slots[0].outputs.values())
        return simcc_x, simcc_y

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        from rtmpose.engines.tensorrt.stream import enqueue_pixels  # which imports this module
        streams = [self, *self._others]
        for stream in streams:
            stream.infer(crops)  # they stay in pinned memory, and on the GPU
        # Only when they are timed: it compiles kernels. For all streams at once, while no batch is in flight.
        pixels = cache(lambda: {stream: enqueue_pixels(crops, stream) for stream in streams})
        on_gpu = self._timer(lambda stream, i: stream._slots[0].launch())
        with_copies = self._timer(TensorRTEngine._enqueue_crops, copies=True)
        with_pixels = self._timer(lambda stream, i: pixels()[stream](i), copies=True)
        how = " and ".join({stream._slots[0].how: None for stream in streams})
        return {**name_timers("CUDA", how, on_gpu, with_copies, len(streams)),
                "the same with copies of 8-bit crops, which the GPU normalises, and of keypoints": with_pixels,
                "end to end by the wall clock, crops and logits in ordinary memory, one batch at a time":
                    wall_clock(partial(self.infer, crops))}

    def _timer(self, enqueue: Callable[["TensorRTEngine", int], None], copies: bool = False) -> BatchTimer:
        """A timer of batches with or without ``copies``, for which the streams take turns."""
        streams = [self, *self._others]

        def enqueue_with_events(i: int) -> tuple[Any, Any]:
            turn, number = divmod(i, len(streams))
            stream = streams[number]
            start = self.cuda.Event().record(stream.uploads if copies else stream.runs)
            enqueue(stream, turn)
            return start, self.cuda.Event().record(stream.downloads if copies else stream.runs)

        return BatchTimer(self.wait, enqueue_with_events, lambda start, end: start.time_till(end), len(streams))
