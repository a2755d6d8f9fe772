"""ONNX Runtime on the CPU: an engine is the graph as ONNX Runtime optimised it for this processor and batch."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from rtmpose.engines.record import Record, check_built_here
from rtmpose.environment import cpu_name
from rtmpose.errors import KitError
from rtmpose.model.int8 import Int8Scheme
from rtmpose.timing import wall_clock

PACKAGES = "onnxruntime"

INT8_SCHEME = Int8Scheme(signed=False, outputs=True, rest_fp16=False)
"""Its INT8 convolution takes and gives INT8; on x86 it is fast with unsigned activations only."""


def is_installed() -> bool:
    """Whether ONNX Runtime is there."""
    return importlib.util.find_spec("onnxruntime") is not None


def describe() -> dict[str, str | None]:
    """Package, version and device, as :class:`rtmpose.engines.record.Record` names them."""
    import onnxruntime
    return {"backend": "onnxruntime", "package": "onnxruntime", "version": onnxruntime.__version__,
            "device": cpu_name(), "compute_capability": None}


def build(model: onnx.ModelProto, path: Path, engine: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Let ONNX Runtime optimise a graph for this processor, and save what it made.

    Args:
        model: a graph with a fixed batch size.
        path: where to write.
        engine: the engine's final name, for messages.

    Returns:
        Number of convolutions and matrix products, and of all layers, by the type that they compute in. ONNX
        Runtime has no FP16 kernels for the CPU: it widens an FP16 graph to FP32, and that is what is counted.

    Raises:
        KitError: ONNX Runtime refuses the graph.
    """
    import onnxruntime

    from rtmpose.model.graph import count_arithmetic, count_layers

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(path)
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise KitError(f"{engine}: ONNX Runtime can't build or write it ({str(error).splitlines()[0][:200]}); "
                       "check the graph, and the space left in the engine's folder") from error
    return count_arithmetic(optimized), count_layers(optimized)


def load(path: str | Path, record: Record) -> "OnnxRuntimeEngine":
    """Load an engine that :func:`build` wrote.

    Raises:
        KitError: it was built by another version or for another processor, or can't be loaded.
    """
    check_built_here(path, record, describe(), "ONNX Runtime")
    return OnnxRuntimeEngine(path, record)


class OnnxRuntimeEngine:
    """An optimised graph in ONNX Runtime (see :class:`rtmpose.engines.Engine`)."""

    def __init__(self, path: str | Path, record: Record) -> None:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        # The graph was optimised when it was built.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self.path, self.record = str(path), record
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise KitError(f"{path}: ONNX Runtime can't load it ({str(error).splitlines()[0][:200]}); "
                           "build it again") from error

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        simcc_x, simcc_y = self._session.run(["simcc_x", "simcc_y"], {self.record.input_name: crops})
        return simcc_x, simcc_y

    def close(self) -> None:
        self._session = None

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        return {"wall clock of ONNX Runtime on the CPU, crops in memory": wall_clock(lambda: self.infer(crops))}
