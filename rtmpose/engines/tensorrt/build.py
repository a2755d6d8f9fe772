"""Graph -> engine of TensorRT or TensorRT-RTX."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from rtmpose.engines.record import Facts, Target
from rtmpose.engines.runtime import Compiled, import_package, is_installed, package_version
from rtmpose.engines.tensorrt.layers import read_kernels, summarize
from rtmpose.errors import KitError, first_line
from rtmpose.machine.gpu import RTX_CAPABILITIES, Gpu, find_gpu
from rtmpose.model.int8.quantize import Int8Scheme

PACKAGES = ["tensorrt", "tensorrt_rtx"]  # engines are built with the first that is installed
# TensorRT takes signed, symmetric INT8 only. The input of a convolution is quantized where it is made, after the SiLU.
INT8_SCHEME = Int8Scheme(signed=True, outputs=False, equalized=True, rest_fp16=True)

_TYPES = {"FLOAT": "fp32", "HALF": "fp16"}  # the others are named as here


def describe() -> list[Target]:
    gpu = find_gpu()
    return [Target(package, package_version(package), "cuda", gpu.name if gpu else None,
                   f"for CUDA {gpu.cuda_version}" if gpu else None, gpu.compute_capability if gpu else None)
            for package in PACKAGES if is_installed(package)]


def _first_installed() -> str:
    """The package that builds engines here; the first of all if none is installed."""
    return next(filter(is_installed, PACKAGES), PACKAGES[0])


def find_obstacle(gpu: Gpu, package: str | None = None) -> str | None:
    """The reason why engines of a package can't run on a GPU, and what to do about it; None if they can.

    ``package`` is the one that builds engines here, unless it is given.
    """
    package = package or _first_installed()
    missing = [name for name in (package, "pycuda", "cuda.bindings") if not is_installed(name)]
    if missing:
        return f"{', '.join(missing)} not installed; run scripts/setup.sh --gpu"
    if package == "tensorrt_rtx" and gpu.compute_capability not in RTX_CAPABILITIES:
        return (f"TensorRT-RTX does not support compute capability {gpu.compute_capability}; install tensorrt "
                "(scripts/setup.sh --gpu)")
    return None


def find_precision_obstacle(device: str, precision: str) -> str | None:
    gpu = find_gpu()
    if precision == "int8" and _first_installed() == "tensorrt_rtx":
        return "TensorRT-RTX fuses nothing into INT8 convolutions, which makes INT8 slower than FP16"
    if precision == "bf16" and gpu and float(gpu.compute_capability) < 8:
        return f"{gpu.name} has compute capability {gpu.compute_capability}, and BF16 needs 8.0"
    return None


def open_context(gpu: Gpu, path: str | Path) -> tuple[Any, Any]:
    """pycuda's driver module, and the primary context of the GPU, which is current now and which TensorRT shares.

    A process uses one GPU: TensorRT 10.14 to 10.16 fail where a second one builds. Raises KitError if it can't be used.
    """
    os.environ["CUDA_DEVICE"] = str(gpu.ordinal)  # pycuda takes this GPU, and no other one if that fails
    try:
        import pycuda.driver as cuda
        import pycuda.autoprimaryctx as primary  # isort: skip
    except ImportError as error:  # a library of theirs is missing, or the driver is too old for it
        raise KitError(f"{path}: pycuda can't be imported ({error}); run scripts/setup.sh --gpu") from error
    except (RuntimeError, cuda.Error) as error:
        raise KitError(f"{path}: the GPU can't be used ({error}); check the driver, and its free memory") from error
    return cuda, primary.context


@cache
def get_logger(trt: Any) -> Any:
    """The process's logger of TensorRT, which keeps messages for ours instead of printing them.

    There is one, because TensorRT goes on with the first that it gets.
    """
    base: Any = trt.ILogger

    class Logger(base):
        def __init__(self) -> None:
            base.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.last_error = "no reason given"
            self.warnings: list[str] = []
            self.layers = ""  # of the engine, as TensorRT-RTX tells them after a build

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.Severity.ERROR, base.Severity.INTERNAL_ERROR):
                self.last_error = first_line(message)
            elif severity == base.Severity.WARNING:
                self.warnings.append(first_line(message))
            elif message.startswith("Layers:"):
                self.layers = message

    return Logger()


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Build an engine. Raises RuntimeError with TensorRT's reason if it refuses the graph."""
    package, gpu = facts.package, find_gpu()
    trt = import_package(package)
    if package == "tensorrt" and gpu is None:
        raise KitError("--backend tensorrt: TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU "
                       "is here; use --backend onnxruntime, or install tensorrt-rtx-cu13, which builds without one")
    if gpu:
        if obstacle := find_obstacle(gpu):
            raise KitError(f"--backend tensorrt: {obstacle}")
        open_context(gpu, path)  # TensorRT builds on the GPU that is current
    logger = get_logger(trt)
    logger.clear()
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer
        raise KitError(f"{path}: {package} {trt.__version__} does not start ({logger.last_error}); the driver speaks "
                       f"CUDA {gpu.cuda_version if gpu else 'of no version'}: install a newer driver, or the package "
                       "for that CUDA") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reason = parser.get_error(0) if parser.num_errors else logger.last_error
        raise RuntimeError(f"can't parse the graph: {first_line(reason)}")
    contents = [builder.build_serialized_network(network, make_config(trt, builder, facts.optimization_level))
                for _ in range(facts.builds)]
    if None in contents:
        raise RuntimeError(logger.last_error)
    warnings = [*dict.fromkeys(logger.warnings)]
    more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
    note = f"{package} warns: {warnings[0]}{more}" if warnings else ""
    products = _read_products(network)
    found = [summarize(read_kernels(_describe_layers(trt, content)), products) for content in contents]
    return [Compiled(bytes(memoryview(content)), arithmetic, layers, kernels=kernels, note=note)
            for content, (arithmetic, layers, kernels) in zip(contents, found, strict=True)]


def make_config(trt: Any, builder: Any, optimization_level: int | None = None) -> Any:
    """Settings of a build, whose timings of kernels no other build sees."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector tells types
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    # On by default, and it rounds the operands of FP32 products to 10 bits, as FP16 does.
    config.clear_flag(trt.BuilderFlag.TF32)
    # TensorRT-RTX: a run that allocates can't be captured into a CUDA graph.
    if flag := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None):
        config.set_flag(flag)
    return config


def _describe_layers(trt: Any, content: Any) -> str:
    """The layers of an engine that was built just now, or nothing; see :mod:`rtmpose.engines.tensorrt.layers`."""
    if trt.__name__ == "tensorrt_rtx":
        return get_logger(trt).layers
    runtime = trt.Runtime(get_logger(trt))
    engine = runtime.deserialize_cuda_engine(content)
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.ONELINE) if engine else ""


def _read_products(network: Any) -> dict[str, str]:
    """Types of convolutions and matrix products by name: that of the output, or INT8 where the input is quantized."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantized = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    return {layer.name: "int8" if layer.get_input(0).name in quantized else _TYPES.get(kind, kind.lower())
            for layer in layers for kind in [layer.get_output(0).dtype.name]
            if layer.type.name in ("CONVOLUTION", "MATRIX_MULTIPLY")}
