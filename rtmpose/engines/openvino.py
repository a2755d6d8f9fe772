"""OpenVINO on the CPU: an engine is the graph as OpenVINO compiled it for this processor and batch size."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.machine.cpu import cpu_flags, cpu_name
from rtmpose.model.graph import OUTPUTS
from rtmpose.model.int8.quantize import Int8Scheme

# Unsigned, because OpenVINO computes signed activations wrong: the keypoints are far off those of the graph.
INT8_SCHEME = Int8Scheme(signed=False, outputs=False, equalized=True, rest_fp16=False)

_TYPES = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8", "i32": "int32", "i64": "int64"}


def describe() -> list[Target]:
    return [Target("openvino", package_version("openvino"), "cpu", cpu_name())] if is_installed("openvino") else []


def find_bf16_obstacle(device: str) -> str | None:
    """BF16 without AVX512-BF16 or AMX would be emulated, or be FP32."""
    flags = cpu_flags()
    if {"avx512_bf16", "amx_bf16"}.intersection(flags):
        return None
    found = ", ".join(flag for flag in flags if flag.startswith(("avx", "amx"))) or "neither AVX nor AMX"
    return f"OpenVINO needs AVX512-BF16 or AMX for it, and {cpu_name()} has {found}"


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Compile a graph; beside INT8, what is FP32 is compiled in BF16 as well where the processor can."""
    compiled = [_compile(model, bf16=False)]
    if "int8" in compiled[0].arithmetic and find_bf16_obstacle(facts.device) is None:
        compiled.append(_compile(model, bf16=True))
    return compiled


def _compile(model: onnx.ModelProto, bf16: bool) -> Compiled:
    """Compile a graph; types are those of OpenVINO's kernels."""
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", _config(bf16))
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    types = [(layer, _TYPES.get(kind, kind)) for layer, kind in layers]
    arithmetic = Counter(kind for layer, kind in types if layer in ("Convolution", "FullyConnected", "MatMul"))
    return Compiled(compiled.export_model().getvalue(), dict(arithmetic),
                    dict(Counter(kind for layer, kind in types if layer not in ("Const", "Input", "Output"))))


def _config(bf16: bool) -> dict[str, str]:
    """Settings; by default OpenVINO computes FP32 in BF16 where the processor can. It keeps a graph's BF16 with both.
    """
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    import openvino
    beside_int8 = record.requested_precision == "int8" and "bf16" in record.arithmetic
    request = openvino.Core().import_model(content, "CPU", _config(beside_int8)).create_infer_request()

    def run(crops: np.ndarray) -> list[np.ndarray]:
        request.infer({record.input_name: crops}, share_inputs=True)
        return [request.get_tensor(name).data.copy() for name in OUTPUTS]

    return RuntimeEngine("OpenVINO", path, record, run)
