"""TensorRT and TensorRT-RTX on an NVIDIA GPU. Networks are strongly typed: the precision is that of the ONNX graph."""

import importlib
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from tqdm import tqdm

from rtmpose.engines.record import Record
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.errors import KitError, first_line
from rtmpose.files import write_bytes
from rtmpose.machine.gpu import RTX_CAPABILITIES, Gpu, find_gpu
from rtmpose.model.int8.quantize import Int8Scheme

# TensorRT takes signed, symmetric INT8 only. The input of a convolution is quantized where it is made, after the SiLU.
INT8_SCHEME = Int8Scheme(signed=True, outputs=False, equalized=True, rest_fp16=True)

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
    if package == "tensorrt_rtx" and gpu and gpu.compute_capability not in RTX_CAPABILITIES:
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


def load(path: str | Path, record: Record) -> TensorRTEngine:
    """Load an engine with the package that built it."""
    trt = _import_builder(path, record)
    return TensorRTEngine(path, record, trt, _make_logger(trt))
