"""Runtimes behind one small interface: build an engine, load it, run a batch, time a batch."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from rtmpose.engines import files, onnxruntime, openvino, pytorch, tensorrt
from rtmpose.engines.record import Facts, Record, Target, read_record
from rtmpose.engines.runtime import Compiled
from rtmpose.errors import KitError, explained
from rtmpose.files import sha256
from rtmpose.machine.gpu import DriverError, find_gpu
from rtmpose.machine.monitor import Monitor


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
    """A runtime: a module or package of this one, or a Python file of the user's.

    It may have two more names: ``INT8_SCHEME``, an :class:`rtmpose.model.int8.quantize.Int8Scheme`, without which INT8
    is refused; and ``find_precision_obstacle(device, precision)``, which returns why a device can't compute in a
    precision, or None.
    """

    def describe(self) -> list[Target]:
        """The devices that engines can run on here, the default first; none if the runtime is not installed."""

    def build(self, model: ModelProto, path: Path, facts: Facts) -> list[Compiled]:
        """Build engines of a graph with a fixed batch size, for ``path``: one, or a few of which the fastest is kept.

        Types are those of the graph. What the runtime says of a graph that it refuses may be any exception.
        """

    def load(self, content: bytes, path: str | Path, record: Record) -> Engine:
        """Load an engine that was built for what is here; any exception tells why the runtime can't.

        ``path`` is its name, for messages and for files beside it.
        """


CPU_BACKENDS = ("onnxruntime", "openvino")  # of which ``auto`` chooses where there is no GPU
BACKENDS: dict[str, Backend] = {"tensorrt": tensorrt, "onnxruntime": onnxruntime, "openvino": openvino,
                                "pytorch": pytorch, files.NAME: files}
_NOT_INSTALLED = "is not installed; run scripts/setup.sh (with --gpu for TensorRT)"


def find_backend(name: str) -> Backend:
    """A backend by its name, or by the path of a Python file, which is run. Raises KitError if there is none."""
    if name in BACKENDS:
        return BACKENDS[name]
    if not name.endswith(".py") or not os.path.isfile(name):
        raise KitError(f"--backend {name}: is neither a Python file nor one of auto, {', '.join(BACKENDS)}")
    return _run_file(name, sha256(name))


@cache
def _run_file(path: str, digest: str) -> Backend:
    """The backend in a Python file, which is run once for each content (its ``digest``)."""
    module: Any = ModuleType(Path(path).stem)
    module.__file__ = path
    with explained(f"{path}: can't be imported", "correct it"):
        SourceFileLoader(module.__name__, path).exec_module(module)
    if missing := [function for function in ("describe", "build", "load") if not hasattr(module, function)]:
        raise KitError(f"{path}: is no backend, it lacks {', '.join(missing)}; docs/development.md shows one")
    return module


def list_targets(name: str) -> list[Target]:
    """What a backend can run engines on here; raises KitError if it can't tell."""
    with explained(f"--backend {name}: can't list its devices", "check its installation"):
        return find_backend(name).describe()


def choose_targets(name: str, device: str | None) -> tuple[dict[str, Target], str | None]:
    """What to build for, by backend, and a note if there is a GPU that can't be used. Raises KitError if it is nothing.

    ``auto`` is TensorRT if it can run engines on the GPU here, else every CPU backend that is installed. ``device`` is
    one that the backend lists, or None for its first.
    """
    if name == "auto":
        if device:
            raise KitError(f"--device {device}: needs --backend NAME, because each runtime has names of its own")
        return _choose_automatically()
    targets = list_targets(name)
    if not targets:
        raise KitError(f"--backend {name}: {_NOT_INSTALLED}, or choose another backend")
    chosen = [target for target in targets if device in (None, target.device)]
    if not chosen:
        raise KitError(f"--device {device}: {targets[0].runtime} has {_join_devices(targets)} here; choose one of them")
    return {name: chosen[0]}, None


def _choose_automatically() -> tuple[dict[str, Target], str | None]:
    note = None
    try:
        if gpu := find_gpu():
            if not (obstacle := tensorrt.find_obstacle(gpu)):
                return {"tensorrt": tensorrt.describe()[0]}, None
            note = f"{gpu.name} is not used: {obstacle}"
    except DriverError as error:
        note = f"a GPU is not used: {error}"
    targets = {name: BACKENDS[name].describe() for name in CPU_BACKENDS}
    if not any(targets.values()):
        raise KitError(f"--backend auto: {', '.join(CPU_BACKENDS)} {_NOT_INSTALLED}")
    return {name: listed[0] for name, listed in targets.items() if listed}, note


def _join_devices(targets: Sequence[Target]) -> str:
    return ", ".join(dict.fromkeys(target.device for target in targets))


def load_engine(path: str | Path) -> Engine:
    """Load an engine; raises KitError if it is missing, cut off, or for another runtime version or device."""
    record = read_record(path)
    return open_engine(Path(path).read_bytes(), path, record)


def open_engine(content: bytes, path: str | Path, record: Record) -> Engine:
    """Load the content of an engine; raises KitError if it is for another runtime version or device."""
    if record.backend_sha256 is None and record.backend not in BACKENDS:
        raise KitError(f"{path}: was built for the backend {record.backend!r}, expected one of "
                       f"{', '.join(BACKENDS)}; build it again")
    if record.backend_sha256 and sha256(record.backend) != record.backend_sha256:
        raise KitError(f"{path}: was built with another version of {record.backend}; build it again")
    targets = [target for target in list_targets(record.backend) if target.package == record.package]
    if not targets:
        raise KitError(f"{path}: was built by {record.runtime}, which {_NOT_INSTALLED}, or build it again")
    here = next((target for target in targets if target.device == record.device), None)
    if here is None:
        raise KitError(f"{path}: was built for the device {record.device}, but {targets[0].runtime} has "
                       f"{_join_devices(targets)} here; build it again")
    if record.version != here.version:
        raise KitError(f"{path}: was built by {record.runtime}, but {here.version} is installed; build it again")
    if record.device_name and here.device_name and record.hardware != here.hardware:
        raise KitError(f"{path}: was built for {record.hardware}, but this machine has {here.hardware}; build it again")
    with explained(f"{path}: {record.runtime} can't load it", "build it again"):
        return find_backend(record.backend).load(content, path, record)


def monitor(engine: Engine) -> Monitor:
    """A monitor of what an engine runs on."""
    record = engine.record
    return Monitor(find_gpu() if record.compute_capability else None, on_cpu=record.device == "cpu")


def headline_timer(engine: Engine, crops: np.ndarray) -> Callable[[], float]:
    """The first of the engine's timers."""
    return next(iter(engine.timers(crops).values()))
