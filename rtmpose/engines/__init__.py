"""Runtimes behind one small interface: build an engine, load it, run a batch, time a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from rtmpose.engines import onnxruntime, openvino
from rtmpose.engines.record import Record, read_record
from rtmpose.engines.tensorrt import build as tensorrt_build
from rtmpose.errors import KitError
from rtmpose.machine.gpu import DriverError, find_gpu
from rtmpose.machine.monitor import Monitor
from rtmpose.model.int8.quantize import Int8Scheme


class Engine(Protocol):
    """A network for one batch size, ready to run."""

    path: str
    record: Record

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one full batch of crops, float32 (batch, 3, H, W), see :func:`rtmpose.data.preprocess.normalize`.

        Returns ``simcc_x`` and ``simcc_y``, float32 (batch, K, Wx) and (batch, K, Wy), valid after the next run too.
        """

    def close(self) -> None:
        """Free what the runtime holds; the engine can't run any more."""

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        """Functions that run one batch and return its milliseconds, by description; the first is the headline."""


class Backend(Protocol):
    """A runtime; each is a module of this package."""

    INT8_SCHEME: Int8Scheme

    def is_installed(self) -> bool:
        """Whether its package is installed."""

    def describe(self) -> dict[str, Any]:
        """``backend``, ``package``, ``version``, ``device`` and ``compute_capability`` of :class:`Facts`."""

    def find_bf16_obstacle(self) -> str | None:
        """The reason why it can't compute in BF16 here; None if it can."""

    def build(self, model: ModelProto, path: Path, engine: Path, bf16: bool = False
              ) -> tuple[dict[str, int], dict[str, int]]:
        """Build an engine of a graph with a fixed batch size into ``path``; ``engine`` is its final name, for messages.

        Types are those of the graph; with ``bf16``, which only OpenVINO takes, what is FP32 in it computes in BF16.
        Returns the number of convolutions and matrix products, and of all layers, by the type that they compute in.
        Raises KitError if the runtime refuses the graph.
        """

    def load(self, path: str | Path, record: Record) -> Engine:
        """Load an engine; raises KitError if it is for another version or device, or can't be loaded."""


CPU_BACKENDS = ("onnxruntime", "openvino")
BACKENDS: dict[str, Backend] = {
    "tensorrt": tensorrt_build, "onnxruntime": onnxruntime, "openvino": openvino}


def backend(name: str) -> Backend:
    """A backend of :data:`BACKENDS`, installed or not."""
    return BACKENDS[name]


def installed_backend(name: str) -> Backend:
    """A backend of :data:`BACKENDS`; raises KitError if it is not installed."""
    chosen = backend(name)
    if not chosen.is_installed():
        raise KitError(f"--backend {name}: is not installed; run scripts/setup.sh (with --gpu for TensorRT) or choose "
                       "another backend")
    return chosen


def choose_backends(name: str) -> tuple[list[Backend], str | None]:
    """The backends to build with, and a note if there is a GPU that can't be used.

    ``auto`` is TensorRT if it can run engines on the GPU here, else every CPU backend that is installed.
    """
    if name != "auto":
        return [installed_backend(name)], None
    gpu, note = None, None
    try:
        gpu = find_gpu()
    except DriverError as error:
        note = f"a GPU is not used: {error}"
    if gpu:
        obstacle = tensorrt_build.find_obstacle(gpu)
        if obstacle is None:
            return [backend("tensorrt")], None
        note = f"{gpu.name} is not used: {obstacle}"
    found = [backend(cpu) for cpu in CPU_BACKENDS if backend(cpu).is_installed()]
    return found or [installed_backend(CPU_BACKENDS[0])], note


def load_engine(path: str | Path) -> Engine:
    """Load an engine; raises KitError if it is missing, cut off, or for another runtime version or device."""
    record = read_record(path)
    if record.backend not in BACKENDS:
        raise KitError(f"{path}: was built for the backend {record.backend!r}, expected one of "
                       f"{', '.join(BACKENDS)}; build it again")
    return installed_backend(record.backend).load(path, record)


def monitor(engine: Engine) -> Monitor:
    """A monitor of what an engine runs on."""
    return Monitor(find_gpu() if engine.record.backend == "tensorrt" else None)


def headline_timer(engine: Engine, crops: np.ndarray) -> Callable[[], float]:
    """The first of the engine's timers."""
    return next(iter(engine.timers(crops).values()))
