"""What the runtimes share: their packages, and the engine of those that take crops from memory."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtmpose.engines.record import Record
from rtmpose.errors import KitError, explained
from rtmpose.timing import wall_clock


class Compiled(NamedTuple):
    """What a runtime made of a graph."""

    content: bytes  # of the engine file
    arithmetic: dict[str, int]  # number of convolutions and matrix products by the type that they compute in
    layers: dict[str, int]  # number of all layers by type
    executors: dict[str, int] = {}  # number of nodes by what runs them, where that is told
    note: str = ""  # for the user, on how it was built
    kernels: dict[str, int] = {}  # see Record


def is_installed(package: str) -> bool:
    """Whether a Python package is installed, e.g. ``cuda.bindings``."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def import_package(package: str) -> Any:
    """Import the package of a runtime; raises KitError if it or a library of it is broken."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # a package without its libraries raises either
        raise KitError(f"{package}: can't be imported ({error}); run scripts/setup.sh again, with --gpu for TensorRT"
                       ) from error


def package_version(package: str) -> str:
    """Version of an installed package; raises KitError if it is broken."""
    return import_package(package).__version__.split("-")[0]


class RuntimeEngine:
    """An :class:`rtmpose.engines.Engine` whose ``run`` takes a batch of crops from memory and returns its logits.

    ``timers`` makes the runtime's own timers of a batch, by description, which come before the wall clock's.
    """

    def __init__(self, runtime: str, path: str | Path, record: Record,
                 run: Callable[[np.ndarray], Sequence[np.ndarray]],
                 timers: Callable[[np.ndarray], dict[str, Callable[[], float]]] = lambda crops: {}) -> None:
        self.path, self.record = str(path), record
        self._name = f"{runtime} on {record.device}"
        self._run, self._timers = run, timers

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with explained(f"{self.path}: {self._name} can't run it", "build it again"):
            simcc_x, simcc_y = self._run(crops)
        return simcc_x, simcc_y

    def close(self) -> None:
        del self._run, self._timers

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        return {**{f"{self._name}, {how}": timer for how, timer in self._timers(crops).items()},
                f"wall clock of {self._name}, crops in memory": wall_clock(partial(self.infer, crops))}
