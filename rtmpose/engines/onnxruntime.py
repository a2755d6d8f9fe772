"""ONNX Runtime on the CPU: an engine is the graph as ONNX Runtime optimized it for this processor and batch size."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rtmpose.engines.record import Record, check_built_here
from rtmpose.errors import KitError, first_line
from rtmpose.machine.cpu import count_cores, cpu_name
from rtmpose.model.graph import OUTPUTS, count_arithmetic, count_layers
from rtmpose.model.int8.quantize import Int8Scheme
from rtmpose.timing import wall_clock

# Its INT8 convolution has INT8 inputs and outputs; on x86 it is fast with unsigned activations only. Equalized channels
# cost a fifth of the speed, because it doesn't fuse their multiplications, and bring no AP.
INT8_SCHEME = Int8Scheme(signed=False, outputs=True, equalized=False, rest_fp16=False)


def is_installed() -> bool:
    return importlib.util.find_spec("onnxruntime") is not None


def describe() -> dict[str, Any]:
    import onnxruntime
    return {"backend": "onnxruntime", "package": "onnxruntime", "version": onnxruntime.__version__,
            "device": cpu_name(), "compute_capability": None}


def find_bf16_obstacle() -> str:
    return "ONNX Runtime has no BF16 on CPUs"


def build(model: onnx.ModelProto, path: Path, engine: Path, bf16: bool = False
          ) -> tuple[dict[str, int], dict[str, int]]:
    """Optimize a graph. Types are counted in the result: FP16 becomes FP32, for which alone the CPU has kernels."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = os.fsencode(path)  # as text it would have to be valid UTF-8
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        _open(path)  # it refuses some graphs that it wrote itself
        optimized = onnx.load(path)
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise KitError(f"{engine}: ONNX Runtime can't build or write it ({first_line(error)}); "
                       "check the graph, and the space left in the engine's folder") from error
    return count_arithmetic(optimized), count_layers(optimized)


def _open(path: str | Path) -> Any:
    """A session on a graph that was optimized when it was built."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if count_cores() < (os.cpu_count() or 1):  # by default it takes the cores of the machine, whoever may use them
        options.intra_op_num_threads = count_cores()
    return onnxruntime.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])


class OnnxRuntimeEngine:
    """An :class:`rtmpose.engines.Engine` of ONNX Runtime."""

    def __init__(self, path: str | Path, record: Record) -> None:
        check_built_here(path, record, describe(), "ONNX Runtime")
        self.path, self.record = str(path), record
        try:
            self._session = _open(path)
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise KitError(f"{path}: ONNX Runtime can't load it ({first_line(error)}); build it again") from error

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            simcc_x, simcc_y = self._session.run(OUTPUTS, {self.record.input_name: crops})
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise KitError(f"{self.path}: ONNX Runtime can't run it ({first_line(error)}); build it again") from error
        return simcc_x, simcc_y

    def close(self) -> None:
        self._session = None

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        return {"wall clock of ONNX Runtime on the CPU, crops in memory": wall_clock(lambda: self.infer(crops))}


load = OnnxRuntimeEngine
