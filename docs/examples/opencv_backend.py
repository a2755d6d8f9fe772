"""A backend of one's own: RTMPose in OpenCV's DNN module, on the CPU.

    python3 build_engine.py --model_path rtmpose_opt.onnx --batch 32 --precision fp32 \
        --backend docs/examples/opencv_backend.py --engine_path opencv.engine
"""

from pathlib import Path

import cv2
import numpy as np
import onnx

from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine
from rtmpose.machine.cpu import cpu_name
from rtmpose.model.graph import OUTPUTS, count_types


def describe() -> list[Target]:
    """The devices that it runs on; --device chooses one, the first is the default."""
    return [Target(package="opencv", version=cv2.__version__, device="cpu", device_name=cpu_name())]


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """The engine is the graph: OpenCV reads ONNX. Whatever its types are, OpenCV computes in FP32 on the CPU."""
    content = model.SerializeToString()
    read_network(content)  # an error here is told with its reason, and no engine is written
    arithmetic, layers = count_types(model)
    return [Compiled(content, {"fp32": sum(arithmetic.values())}, {"fp32": sum(layers.values())})]


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    """An engine that takes crops from memory, and is timed by the wall clock."""
    network = read_network(content)

    def run(crops: np.ndarray) -> list[np.ndarray]:
        network.setInput(crops, record.input_name)
        return list(network.forward(OUTPUTS))

    return RuntimeEngine("OpenCV", path, record, run)


def read_network(content: bytes) -> cv2.dnn.Net:
    return cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
