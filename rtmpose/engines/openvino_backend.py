"""OpenVINO on the CPU: an engine is the network as OpenVINO compiled it for this processor and batch."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx

from rtmpose.engines.record import Record, check_built_here
from rtmpose.environment import cpu_name
from rtmpose.errors import KitError
from rtmpose.model.graph import OUTPUTS
from rtmpose.model.int8 import Int8Scheme
from rtmpose.timing import wall_clock

PACKAGES = "openvino"

INT8_SCHEME = Int8Scheme(signed=False, outputs=False, rest_fp16=False)
"""With signed activations OpenVINO's keypoints are further off than the numbers in the graph explain."""

# OpenVINO computes FP32 graphs in BF16 where the processor can, unless it is told not to.
_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
_TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "i32": "int32", "i64": "int64"}


def is_installed() -> bool:
    """Whether OpenVINO is there."""
    return importlib.util.find_spec("openvino") is not None


def describe() -> dict[str, str | None]:
    """Package, version and device, as :class:`rtmpose.engines.record.Record` names them."""
    import openvino
    return {"backend": "openvino", "package": "openvino", "version": openvino.__version__.split("-")[0],
            "device": cpu_name(), "compute_capability": None}


def build(model: onnx.ModelProto, path: Path, engine: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Let OpenVINO compile a graph for this processor, and save what it made.

    Args:
        model: a graph with a fixed batch size.
        path: where to write.
        engine: the engine's final name, for messages.

    Returns:
        Number of convolutions and matrix products, and of all layers, by the type that OpenVINO computes them in.

    Raises:
        KitError: OpenVINO refuses the graph.
    """
    import openvino

    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", _CONFIG)
        path.write_bytes(compiled.export_model().getvalue())
    except RuntimeError as error:
        raise KitError(f"{engine}: OpenVINO can't build it ({_reason(error)}); check the graph") from error
    facts = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    layers = [(fact["layerType"].astype(str), fact["runtimePrecision"].astype(str)) for fact in facts]
    return (_count(kind for layer, kind in layers if layer in ("Convolution", "FullyConnected", "MatMul")),
            _count(kind for layer, kind in layers if layer not in ("Const", "Input", "Output")))


def _count(kinds: Iterable[str]) -> dict[str, int]:
    return dict(Counter(_TYPES.get(kind, kind) for kind in kinds))


def _reason(error: Exception) -> str:
    """The last line of what OpenVINO raised: those before name its source files."""
    return str(error).strip().splitlines()[-1][:200]


def load(path: str | Path, record: Record) -> "OpenVINOEngine":
    """Load an engine that :func:`build` wrote.

    Raises:
        KitError: it was built by another version or for another processor, or can't be loaded.
    """
    check_built_here(path, record, describe(), "OpenVINO")
    return OpenVINOEngine(path, record)


class OpenVINOEngine:
    """A compiled network in OpenVINO (see :class:`rtmpose.engines.Engine`)."""

    def __init__(self, path: str | Path, record: Record) -> None:
        import openvino
        self.path, self.record = str(path), record
        try:
            compiled = openvino.Core().import_model(Path(path).read_bytes(), "CPU", _CONFIG)
        except RuntimeError as error:
            raise KitError(f"{path}: OpenVINO can't load it ({_reason(error)}); build it again") from error
        self._request = compiled.create_infer_request()

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._request.infer({self.record.input_name: crops}, share_inputs=True)
        simcc_x, simcc_y = (self._request.get_tensor(name).data.copy() for name in OUTPUTS)
        return simcc_x, simcc_y

    def close(self) -> None:
        self._request = None

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        return {"wall clock of OpenVINO on the CPU, crops in memory": wall_clock(lambda: self.infer(crops))}
