"""Stand-in for TensorRT's Python package: an "engine" is an ONNX file that ONNX Runtime runs in its stream's turn.

Only what the kit calls is here. Environment variables (see README.md) make it fail where TensorRT can fail.
"""

import ctypes
import enum
import math
import os
import runpy
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

__version__ = os.environ.get("SOFTGPU_TENSORRT_VERSION", "10.16.1.11")

_cuda = ctypes.CDLL("libcuda.so.1")
_cuda.softgpuHost.restype = ctypes.c_void_p
_cuda.softgpuHost.argtypes = [ctypes.c_ulong]


def _tell(severity: "ILogger.Severity", message: str) -> None:
    assert ILogger._first
    ILogger._first.log(severity, message)


def _fails(step: str) -> bool:
    """Whether SOFTGPU_FAIL_BUILD wants a step to fail."""
    fails = os.environ.get("SOFTGPU_FAIL_BUILD") == step
    if fails:
        _tell(ILogger.Severity.ERROR, "made up")
    return fails


class ILogger:
    """Base of the program's logger. The first of a process gets all messages."""

    _first: "ILogger | None" = None

    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        VERBOSE = 4

    def __init__(self) -> None:
        ILogger._first = ILogger._first or self

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 6


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0


class LayerType(enum.Enum):
    """Those that the kit tells apart, and one for all others."""

    CONVOLUTION = 0
    ELEMENTWISE = 5
    CONSTANT = 19
    MATRIX_MULTIPLY = 15
    QUANTIZE = 44
    DEQUANTIZE = 45


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    BF16 = 7
    INT64 = 8


class _Tensor(NamedTuple):
    name: str
    dtype: DataType
    shape: list[int]


