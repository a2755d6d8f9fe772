"""OpenVINO: an engine is the graph as OpenVINO compiled it for a device, e.g. this processor, and a batch size."""

from collections import Counter, deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx

from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.machine.cpu import cpu_flags, cpu_name
from rtmpose.model.graph import OUTPUTS, PRODUCTS
from rtmpose.model.int8.quantize import Int8Scheme

# Unsigned, because OpenVINO computes signed activations wrong: the keypoints are far off those of the graph.
INT8_SCHEME = Int8Scheme(signed=False, outputs=False, equalized=True, rest_fp16=False)

_TYPES = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8", "i32": "int32", "i64": "int64",
          "dynamic": "not told"}
_PRODUCTS = ("Convolution", "FullyConnected", *PRODUCTS)
_NO_LAYERS = ("Const", "Constant", "Input", "Output", "Result")


def describe() -> list[Target]:
    if not is_installed("openvino"):
        return []
    version = package_version("openvino")
    core, targets = get_core(), []
    for name in sorted(core.available_devices, key=lambda name: name != "CPU"):
        full_name = cpu_name() if name == "CPU" else core.get_property(name, "FULL_DEVICE_NAME")
        drivers = [core.get_property(name, key) for key in core.get_property(name, "SUPPORTED_PROPERTIES")
                   if key.endswith("DRIVER_VERSION")]
        targets.append(Target("openvino", version, name.lower(), full_name, str(drivers[0]) if drivers else None))
    return targets


@cache
def get_core() -> Any:
    """The process's only ``openvino.Core``: each sets its thread's stack for signal handlers, and frees it in the end.
    Of two that overlap, a freed one would stay set, and the next signal with a handler would end the process."""
    import openvino
    return openvino.Core()


def find_precision_obstacle(device: str, precision: str) -> str | None:
    """BF16 without AVX512-BF16 or AMX would be emulated, or be FP32."""
    if precision != "bf16":
        return None
    if device != "cpu":
        return f"OpenVINO has no BF16 on {device}"
    flags = cpu_flags()
    if {"avx512_bf16", "amx_bf16"}.intersection(flags):
        return None
    found = ", ".join(flag for flag in flags if flag.startswith(("avx", "amx"))) or "neither AVX nor AMX"
    return f"OpenVINO needs AVX512-BF16 or AMX for it, and {cpu_name()} has {found}"


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Compile a graph; beside INT8, what is FP32 is compiled in BF16 as well where the processor can."""
    compiled = [_compile(model, facts, bf16=False)]
    if "int8" in compiled[0].arithmetic and find_precision_obstacle(facts.device, "bf16") is None:
        compiled.append(_compile(model, facts, bf16=True))
    return compiled


def _compile(model: onnx.ModelProto, facts: Facts, bf16: bool) -> Compiled:
    core = get_core()
    config = make_config(facts.device, facts.requested_precision, facts.hint, bf16)
    compiled = core.compile_model(core.read_model(model.SerializeToString()), facts.device.upper(), config)
    return Compiled(compiled.export_model().getvalue(), *count_types(compiled, model))


def make_config(device: str, precision: str, hint: str = "latency", bf16: bool = False) -> dict[str, str]:
    """Settings for a device and a requested precision, the same for compiling and loading.

    By default OpenVINO computes FP32 in BF16 on a processor that can, and in FP16 on a GPU. On a processor it keeps a
    graph's BF16 with both settings, and has FP32 for FP16. An NPU has FP16 alone.
    """
    config = {"PERFORMANCE_HINT": hint.upper()}
    if device.startswith("npu"):
        return config
    half = "bf16" if bf16 else "f16" if device.startswith("gpu") and precision != "fp32" else None
    return {**config, "INFERENCE_PRECISION_HINT": half or "f32"}


def count_types(compiled: Any, model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Number of convolutions and matrix products, and of all layers, by the type of OpenVINO's kernels for them.

    A device that doesn't tell them tells perhaps the type that it computes in: then that is the type of the graph's.
    """
    try:
        infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        layers = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    except RuntimeError:  # the device doesn't tell what runs; what a layer doesn't tell is empty
        layers = []
    types = [(layer, _TYPES.get(kind, kind)) for layer, kind in layers if kind and layer not in _NO_LAYERS]
    if not any(layer in _PRODUCTS for layer, _ in types):
        told = "INFERENCE_PRECISION_HINT" in compiled.get_property("SUPPORTED_PROPERTIES")
        kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() if told else "not told"
        types = [(node.op_type, _TYPES.get(kind, kind)) for node in model.graph.node]
    return (dict(Counter(kind for layer, kind in types if layer in _PRODUCTS)),
            dict(Counter(kind for _, kind in types)))


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    beside_int8 = record.requested_precision == "int8" and "bf16" in record.arithmetic
    config = make_config(record.device, record.requested_precision, record.hint, beside_int8)
    compiled = get_core().import_model(content, record.device.upper(), config)
    request = compiled.create_infer_request()

    def run(crops: np.ndarray) -> list[np.ndarray]:
        request.infer({record.input_name: crops}, share_inputs=True)
        return [request.get_tensor(name).data.copy() for name in OUTPUTS]

    def timers(crops: np.ndarray) -> dict[str, Callable[[], float]]:
        if record.hint == "latency":
            return {}
        streams = Streams(compiled, crops)
        return {f"throughput hint, {streams.depth} batches in flight, crops in memory": streams}

    return RuntimeEngine("OpenVINO", path, record, run, timers)


class Streams:
    """A timer that keeps as many batches in flight as a compiled model takes; see :func:`rtmpose.timing.finish`."""

    def __init__(self, compiled: Any, crops: np.ndarray) -> None:
        import openvino
        self._queue = openvino.AsyncInferQueue(compiled)
        self.depth = len(self._queue)
        self._ends: deque[float] = deque(maxlen=self.depth + 1)  # seconds
        self._latencies: list[float] = []  # milliseconds
        self._crops = openvino.Tensor(crops, shared_memory=True)
        for request in self._queue:
            request.set_input_tensor(self._crops)

    def __call__(self) -> float:
        """Wait for a batch and start the next. Returns milliseconds a batch over the last ``depth`` batches, because
        streams that started together end together."""
        waits = 1
        if not self._ends:
            self._ends.append(perf_counter())
            for _ in range(waits := self.depth):
                self._queue.start_async()
        for _ in range(waits):
            request = self._queue[self._queue.get_idle_request_id()]  # that of the batch which ends next
            self._latencies.append(request.latency)
            self._logits = [request.get_tensor(name).data.copy() for name in OUTPUTS]
            self._queue.start_async()
            self._ends.append(perf_counter())
        return (self._ends[-1] - self._ends[0]) / self.depth * 1e3

    def finish(self) -> dict[str, list[float]]:
        """Wait for the batches in flight. Returns the milliseconds of each batch that a call waited for."""
        self._queue.wait_all()
        latencies, self._latencies = self._latencies, []
        self._ends.clear()
        return {"request_latency_ms": latencies}
