"""ONNX Runtime on the CPU: an engine is the graph as ONNX Runtime optimized it for this processor and batch size."""

import os
import tempfile
from pathlib import Path

import onnx

from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.machine.cpu import cpu_name
from rtmpose.model.graph import OUTPUTS, count_types, open_session
from rtmpose.model.int8.quantize import Int8Scheme

# Its INT8 convolution has INT8 inputs and outputs; on x86 it is fast with unsigned activations only. Equalized channels
# cost a fifth of the speed, because it doesn't fuse their multiplications, and bring no AP.
INT8_SCHEME = Int8Scheme(signed=False, outputs=True, equalized=False, rest_fp16=False)


def describe() -> list[Target]:
    if not is_installed("onnxruntime"):
        return []
    return [Target("onnxruntime", package_version("onnxruntime"), "cpu", cpu_name())]


def find_bf16_obstacle(device: str) -> str:
    return "ONNX Runtime has no BF16 on CPUs"


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Optimize a graph. Types are counted in the result: FP16 becomes FP32, for which alone the CPU has kernels."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        options.optimized_model_filepath = os.fsencode(f"{folder}/optimized")  # as text it would have to be valid UTF-8
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        content = Path(folder, "optimized").read_bytes()
    open_session(content)  # it refuses some graphs that it wrote itself
    optimized = onnx.load_from_string(content)
    return [Compiled(content, *count_types(optimized))]


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    session = open_session(content)
    return RuntimeEngine("ONNX Runtime", path, record, lambda crops: session.run(OUTPUTS, {record.input_name: crops}))
