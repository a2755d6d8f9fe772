"""Runtimes behind one small interface: build an engine, load it, run a batch, time a batch.

Each runtime is one file with ``find``, ``build`` and ``load``; what an engine is made of stands in
:class:`rtmpose.engines.record.Record`, the JSON beside it.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from rtmpose.engines.record import Record, read_record
from rtmpose.errors import KitError
from rtmpose.machine import find_gpu

BACKENDS = ("tensorrt", "onnxruntime")


class Engine(Protocol):
    """A network for one batch size, ready to run."""

    path: str
    record: Record

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one full batch.

        Args:
            crops: float32 (batch, 3, H, W), see :func:`rtmpose.crop.normalize`.

        Returns:
            ``simcc_x`` and ``simcc_y``, float32 (batch, K, Wx) and (batch, K, Wy); valid after the next run too.
        """

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        """Functions that run one batch of ``crops`` and return the milliseconds it took, by what they time.

        The first is the headline.
        """


def backend(name: str) -> ModuleType:
    """The module of a runtime by its name in :data:`BACKENDS`."""
    return importlib.import_module(f"rtmpose.engines.{name}_backend")


def choose_backend(name: str) -> ModuleType:
    """The runtime for ``auto`` or a name: TensorRT where an NVIDIA GPU and TensorRT are, else ONNX Runtime.

    Raises:
        KitError: the runtime is not installed.
    """
    if name == "auto":
        tensorrt = backend("tensorrt")
        name = "tensorrt" if find_gpu() and tensorrt.is_installed() else "onnxruntime"
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
    return choose_backend(record.backend).load(path, record)
