"""INT8 as Q/DQ nodes in the graph: which operators, in which scheme.

Convolutions take INT8 operands: weights signed, symmetric, a scale a channel; activations one scale a tensor. A sum
that reads the same tensor reads it rounded as well. Biases stay in float, and so does the head behind its convolution,
whose matrix products are a few percent of the network and end in logits that must not be rounded. ONNX Runtime's
quantiser writes the nodes: it is installed anyway, it gives plain ONNX, and it lets the scheme be chosen.

Each runtime has its own :class:`Int8Scheme`, with which it is fast and right.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.version_converter

from rtmpose.model.fp16 import scale_final_convolutions

_SMALLEST_SCALE = 1e-5
"""Below, a scale that is rounded to FP16 would be further off than INT8 itself."""

_OPSET = 19
"""The first in which scales can be FP16."""

Ranges = dict[str, tuple[float, float]]
"""Smallest and largest value of a tensor, by its name."""


@dataclass(frozen=True)
class Int8Scheme:
    """The INT8 that a runtime takes.

    Attributes:
        signed: activations are signed and symmetric; otherwise unsigned with a zero point, which uses the whole range
            on what is mostly positive, as SiLU's outputs are.
        outputs: the outputs of convolutions are quantised as well as their inputs.
        rest_fp16: everything else is typed as for FP16 (:func:`rtmpose.model.fp16.to_fp16`), else it is FP32.
    """

    signed: bool
    outputs: bool
    rest_fp16: bool


@dataclass(frozen=True)
class Block:
    """Effect of INT8 in one block of the network alone.

    Attributes:
        name: as mmpose names it.
        convolutions: how many it has.
        macs: its share of the network's multiplications.
        within_bin, within_4px: shares of the counted keypoints at most one SimCC bin and 4 px off FP32's.
        int8: whether its convolutions are quantised.
    """

    name: str
    convolutions: int
    macs: float
    within_bin: float
    within_4px: float
    int8: bool


def quantize(model: onnx.ModelProto, ranges: Ranges, scheme: Int8Scheme, blocks: Iterable[Block]) -> onnx.ModelProto:
    """Turn a network into its INT8 graph, ready for :func:`rtmpose.model.fp16.to_fp16` where the scheme wants that.

    Args:
        model: FP32, with a fixed batch size; not changed.
        ranges, blocks: from :mod:`rtmpose.model.calibration`.
        scheme: the runtime's.
    """
    scaled = scale_final_convolutions(model) if scheme.rest_fp16 else model
    return insert_quantization(scaled, ranges, scheme, kept_nodes(model, blocks))


def insert_quantization(model: onnx.ModelProto, ranges: Ranges, scheme: Int8Scheme, kept: Iterable[str] = ()
                        ) -> onnx.ModelProto:
    """Put Q/DQ nodes around a graph's convolutions.

    Args:
        model: FP32, with a fixed batch size; not changed.
        ranges: of the same graph with any batch size.
        scheme: the runtime's.
        kept: names of convolutions that are left alone.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    tensors = TensorsData(CalibrationMethod.MinMax, {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()})
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if scheme.signed else QuantType.QUInt8, tensors_range=tensors,
        nodes_to_quantize=[], nodes_to_exclude=list(kept), op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": scheme.signed, "WeightSymmetric": True, "QuantizeBias": False,
                       "MinimumRealRange": 255 * _SMALLEST_SCALE,
                       "OpTypesToExcludeOutputQuantization": [] if scheme.outputs else ["Conv"]})
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return onnx.version_converter.convert_version(quantizer.model.model, _OPSET)


def group_by_block(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of a graph's convolutions by block: mmpose's stem, stages and final layer; ``other`` where names differ."""
    blocks: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found = re.search(r"(stem|stage\d+|final_layer)", node.name)
            blocks.setdefault(found.group() if found else "other", []).append(node.name)
    return blocks


def kept_nodes(model: onnx.ModelProto, blocks: Iterable[Block]) -> list[str]:
    """Names of the convolutions that stay in higher precision."""
    nodes = group_by_block(model)
    return [node for block in blocks if not block.int8 for node in nodes.get(block.name, ())]
