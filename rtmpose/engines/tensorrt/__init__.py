"""TensorRT and TensorRT-RTX on an NVIDIA GPU. Networks are strongly typed: the precision is that of the ONNX graph."""

from rtmpose.engines.tensorrt.build import INT8_SCHEME, build, describe, find_obstacle, find_precision_obstacle
from rtmpose.engines.tensorrt.engine import TensorRTEngine as load

__all__ = ["INT8_SCHEME", "build", "describe", "find_obstacle", "find_precision_obstacle", "load"]
