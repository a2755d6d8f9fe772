"""TensorRT and TensorRT-RTX on an NVIDIA GPU. Networks are strongly typed: the precision is that of the ONNX graph."""

import atexit
import contextlib
import importlib
import importlib.util
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
import onnx
from tqdm import tqdm

from rtmpose.engines.cuda_graph import Graph
from rtmpose.engines.record import Record
from rtmpose.environment import Gpu, find_gpu
from rtmpose.errors import KitError, first_line
from rtmpose.files import write_bytes
from rtmpose.model.graph import OUTPUTS
from rtmpose.model.int8 import Int8Scheme
from rtmpose.timing import wall_clock

# TensorRT takes signed, symmetric INT8 only. The input of a convolution is quantized where it is made, after the SiLU.
INT8_SCHEME = Int8Scheme(signed=True, outputs=False, equalized=True, rest_fp16=True)

IN_FLIGHT = 2  # batches at a time: while one is computed, the next is uploaded and the one before is downloaded
# Compute capabilities that TensorRT-RTX 1.7 lists.
_RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name
_TYPES = {"HALF": "fp16", "BF16": "bf16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


def _installed() -> list[str]:
    return [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]


def is_installed() -> bool:
    return bool(_installed())


def find_obstacle(gpu: Gpu, package: str | None = None) -> str | None:
    """The reason why engines of a package can't run on a GPU, and what to do about it; None if they can.

    ``package`` is the one that builds engines here, unless it is given.
    """
    missing = [name for name in ("pycuda", "cuda.bindings") if not _is_importable(name)]
    package = package or next(iter(_installed()), None)
    if package is None:
        missing.insert(0, "tensorrt")
    if missing:
        return f"{', '.join(missing)} not installed; run scripts/setup.sh --gpu"
    return _find_rtx_obstacle(package, gpu)


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def _find_rtx_obstacle(package: str | None, gpu: Gpu | None) -> str | None:
    if package == "tensorrt_rtx" and gpu and gpu.compute_capability not in _RTX_CAPABILITIES:
        return (f"TensorRT-RTX does not support compute capability {gpu.compute_capability}; install tensorrt "
                "(scripts/setup.sh --gpu)")
    return None


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # a package without its libraries raises either
        raise KitError(f"{name}: can't be imported ({error}); run scripts/setup.sh --gpu again") from error


def describe() -> dict[str, Any]:
    name, gpu = _installed()[0], find_gpu()
    return {"backend": "tensorrt", "package": name, "version": _import(name).__version__,
            "device": gpu.name if gpu else None, "compute_capability": gpu.compute_capability if gpu else None}


def _make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the last error for a message instead of printing it."""
    base: Any = trt.ILogger

    class Logger(base):
        last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.Severity.ERROR, base.Severity.INTERNAL_ERROR):
                self.last_error = first_line(message)

    return Logger()


def _make_progress_monitor(trt: Any) -> Any:
    """A TensorRT progress monitor: a bar for the outermost phase, with the name of the inner phase beside it."""
    base: Any = trt.IProgressMonitor

    class ProgressMonitor(base):
        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.phase, self.bar = name, tqdm(total=steps, desc=name, leave=False, disable=None)
            else:
                self.bar.set_postfix_str(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name == self.phase:
                self.bar.update()
            return True

        def phase_finish(self, name: str) -> None:
            if name == self.phase:
                self.bar.close()

    return ProgressMonitor()


def find_bf16_obstacle() -> str | None:
    gpu = find_gpu()
    if gpu and float(gpu.compute_capability) < 8:
        return f"{gpu.name} has compute capability {gpu.compute_capability}, and BF16 needs 8.0"
    return None


def build(model: onnx.ModelProto, path: Path, engine: Path, bf16: bool = False
          ) -> tuple[dict[str, int], dict[str, int]]:
    """Build an engine; TensorRT (not RTX) keeps a timing cache beside it."""
    name = _installed()[0]
    trt = _import(name)
    gpu = find_gpu()
    if name == "tensorrt" and gpu is None:
        raise KitError("--backend tensorrt: TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU "
                       "is here; use --backend onnxruntime, or install tensorrt-rtx-cu13, which builds without one")
    logger = _make_logger(trt)
    if obstacle := _find_rtx_obstacle(name, gpu):
        raise KitError(f"--backend tensorrt: {obstacle}")
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer
        raise KitError(f"{engine}: {name} {trt.__version__} does not start ({logger.last_error}); the driver speaks "
                       f"CUDA {gpu.cuda_version if gpu else 'of no version'}: install a newer driver, or the package "
                       "for that CUDA") from error
    # TensorRT 11 has no flag, because all of its networks are strongly typed.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reason = parser.get_error(0).desc() if parser.num_errors else logger.last_error
        raise KitError(f"{engine}: {name} can't parse the graph ({first_line(reason)})")
    config = make_config(trt, builder)
    monitor = _make_progress_monitor(trt)  # TensorRT doesn't keep it alive
    config.progress_monitor = monitor
    cache = engine.parent / "tensorrt.timing_cache" if name == "tensorrt" else None
    if cache:
        _use_timing_cache(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise KitError(f"{engine}: {name} can't build the engine ({logger.last_error})")
    path.write_bytes(memoryview(plan))
    if cache:
        write_bytes(cache, memoryview(config.get_timing_cache().serialize()))
    types = list(_layer_types(network, "tf32" if config.get_flag(trt.BuilderFlag.TF32) else "fp32"))
    arithmetic = Counter(kind for layer, kind in types if layer in ("CONVOLUTION", "MATRIX_MULTIPLY"))
    return dict(arithmetic), dict(Counter(kind for layer, kind in types if layer != "CONSTANT"))


def make_config(trt: Any, builder: Any) -> Any:
    """Settings of a build."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, and it rounds the operands of FP32 products to 10 bits, as FP16 does.
    config.clear_flag(trt.BuilderFlag.TF32)
    # TensorRT-RTX: a run that allocates can't be captured into a CUDA graph.
    if flag := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None):
        config.set_flag(flag)
    return config


