"""Runtimes behind one small interface: build an engine, load it, run a batch, time a batch.

Each runtime is one file with ``is_installed``, ``describe``, ``build``, ``load`` and its ``INT8_SCHEME``. The facts of
an engine are in :class:`rtmpose.engines.record.Record`, the JSON beside it.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from rtmpose.engines.record import Record, read_record
from rtmpose.environment import find_gpu
from rtmpose.errors import KitError

CPU_BACKENDS = ("onnxruntime", "openvino")
BACKENDS = ("tensorrt", *CPU_BACKENDS)


class Engine(Protocol):
    """A network for one batch size, ready to run."""

    path: str
    record: Record

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one full batch.

        Args:
            crops: float32 (batch, 3, H, W), see :func:`rtmpose.data.preprocess.normalize`.

        Returns:
            ``simcc_x`` and ``simcc_y``, float32 (batch, K, Wx) and (batch, K, Wy); valid after the next run too.
        """

    def close(self) -> None:
        """Give back what the runtime holds; the engine can't run any more."""

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        """Functions that run one batch of ``crops`` and return its milliseconds, by a description of what they time.

        The first is the headline.
        """


def backend(name: str) -> ModuleType:
    """The module of a runtime by its name in :data:`BACKENDS`."""
    return importlib.import_module(f"rtmpose.engines.{name}_backend")


def choose_backends(name: str) -> list[ModuleType]:
    """The runtimes that an engine may be built with.

    Args:
        name: one of :data:`BACKENDS`; or ``auto``, which is TensorRT where an NVIDIA GPU and TensorRT are, else every
            CPU runtime that is installed: the faster one is to be kept.

    Raises:
        KitError: the runtime is not installed.
    """
    if name != "auto":
        return [installed_backend(name)]
    if find_gpu() and backend("tensorrt").is_installed():
        return [backend("tensorrt")]
    found = [backend(cpu) for cpu in CPU_BACKENDS if backend(cpu).is_installed()]
    return found or [installed_backend(CPU_BACKENDS[0])]


def installed_backend(name: str) -> ModuleType:
    """The module of a runtime by its name in :data:`BACKENDS`.

    Raises:
        KitError: the runtime is not installed.
    """
    chosen = backend(name)
    if not chosen.is_installed():
        raise KitError(f"--backend {name}: {chosen.PACKAGES} is not installed; run scripts/setup.sh "
                       f"(with --gpu for TensorRT) or choose another backend")
    return chosen


def load_engine(path: str | Path) -> Engine:
    """Load an engine that ``build_engine.py`` wrote.

    Raises:
        KitError: it is missing, cut off, or of another runtime version or GPU.
    """
    record = read_record(path)
    if record.backend not in BACKENDS:
        raise KitError(f"{path}: was built for the backend {record.backend!r}, expected one of "
                       f"{', '.join(BACKENDS)}; build it again")
    return installed_backend(record.backend).load(path, record)


def headline_timer(engine: Engine, crops: np.ndarray) -> Callable[[], float]:
    """The timer of the headline: it runs one batch of ``crops`` and returns its milliseconds."""
    return next(iter(engine.timers(crops).values()))