class _Layer:
    _KINDS = {"Conv": LayerType.CONVOLUTION, "MatMul": LayerType.MATRIX_MULTIPLY, "Constant": LayerType.CONSTANT,
              "DequantizeLinear": LayerType.DEQUANTIZE, "QuantizeLinear": LayerType.QUANTIZE}

    _TYPES = {TensorProto.UNDEFINED: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16"}

    def __init__(self, node: onnx.NodeProto, types: dict[str, tuple[int, list[int]]]) -> None:
        self.name, self.type = node.name, self._KINDS.get(node.op_type, LayerType.ELEMENTWISE)
        self._inputs, self._outputs = ([_Tensor(name, self._type(types[name][0]), types[name][1]) for name in names
                                        if name in types] for names in (node.input, node.output))

    def _type(self, kind: int) -> DataType:
        return DataType[self._TYPES.get(kind) or TensorProto.DataType.Name(kind)]

    def _describe(self, quantized: dict[str, _Tensor]) -> str:
        """As TensorRT 10's inspector does, with other tensors in the place of some inputs."""
        inputs, outputs = (", ".join(
            f"{{ Name: {name}, Dimensions: {str(shape).replace(' ', '')}, Format/Datatype: {kind.name} }}"
            for name, kind, shape in (quantized.get(tensor.name, tensor) for tensor in tensors))
            for tensors in (self._inputs, self._outputs))
        return (f"Name: {self.name}, LayerType: {self.type.name}, Inputs: [ {inputs}], Outputs: [ {outputs}], "
                f"StreamId: 0, Metadata: [ONNX Layer: {self.name}]")

    def get_input(self, index: int) -> _Tensor | None:
        return self._inputs[index] if index < len(self._inputs) else None

    def get_output(self, index: int) -> _Tensor:
        return self._outputs[index]


class _Network:
    def __init__(self) -> None:
        self.content = b""
        self.layers: list[_Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> _Layer:
        return self.layers[index]


class _ParserError:
    def __str__(self) -> str:
        return "In node 5 with name: made up and operator: Bernoulli (checkBernoulli): UNSUPPORTED_NODE: false"


class OnnxParser:
    num_errors = 0

    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network = network

    def get_error(self, index: int) -> _ParserError:
        return _ParserError()

    def parse(self, model: bytes) -> bool:
        self.num_errors = int(_fails("node"))
        if self.num_errors or _fails("parse"):
            return False
        self._network.content, self._network.layers = model, _read_layers(onnx.load_from_string(model))
        return True


def _read_layers(model: onnx.ModelProto) -> list[_Layer]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: (value.type.tensor_type.elem_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
             for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: (tensor.data_type, [*tensor.dims]) for tensor in graph.initializer}
    return [_Layer(node, types) for node in graph.node]


class _Config:
    builder_optimization_level = 3
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def clear_flag(self, flag: BuilderFlag) -> None:
        """ONNX Runtime rounds no operands."""


class Builder:
    _builds = 0

    def __init__(self, logger: ILogger) -> None:
        version = ctypes.c_int()
        _cuda.cuDriverGetVersion(ctypes.byref(version))
        if version.value < 12000:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> _Network:
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: Any) -> bytes | None:
        if _fails("build"):
            return None
        if os.environ.get("SOFTGPU_FAIL_BUILD") == "warn":
            for message in ("made up", "made up", "the same"):
                _tell(ILogger.Severity.WARNING, message)
        _tell(ILogger.Severity.VERBOSE, "Layers:\n" + "\n".join(layer._describe({}) for layer in network.layers))
        device, model = ctypes.c_int(), onnx.load_from_string(network.content)
        _cuda.cuCtxGetDevice(ctypes.byref(device))  # the first where none is current
        Builder._builds += 1
        longer = dict(enumerate(os.environ.get("SOFTGPU_BUILDS_MS", "0").split(","), 1))
        onnx.helper.set_model_props(model, {
            "built on device": str(device.value), "verbosity": config.profiling_verbosity.name,
            "level": str(config.builder_optimization_level),
            "milliseconds": longer.get(Builder._builds, "0")})
        return model.SerializeToString()


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        """TensorRT's first logger gets all messages."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "_Engine | None":
        context = ctypes.c_void_p()
        _cuda.cuCtxGetCurrent(ctypes.byref(context))
        if not context.value:
            _tell(ILogger.Severity.ERROR, "no CUDA context")
            return None
        if _fails("load"):
            return None
        device = ctypes.c_int()
        _cuda.cuCtxGetDevice(ctypes.byref(device))
        _cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)  # the CUDA runtime in TensorRT keeps it
        return _Engine(serialized_engine)


class _RuntimeCache:
    """TensorRT-RTX's; its content is a mark for each process that has used it."""

    _content = b""

    def deserialize(self, blob: bytes) -> None:
        self._content = blob

    def serialize(self) -> bytes:
        return self._content + b"+"


class _RuntimeConfig:
    """TensorRT-RTX's."""

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: _RuntimeCache) -> None:
        self.cache = cache


