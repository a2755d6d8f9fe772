"""INT8 as Q/DQ nodes in the graph: which operators, in which scheme.

Convolutions have INT8 operands: weights are signed and symmetric with one scale a channel, activations have one scale a
tensor, after their channels were equalized. A sum that reads the same tensor reads it rounded as well. Biases stay in
float. So does the head: its convolution and its matrix products are a few percent of the network, and what they end in,
logits, must not be rounded.
ONNX Runtime's quantizer writes the nodes: it is installed anyway, gives plain ONNX and lets the scheme be chosen.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.version_converter

from rtmpose.model.int8.equalize import Factors, equalize
from rtmpose.model.mixed_precision import scale_final_convolutions

_SMALLEST_SCALE = 1e-5  # rounded to FP16, a smaller scale would be further off than INT8 itself
_OPSET = 19  # the first in which scales can be FP16

Ranges = dict[str, tuple[float, float]]  # smallest and largest value of a tensor, by its name


@dataclass(frozen=True)
class Int8Scheme:
    """The INT8 with which a runtime is fast and accurate."""

    signed: bool  # activations are symmetric; if not, a zero point lets SiLU's mostly positive outputs use all steps
    outputs: bool  # the outputs of convolutions are quantised as well as their inputs
    equalized: bool  # the channels of activations are equalized first (rtmpose.model.int8.equalize)
    rest_fp16: bool  # everything else is mixed precision (rtmpose.model.mixed_precision.to_mixed_precision), else FP32


def quantize(model: onnx.ModelProto, factors: Factors, ranges: Ranges, scheme: Int8Scheme) -> onnx.ModelProto:
    """A copy in INT8 of an FP32 graph with a fixed batch size, from what a calibration found.

    The final convolution stays in higher precision. If the scheme wants the rest in FP16, the copy is ready for
    :func:`rtmpose.model.mixed_precision.to_mixed_precision`.
    """
    scaled = scale_final_convolutions(model) if scheme.rest_fp16 else model
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return insert_quantization(equalize(scaled, factors), ranges, scheme, convolutions[-1:])


def insert_quantization(model: onnx.ModelProto, ranges: Ranges, scheme: Int8Scheme, kept: Iterable[str] = ()
                        ) -> onnx.ModelProto:
    """A copy of an FP32 graph with a fixed batch size and Q/DQ nodes around all convolutions but those in ``kept``."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    tensors = TensorsData(CalibrationMethod.MinMax, {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()})
    quantizer = QDQQuantizer(
        deepcopy(model), per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if scheme.signed else QuantType.QUInt8, tensors_range=tensors,
        nodes_to_quantize=[], nodes_to_exclude=list(kept), op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": scheme.signed, "WeightSymmetric": True, "QuantizeBias": False,
                       "MinimumRealRange": 255 * _SMALLEST_SCALE,
                       "OpTypesToExcludeOutputQuantization": [] if scheme.outputs else ["Conv"]})
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return onnx.version_converter.convert_version(quantizer.model.model, _OPSET)