def _use_timing_cache(config: Any, path: Path) -> None:
    """Start from the timings in a file; from none if it is missing, corrupt, or of another GPU or version."""
    kept = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
    if kept is None or not config.set_timing_cache(kept, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _layer_types(network: Any, float_type: str) -> Iterator[tuple[str, str]]:
    """Kind and type of each layer; the type is that of its output, or INT8 where its input is quantized.

    ``float_type`` is ``fp32``, or ``tf32`` where FP32 products may round their operands.
    """
    names = {**_TYPES, "FLOAT": float_type}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantized = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    for layer in layers:
        source, kind = layer.get_input(0), layer.get_output(0).dtype.name
        is_int8 = source is not None and source.name in quantized
        yield layer.type.name, "int8" if is_int8 else names.get(kind, kind.lower())


def _import_builder(path: str | Path, record: Record) -> Any:
    """The package that built an engine; raises KitError if its version or the GPU is another one here."""
    if record.package not in _installed():
        raise KitError(f"{path}: was built by {record.runtime}, which is not installed; install it or build again")
    trt = _import(record.package)
    if record.version != trt.__version__:
        raise KitError(f"{path}: was built by {record.runtime}, but {trt.__version__} is installed; build it again")
    gpu = find_gpu()
    if gpu is None:
        raise KitError(f"{path}: needs a GPU, and no NVIDIA GPU is here; build it with --backend onnxruntime")
    if record.device and (record.device, record.compute_capability) != (gpu.name, gpu.compute_capability):
        raise KitError(f"{path}: was built for {record.device} (compute capability {record.compute_capability}), "
                       f"but the GPU here is {gpu.name} ({gpu.compute_capability}); build it again")
    if obstacle := find_obstacle(gpu, record.package):
        raise KitError(f"{path}: can't run: {obstacle}")
    # pycuda takes the GPU that was described, and no other one if that fails.
    os.environ["CUDA_DEVICE"] = str(gpu.ordinal)
    return trt


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

    def __init__(self, path: str | Path, record: Record) -> None:
        trt = _import_builder(path, record)
        try:
            import pycuda.driver as cuda
            import pycuda.autoprimaryctx  # makes the context that TensorRT shares  # isort: skip
        except ImportError as error:  # a library of theirs is missing, or the driver is too old for it
            raise KitError(f"{path}: pycuda can't be imported ({error}); run scripts/setup.sh --gpu") from error
        except (RuntimeError, cuda.Error) as error:
            raise KitError(f"{path}: the GPU can't be used ({error}); check the driver, and its free memory") from error
        self.path, self.record = str(path), record
        self.cuda, self._cuda_context, self._logger = cuda, pycuda.autoprimaryctx.context, _make_logger(trt)
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
        self._slots += [self._make_slot() for _ in range(IN_FLIGHT)]
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

    def _make_slot(self) -> Slot:
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


load = TensorRTEngine
