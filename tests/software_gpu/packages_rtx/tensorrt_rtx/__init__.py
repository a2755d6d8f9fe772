"""Stand-in for TensorRT-RTX's Python package: that for TensorRT, under another name."""

import importlib.util
from pathlib import Path
from typing import Any

_spec = importlib.util.spec_from_file_location(
    "_stand_in_for_tensorrt", Path(__file__).parents[2] / "packages/tensorrt/__init__.py")
assert _spec and _spec.loader
_tensorrt: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tensorrt)


def __getattr__(name: str) -> Any:
    return getattr(_tensorrt, name)
