"""TensorRT and TensorRT-RTX on an NVIDIA GPU, through one code path.

Networks are strongly typed: precision is what the ONNX graph says, in TensorRT 10 and 11 and in TensorRT-RTX alike.
TensorRT-RTX builds without a GPU; TensorRT, and running an engine of either, needs one.
"""

import importlib
import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from tqdm import tqdm

from rtmpose.engines.record import Record
from rtmpose.errors import KitError
from rtmpose.files import write_bytes
from rtmpose.graph import OUTPUTS
from rtmpose.machine import find_gpu
from rtmpose.quantization import Form

PACKAGES = "tensorrt or tensorrt_rtx"

INT8_FORM = Form(signed=True, outputs=False, half=True)
"""TensorRT takes signed, symmetric INT8 only. It quantises where a convolution's input is made, after the SiLU."""

_MODULES = ("tensorrt", "tensorrt_rtx")
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


class TensorRTEngine:
    """An engine on the GPU, with pinned host buffers and one stream (see :class:`rtmpose.engines.Engine`)."""

    def __init__(self, trt: ModuleType, path: str | Path, record: Record) -> None:
        try:
            import pycuda.autoprimaryctx  # noqa: F401  makes the context that TensorRT shares
            import pycuda.driver as cuda
        except ImportError as error:
            raise KitError(f"{path}: needs pycuda to run ({error}); run scripts/setup.sh --gpu") from error
        self.path, self.record = str(path), record
        self._cuda, self._log = cuda, _logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self._engine is None:
            raise KitError(f"{path}: {record.runtime} can't load it ({self._log.last()}); build it again")
        self._context = self._engine.create_execution_context()
        self._stream = cuda.Stream()
        names = (record.input_name, *OUTPUTS)
        for name in names:
            if self._engine.get_tensor_dtype(name) != trt.float32:
                raise KitError(f"{path}: its tensor {name} is no FP32; build it again")
        self._host = {name: cuda.pagelocked_empty(tuple(self._engine.get_tensor_shape(name)), np.float32)
                      for name in names}
        self._device = {name: cuda.mem_alloc(array.nbytes) for name, array in self._host.items()}
        for name, memory in self._device.items():
            self._context.set_tensor_address(name, int(memory))

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._host[self.record.input_name][...] = crops
        self._copy_and_run()
        self._stream.synchronize()
        simcc_x, simcc_y = (self._host[name].copy() for name in OUTPUTS)
        return simcc_x, simcc_y

    def _copy_in(self) -> None:
        name = self.record.input_name
        self._cuda.memcpy_htod_async(self._device[name], self._host[name], self._stream)

    def _run(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise KitError(f"{self.record.runtime} failed to run the engine ({self._log.last()})")

    def _copy_and_run(self) -> None:
        self._copy_in()
        self._run()
        for name in OUTPUTS:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        self._host[self.record.input_name][...] = crops
        self._copy_in()
        self._stream.synchronize()
        return {
            "device time by CUDA events, crops on the GPU": lambda: self._time(self._run),
            "the same with host-device copies from and to pinned memory": lambda: self._time(self._copy_and_run),
        }

    def _time(self, work: Callable[[], None]) -> float:
        start, end = self._cuda.Event(), self._cuda.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return start.time_till(end)
