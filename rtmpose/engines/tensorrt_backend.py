"""TensorRT and TensorRT-RTX on an NVIDIA GPU, through one code path.

Networks are strongly typed: precision is what the ONNX graph says, in TensorRT 10 and 11 and in TensorRT-RTX alike.
TensorRT-RTX builds without a GPU; TensorRT, and running an engine of either, needs one.
"""

import atexit
import importlib
import importlib.util
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsInt

import numpy as np
import onnx
from tqdm import tqdm

from rtmpose.engines.cuda_graph import Graph
from rtmpose.engines.record import Record
from rtmpose.environment import find_gpu
from rtmpose.errors import KitError
from rtmpose.files import write_bytes
from rtmpose.model.graph import OUTPUTS
from rtmpose.model.int8 import Int8Scheme
from rtmpose.timing import wall_clock

PACKAGES = "tensorrt or tensorrt_rtx"

INT8_SCHEME = Int8Scheme(signed=True, outputs=False, rest_fp16=True)
"""TensorRT takes signed, symmetric INT8 only. It quantises where a convolution's input is made, after the SiLU."""

IN_FLIGHT = 2
"""Batches under way at a time: while one is computed, the next is copied up and the one before it down."""

_MODULES = ("tensorrt", "tensorrt_rtx")
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name
_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


def _installed() -> list[str]:
    return [name for name in _MODULES if importlib.util.find_spec(name) is not None]


def is_installed() -> bool:
    """Whether TensorRT or TensorRT-RTX is there."""
    return bool(_installed())


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # a package without its libraries raises either
        raise KitError(f"{name} is installed but can't be imported ({error}); install requirements-gpu.txt again"
                       ) from error


def describe() -> dict[str, str | None]:
    """Package, version and device, as :class:`rtmpose.engines.record.Record` names them."""
    name = _installed()[0]
    gpu = find_gpu()
    return {"backend": "tensorrt", "package": name, "version": _import(name).__version__,
            "device": gpu.name if gpu else None, "compute_capability": gpu.compute_capability if gpu else None}


def _logger(trt: ModuleType) -> "object":
    """A TensorRT logger that keeps errors for the message instead of printing them."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip().splitlines()[0])

        def last(self) -> str:
            return self.errors[-1][:200] if self.errors else "no reason given"

    return Log()


def _progress(trt: ModuleType) -> "object":
    """A TensorRT progress monitor that shows the outermost phase as a bar and the inner one beside it."""

    class Progress(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, tqdm] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.bars[name] = tqdm(total=steps, desc=name, leave=False, disable=None)
            for bar in self.bars.values():
                bar.set_postfix_str(name if parent else "")

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.bars:
                self.bars[name].update()
            return True

        def phase_finish(self, name: str) -> None:
            if name in self.bars:
                self.bars.pop(name).close()

    return Progress()


def build(model: onnx.ModelProto, path: Path, engine: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Build a strongly typed engine of a graph with a fixed batch size.

    Args:
        model: the graph; its types are the engine's.
        path: where to write.
        engine: the engine's final name, for messages and for the timing cache in its folder.

    Returns:
        Number of convolutions and matrix products, and of all layers of the network, by the type that they give.

    Raises:
        KitError: TensorRT refuses the graph, or there is no GPU where one is needed.
    """
    name = _installed()[0]
    trt = _import(name)
    if name == "tensorrt" and find_gpu() is None:
        raise KitError("--backend tensorrt: TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU "
                       "is here; use --backend onnxruntime, or install tensorrt-rtx-cu13, which builds without one")
    log = _logger(trt)
    builder = trt.Builder(log)
    # TensorRT 11 knows no other networks than strongly typed ones.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        reason = parser.get_error(0).desc() if parser.num_errors else log.last()
        raise KitError(f"{engine}: {name} can't parse the graph ({reason.splitlines()[0][:200]})")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = _progress(trt)  # TensorRT doesn't keep it alive
    config.progress_monitor = monitor
    cache = _use_timing_cache(config, engine) if name == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise KitError(f"{engine}: {name} can't build the engine ({log.last()})")
    path.write_bytes(memoryview(plan))
    if cache is not None:
        write_bytes(cache, memoryview(config.get_timing_cache().serialize()))
    return _count(network, only=("CONVOLUTION", "MATRIX_MULTIPLY")), _count(network)


def _use_timing_cache(config: "object", engine: Path) -> Path:
    """Start from the timings that an earlier build left beside the engine; TensorRT-RTX has no timing cache."""
    path = engine.parent / "tensorrt.timing_cache"
    content = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return path


