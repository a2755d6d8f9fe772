"""Runtimes behind one small interface: build an engine, load it, run a batch, time a batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from rtmpose.engines import onnxruntime, openvino, tensorrt
from rtmpose.engines.record import Record, read_record
from rtmpose.engines.runtime import Compiled, import_package, is_installed
from rtmpose.errors import KitError, explained
from rtmpose.machine.cpu import cpu_name
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
    """A runtime; each is a module or package of this one."""

    PACKAGES: list[str]  # Python packages that it can use, the preferred one first
    INT8_SCHEME: Int8Scheme

    def find_bf16_obstacle(self) -> str | None:
        """The reason why it can't compute in BF16 here; None if it can."""

    def build(self, model: ModelProto, path: Path) -> list[Compiled]:
        """Build engines of a graph with a fixed batch size, for ``path``: one, or a few of which the fastest is kept.

        Types are those of the graph. What the runtime says of a graph that it refuses may be any exception.
        """

    def load(self, content: bytes, path: str | Path, record: Record) -> Engine:
        """Load an engine that was built for what is here; any exception tells why the runtime can't.

        ``path`` is its name, for messages and for files beside it.
        """


CPU_BACKENDS = ("onnxruntime", "openvino")
BACKENDS: dict[str, Backend] = {"tensorrt": tensorrt, "onnxruntime": onnxruntime, "openvino": openvino}


def installed_packages(backend: str) -> list[str]:
    """The packages of a backend that are installed; engines are built with the first."""
    return [package for package in BACKENDS[backend].PACKAGES if is_installed(package)]


def describe(backend: str, package: str) -> dict[str, Any]:
    """What runs engines here: ``backend``, ``package``, ``version``, ``device``, ``compute_capability`` of Facts."""
    gpu = None if backend in CPU_BACKENDS else find_gpu()
    return {"backend": backend, "package": package, "version": import_package(package).__version__.split("-")[0],
            "device": cpu_name() if backend in CPU_BACKENDS else gpu.name if gpu else None,
            "compute_capability": gpu.compute_capability if gpu else None}


def choose_backends(name: str) -> tuple[list[str], str | None]:
    """The backends to build with, and a note if there is a GPU that can't be used. Raises KitError if there are none.

    ``auto`` is TensorRT if it can run engines on the GPU here, else every CPU backend that is installed.
    """
    note = None
    if name == "auto":
        try:
            if gpu := find_gpu():
                if not (obstacle := tensorrt.find_obstacle(gpu)):
                    return ["tensorrt"], None
                note = f"{gpu.name} is not used: {obstacle}"
        except DriverError as error:
            note = f"a GPU is not used: {error}"
    chosen = [backend for backend in (CPU_BACKENDS if name == "auto" else [name]) if installed_packages(backend)]
    if not chosen:
        raise KitError(f"--backend {name}: is not installed; run scripts/setup.sh (with --gpu for TensorRT) or choose "
                       "another backend")
    return chosen, note


def load_engine(path: str | Path) -> Engine:
    """Load an engine; raises KitError if it is missing, cut off, or for another runtime version or device."""
    record = read_record(path)
    return open_engine(Path(path).read_bytes(), path, record)


def open_engine(content: bytes, path: str | Path, record: Record) -> Engine:
    """Load the content of an engine; raises KitError if it is for another runtime version or device."""
    if record.backend not in BACKENDS:
        raise KitError(f"{path}: was built for the backend {record.backend!r}, expected one of "
                       f"{', '.join(BACKENDS)}; build it again")
    if record.package not in installed_packages(record.backend):
        raise KitError(f"{path}: was built by {record.runtime}, which is not installed; run scripts/setup.sh (with "
                       "--gpu for TensorRT), or build it again")
    here = replace(record, **describe(record.backend, record.package))
    if record.version != here.version:
        raise KitError(f"{path}: was built by {record.runtime}, but {here.version} is installed; build it again")
    if record.device and here.device and record.hardware != here.hardware:
        raise KitError(f"{path}: was built for {record.hardware}, but this machine has {here.hardware}; build it again")
    with explained(f"{path}: {record.runtime} can't load it", "build it again"):
        return BACKENDS[record.backend].load(content, path, record)


def monitor(engine: Engine) -> Monitor:
    """A monitor of what an engine runs on."""
    return Monitor(None if engine.record.backend in CPU_BACKENDS else find_gpu())


def headline_timer(engine: Engine, crops: np.ndarray) -> Callable[[], float]:
    """The first of the engine's timers."""
    return next(iter(engine.timers(crops).values()))
