"""OpenVINO on the CPU: an engine is the graph as OpenVINO compiled it for this processor and batch size."""

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rtmpose.engines.record import Record, check_built_here
from rtmpose.errors import KitError, first_line
from rtmpose.machine.cpu import cpu_flags, cpu_name
from rtmpose.model.graph import OUTPUTS
from rtmpose.model.int8.quantize import Int8Scheme
from rtmpose.timing import wall_clock

# Unsigned, because OpenVINO computes signed activations wrong: the keypoints are far off those of the graph.
INT8_SCHEME = Int8Scheme(signed=False, outputs=False, equalized=True, rest_fp16=False)

_TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "i32": "int32", "i64": "int64"}


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def describe() -> dict[str, Any]:
    import openvino
    return {"backend": "openvino", "package": "openvino", "version": openvino.__version__.split("-")[0],
            "device": cpu_name(), "compute_capability": None}


def find_bf16_obstacle() -> str | None:
    """BF16 without AVX512-BF16 or AMX would be emulated, or be FP32."""
    flags = cpu_flags()
    if {"avx512_bf16", "amx_bf16"}.intersection(flags):
        return None
    found = ", ".join(flag for flag in flags if flag.startswith(("avx", "amx"))) or "neither AVX nor AMX"
    return f"OpenVINO needs AVX512-BF16 or AMX for it, and {cpu_name()} has {found}"


def _config(bf16: bool) -> dict[str, str]:
    """Settings; by default OpenVINO computes FP32 in BF16 where the processor can. It keeps a graph's BF16 with both.
    """
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}


def build(model: onnx.ModelProto, path: Path, engine: Path, bf16: bool = False
          ) -> tuple[dict[str, int], dict[str, int]]:
    """Compile a graph; types are those of OpenVINO's kernels."""
    import openvino
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", _config(bf16))
        path.write_bytes(compiled.export_model().getvalue())
    except OSError:
        raise
    except Exception as error:
        raise KitError(f"{engine}: OpenVINO can't build it ({_reason(error)}); check the graph") from error
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    types = [(layer, _TYPES.get(kind, kind)) for layer, kind in layers]
    arithmetic = Counter(kind for layer, kind in types if layer in ("Convolution", "FullyConnected", "MatMul"))
    return dict(arithmetic), dict(Counter(kind for layer, kind in types if layer not in ("Const", "Input", "Output")))


def _reason(error: Exception) -> str:
    """The last line of an error of OpenVINO; the lines before name its source files."""
    return first_line((str(error).strip() or type(error).__name__).splitlines()[-1])


class OpenVINOEngine:
    """An :class:`rtmpose.engines.Engine` of OpenVINO."""

    def __init__(self, path: str | Path, record: Record) -> None:
        import openvino
        check_built_here(path, record, describe(), "OpenVINO")
        self.path, self.record = str(path), record
        beside_int8 = record.requested_precision == "int8" and "bf16" in record.arithmetic
        try:
            compiled = openvino.Core().import_model(Path(path).read_bytes(), "CPU", _config(beside_int8))
        except Exception as error:
            raise KitError(f"{path}: OpenVINO can't load it ({_reason(error)}); build it again") from error
        self._request = compiled.create_infer_request()

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            self._request.infer({self.record.input_name: crops}, share_inputs=True)
            simcc_x, simcc_y = (self._request.get_tensor(name).data.copy() for name in OUTPUTS)
        except Exception as error:  # OpenVINO raises RuntimeError, its Python code others
            raise KitError(f"{self.path}: OpenVINO can't run it ({_reason(error)}); build it again") from error
        return simcc_x, simcc_y

    def close(self) -> None:
        self._request = None

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        return {"wall clock of OpenVINO on the CPU, crops in memory": wall_clock(lambda: self.infer(crops))}


load = OpenVINOEngine