def _count(network: "object", only: tuple[str, ...] = ()) -> dict[str, int]:
    """How many layers of a network work on which type: what they give, or INT8 where what they take was quantised."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantized = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    counted = Counter()
    for layer in layers:
        if layer.type.name in only or not only and layer.type.name != "CONSTANT":
            kind = layer.get_output(0).dtype.name
            counted["int8" if layer.get_input(0) is not None and layer.get_input(0).name in quantized
                    else _TYPES.get(kind, kind.lower())] += 1
    return dict(counted)


def load(path: str | Path, record: Record) -> "TensorRTEngine":
    """Load an engine that :func:`build` wrote.

    Raises:
        KitError: it is for another version or GPU, can't be loaded, or there is no GPU.
    """
    if record.package not in _installed():
        raise KitError(f"{path}: was built by {record.runtime}, which is not installed here; "
                       "install it or build the engine again")
    trt = _import(record.package)
    if record.version != trt.__version__:
        raise KitError(f"{path}: was built by {record.runtime}, here is version {trt.__version__}; build it again")
    gpu = find_gpu()
    if gpu is None:
        raise KitError(f"{path}: is a TensorRT engine, and no NVIDIA GPU is here; build one for the CPU with "
                       "build_engine.py --backend onnxruntime")
    if record.device and (record.device, record.compute_capability) != (gpu.name, gpu.compute_capability):
        raise KitError(f"{path}: was built for {record.device} (compute capability {record.compute_capability}), "
                       f"here is {gpu.name} ({gpu.compute_capability}); build it again")
    return TensorRTEngine(trt, path, record)


@dataclass
class _Slot:
    """What one batch in flight has to itself: memory for each tensor, pinned on the host and on the GPU, the events
    by which one stream waits for another, and its run as a CUDA graph, if that is faster."""

    host: dict[str, np.ndarray]
    device: dict[str, Any]
    uploaded: Any
    computed: Any
    downloaded: Any
    graph: Graph | None


class TensorRTEngine:
    """An engine on the GPU (see :class:`rtmpose.engines.Engine`).

    All memory is allocated here, once. Copies up, runs and copies down have a stream each, so that they overlap. One
    thread at a time may use an engine; all but :meth:`infer` must run in the thread that loaded it, which has CUDA's
    context.

    Attributes:
        cuda: ``pycuda.driver``, with a context.
        uploads, runs, downloads: its streams.
    """

    def __init__(self, trt: ModuleType, path: str | Path, record: Record) -> None:
        try:
            import pycuda.autoprimaryctx  # makes the context that TensorRT shares
            import pycuda.driver as cuda
            importlib.import_module("cuda.bindings.driver")  # what Graph needs
        except ImportError as error:
            raise KitError(f"{path}: needs pycuda and cuda-bindings to run ({error}); run scripts/setup.sh --gpu"
                           ) from error
        self.path, self.record = str(path), record
        self.cuda, self._log = cuda, _logger(trt)
        self._cuda_context = pycuda.autoprimaryctx.context
        self._graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self._engine is None:
            raise KitError(f"{path}: {record.runtime} can't load it ({self._log.last()}); build it again")
        types = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
                 for name in (record.input_name, *OUTPUTS)}
        if any(kind != np.float32 for kind in types.values()):
            raise KitError(f"{path}: its tensors are {', '.join(f'{name} {kind}' for name, kind in types.items())}, "
                           "expected float32; build it again")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise KitError(f"{path}: {record.runtime} can't make room for a run ({self._log.last()}); "
                           "free memory of the GPU or build for a smaller batch")
        self.uploads, self.runs, self.downloads = (cuda.Stream(_NON_BLOCKING) for _ in range(3))
        self._slots = [self._make_slot() for _ in range(IN_FLIGHT)]
        # pycuda's own exit hook, which was registered by its import, drops the context; this one runs before it.
        atexit.register(_close, weakref.ref(self))

    def close(self) -> None:
        """Free what needs CUDA's context to be freed; the engine can't run any more."""
        for graph in self._graphs:
            graph.close()
        self._slots.clear()
        self._context = self._engine = self._runtime = None

    def _make_slot(self) -> _Slot:
        shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in (self.record.input_name, *OUTPUTS)}
        host = {name: self.pinned(shape, np.float32) for name, shape in shapes.items()}
        device = {name: self.allocate(array.nbytes) for name, array in host.items()}
        events = (self.cuda.Event() for _ in range(3))
        return _Slot(host, device, *events, self.faster_graph(lambda: self.enqueue(device)))

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Pinned host memory, zeros.

        Raises:
            KitError: there is not enough.
        """
        try:
            return self.cuda.pagelocked_zeros(shape, dtype)
        except self.cuda.MemoryError as error:
            raise KitError(f"{self.path}: no pinned memory left for {shape} of {np.dtype(dtype)} ({error}); "
                           "take a smaller batch") from error

    def allocate(self, size: int) -> Any:
        """Memory of the GPU, in bytes.

        Raises:
            KitError: there is not enough.
        """
        try:
            return self.cuda.mem_alloc(size)
        except self.cuda.MemoryError as error:
            raise KitError(f"{self.path}: the GPU has no {size / 2**20:.0f} MiB left ({error}); free some of its "
                           "memory or take a smaller batch") from error

    def enqueue(self, tensors: Mapping[str, SupportsInt]) -> None:
        """Put one run of the network on the stream ``runs``.

        Args:
            tensors: address of the input and of each output on the GPU, by name.

        Raises:
            KitError: TensorRT refuses.
        """
        for name, memory in tensors.items():
            self._context.set_tensor_address(name, int(memory))
        if not self._context.execute_async_v3(self.runs.handle):
            raise KitError(f"{self.path}: {self.record.runtime} failed to run the engine ({self._log.last()})")

    def faster_graph(self, work: Callable[[], None]) -> Graph | None:
        """Work on the stream ``runs`` as a CUDA graph, or None where it is faster as it is or can't be recorded.

        A graph saves the host a call a kernel, which is what small batches wait for. Runs ``work`` a few times to find
        out; that is also when TensorRT loads its kernels.
        """
        self._seconds(work)
        try:
            graph = Graph(self.runs, work)
        except (RuntimeError, KitError, self.cuda.Error):  # the runtime allocates or waits for the GPU in its run
            return None
        self._graphs.add(graph)
        return graph if self._seconds(graph.launch) < self._seconds(work) else None

    def _seconds(self, work: Callable[[], None], runs: int = 20) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            work()
        self.runs.synchronize()
        return time.perf_counter() - start

    def _run(self, slot: _Slot) -> None:
        if slot.graph:
            slot.graph.launch()
        else:
            self.enqueue(slot.device)

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slot = self._slots[0]
        slot.host[self.record.input_name][...] = crops
        self._cuda_context.push()
        try:
            self._copy_and_run(slot)
            slot.downloaded.synchronize()
        finally:
            self.cuda.Context.pop()
        simcc_x, simcc_y = (slot.host[name].copy() for name in OUTPUTS)
        return simcc_x, simcc_y

    def _copy_and_run(self, slot: _Slot) -> None:
        name = self.record.input_name
        self.cuda.memcpy_htod_async(slot.device[name], slot.host[name], self.uploads)
        slot.uploaded.record(self.uploads)
        self.runs.wait_for_event(slot.uploaded)
        self._run(slot)
        slot.computed.record(self.runs)
        self.downloads.wait_for_event(slot.computed)
        for name in OUTPUTS:
            self.cuda.memcpy_dtoh_async(slot.host[name], slot.device[name], self.downloads)
        slot.downloaded.record(self.downloads)

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        for slot in self._slots:
            slot.host[self.record.input_name][...] = crops
            self._copy_and_run(slot)
            slot.downloaded.synchronize()
        first = self._slots[0]
        how = "as CUDA graphs" if first.graph else "kernel by kernel"
        return {
            f"device time by CUDA events, crops on the GPU, batches back to back {how}":
                self._intervals(self.runs, lambda i: self._run(first)).__next__,
            f"the same with host-device copies from and to pinned memory, {IN_FLIGHT} batches in flight":
                self._intervals(self.downloads, lambda i: self._copy_and_run(self._slots[i % IN_FLIGHT])).__next__,
            "end to end by the wall clock, crops and logits in ordinary memory, one batch at a time":
                wall_clock(lambda: self.infer(crops)),
        }

    def _intervals(self, stream: Any, work: Callable[[int], None]) -> Iterator[float]:
        """Milliseconds from the end of each batch to the end of the next.

        A batch always waits in line, so the GPU never waits for the host, and the mean is that of a bare loop of
        enqueued batches. Batch ``i`` begins when batch ``i - IN_FLIGHT`` has ended, so slots can be taken in turn.
        """
        before, last = self._enqueue_marked(stream, work, 0), self._enqueue_marked(stream, work, 1)
        before.synchronize()
        for i in count(2):
            newest = self._enqueue_marked(stream, work, i)
            last.synchronize()
            yield before.time_till(last)
            before, last = last, newest

    def _enqueue_marked(self, stream: Any, work: Callable[[int], None], i: int) -> Any:
        """Enqueue batch ``i``, and give the event that marks its end."""
        work(i)
        end = self.cuda.Event()
        end.record(stream)
        return end


def _close(reference: "weakref.ref[TensorRTEngine]") -> None:
    engine = reference()
    if engine is not None:
        engine.close()