class _Engine:
    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        model = onnx.load_from_string(content)
        self.milliseconds = int({entry.key: entry.value for entry in model.metadata_props}["milliseconds"])
        graph, self._content = model.graph, content
        if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in graph.initializer):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            model = _round_like_gpu(model)
        _quantize_in_fp32(model)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                                    providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = (
            {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
            for values in (graph.input, graph.output))  # shapes; all are FP32

    def create_engine_inspector(self) -> "_Inspector":
        return _Inspector(self._content)

    @staticmethod
    def create_runtime_config() -> "_RuntimeConfig":
        return _RuntimeConfig()

    def create_execution_context(self, runtime_config: "_RuntimeConfig | None" = None) -> "_Context | None":
        scratch = ctypes.c_ulong()
        if _cuda.cuMemAlloc_v2(ctypes.byref(scratch), ctypes.c_size_t(4096)):
            _tell(ILogger.Severity.ERROR, "Cuda Runtime (out of memory)")
            return None
        return _Context(self, scratch.value)


class _Inspector:
    """Only the conversions from INT8 are fused: what reads one reads INT8."""

    def __init__(self, content: bytes) -> None:
        self._model = onnx.load_from_string(content)

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002  TensorRT's name
        layers = _read_layers(self._model)
        if {entry.key: entry.value for entry in self._model.metadata_props}["verbosity"] != "DETAILED":
            return "\n".join(layer.name for layer in layers)
        quantized = {layer.get_output(0).name: layer.get_input(0)
                     for layer in layers if layer.type.name == "DEQUANTIZE"}
        return "\n".join(layer._describe(quantized) for layer in layers if layer.get_output(0).name not in quantized)


def _round_like_gpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime has no BF16 on the CPU: FP32 with rounded results, which its optimisations would undo."""
    path = Path(__file__).resolve().parents[4] / "benchmarks/emulation.py"
    return runpy.run_path(str(path))["round_like_gpu"](model)


def _quantize_in_fp32(model: onnx.ModelProto) -> None:
    """ONNX Runtime's QuantizeLinear truncates FP16 input on the CPU, where TensorRT rounds: give it FP32 input."""
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "QuantizeLinear":
            for i in range(2):  # the tensor and its scale
                copy.input[i] = f"{node.output[0]}_fp32_{i}"
                nodes.append(onnx.helper.make_node("Cast", [node.input[i]], [copy.input[i]], to=TensorProto.FLOAT))
        nodes.append(copy)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


_jobs: list[tuple[_Engine, dict[str, int]]] = []
_lock = threading.Lock()


@ctypes.CFUNCTYPE(None, ctypes.c_long)
def _run_job(number: int) -> None:
    """The work of one enqueued run, called by the driver in its stream's turn."""
    engine, addresses = _jobs[number]

    def tensor(name: str) -> np.ndarray:
        pointer = ctypes.cast(_cuda.softgpuHost(addresses[name]), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (engine.inputs | engine.outputs)[name])

    try:
        time.sleep(engine.milliseconds / 1e3)
        if os.environ.get("SOFTGPU_NETWORK") == "zeros":
            results = [0] * len(engine.outputs)
        else:
            results = engine.session.run(list(engine.outputs), {name: tensor(name) for name in engine.inputs})
        for name, result in zip(engine.outputs, results, strict=True):
            tensor(name)[...] = result
    except BaseException as error:  # it can't be raised in a thread of the driver
        print(f"SOFTGPU: the network failed: {error!r}"[:300], flush=True)


class _Context:
    nvtx_verbosity = ProfilingVerbosity.DETAILED
    _runs = 0

    def __init__(self, engine: _Engine, scratch: int) -> None:
        self._engine, self._scratch = engine, scratch
        self._addresses: dict[str, int] = {}

    def __del__(self) -> None:
        _cuda.cuMemFree_v2(ctypes.c_ulong(self._scratch))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not isinstance(memory, int):
            raise TypeError(f"set_tensor_address: {memory!r}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = ctypes.c_void_p(stream_handle)
        _Context._runs += 1
        time.sleep(float(os.environ.get("SOFTGPU_ENQUEUE_MS", 0)) / 1e3)
        if set(self._addresses) != {*self._engine.inputs, *self._engine.outputs}:
            return self._fail("Address is not set")
        if _Context._runs == int(os.environ.get("SOFTGPU_FAIL_ENQUEUE", 0)):
            return self._fail("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (made up)")
        if not self._may_be_captured(stream):
            return self._fail("Cuda Runtime (operation not permitted when stream is capturing)")
        with _lock:
            job = len(_jobs)
            _jobs.append((self._engine, dict(self._addresses)))
        arrays: list[Any] = []
        for tensors in (self._engine.inputs, self._engine.outputs):
            sizes = [4 * math.prod(shape) for shape in tensors.values()]
            arrays += [(ctypes.c_ulong * len(tensors))(*(self._addresses[name] for name in tensors)),
                       (ctypes.c_size_t * len(tensors))(*sizes), len(tensors)]
        return _cuda.softgpuLaunchNetwork(stream, _run_job, ctypes.c_long(job), ctypes.c_ulong(self._scratch),
                                          *arrays) == 0

    def _fail(self, message: str) -> bool:
        _tell(ILogger.Severity.ERROR, message)
        return False

    @staticmethod
    def _may_be_captured(stream: ctypes.c_void_p) -> bool:
        """False where stream capture is on and TensorRT refuses it; SOFTGPU_CAPTURE=spoil spoils it without a word."""
        capturing, wanted = ctypes.c_int(), os.environ.get("SOFTGPU_CAPTURE")
        _cuda.cuStreamIsCapturing(stream, ctypes.byref(capturing))
        if not capturing.value or wanted not in ("refuse", "spoil"):
            return True
        _cuda.cuStreamSynchronize(stream)
        return wanted == "spoil"
