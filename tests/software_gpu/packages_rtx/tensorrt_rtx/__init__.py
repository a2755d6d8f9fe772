"""Stand-in for TensorRT-RTX's Python package: that for TensorRT, and a cache of the kernels that RTX compiles."""

import enum
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


class _RuntimeCache:
    """Its content is a mark for each process that has used it."""

    content = b""

    def deserialize(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class _RuntimeConfig:
    @staticmethod
    def create_runtime_cache() -> _RuntimeCache:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: _RuntimeCache) -> None:
        self.cache = cache


class _Engine(_tensorrt._Engine):
    @staticmethod
    def create_runtime_config() -> _RuntimeConfig:
        return _RuntimeConfig()

    def create_execution_context(self, runtime_config: _RuntimeConfig) -> Any:
        return super().create_execution_context()


_tensorrt.BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "REQUIRE_USER_ALLOCATION"])
_tensorrt._Engine = _Engine
