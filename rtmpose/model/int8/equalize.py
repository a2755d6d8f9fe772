"""Equalized channels: before INT8, small channels of a convolution's input are made larger and its weights smaller.

INT8 has one scale an activation, and the largest channel sets it: a channel that reaches a tenth as far has a tenth of
the steps. So ``conv(x, w)`` becomes ``conv(x / f, w * f)`` with a factor a channel, which is the same in exact
arithmetic. As in SmoothQuant (Xiao and others 2023) an exponent shares the loss between activations and weights.
"""

from copy import deepcopy

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rtmpose.model.mixed_precision import replace_nodes

EXPONENT = 0.6  # 0: activations as they are; 1: all channels reach equally far, and weights lose most
_SMALLEST = 0.01  # a channel's reach to the largest one's: below it, a channel's factor doesn't shrink any more

Factors = dict[str, list[float]]  # of a tensor's channels, at most 1, by the tensor's name


def equalized_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors that convolutions read, except the graph's inputs, in the order of the graph."""
    inputs = {value.name for value in model.graph.input}
    return [name for name in dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "Conv")
            if name not in inputs]


def channel_factors(reach: np.ndarray) -> list[float]:
    """Factors of a tensor's channels from the largest magnitude of each, float32 (C,)."""
    largest = reach.max()
    if not (np.isfinite(largest) and largest > 0):
        return [1.0] * len(reach)
    return np.round(np.maximum(reach / largest, _SMALLEST).astype(np.float64) ** EXPONENT, 4).tolist()


def equalize(model: onnx.ModelProto, factors: Factors) -> onnx.ModelProto:
    """A copy of an FP32 graph that divides the tensors by their factors, and multiplies the weights behind with them.

    Other readers of such a tensor get it multiplied back, so that it is stored once, in INT8. No two convolutions may
    share their weights.
    """
    equalized = deepcopy(model)
    weights = {tensor.name: tensor for tensor in equalized.graph.initializer}
    nodes = []
    multiplied_back: set[str] = set()
    for node in equalized.graph.node:
        for index, name in enumerate(node.input):
            if name not in factors:
                continue
            if node.op_type == "Conv":
                _scale_inputs(node, weights[node.input[1]], factors[name])
                node.input[index] = f"{name}_equalized"
                continue
            if name not in multiplied_back:
                multiplied_back.add(name)
                nodes.append(_multiply(equalized.graph, f"{name}_equalized", f"{name}_back", factors[name]))
            node.input[index] = f"{name}_back"
        nodes.append(node)
        nodes += [_multiply(equalized.graph, name, f"{name}_equalized", [1 / factor for factor in factors[name]])
                  for name in node.output if name in factors]
    replace_nodes(equalized.graph, nodes)
    return equalized


def _scale_inputs(node: onnx.NodeProto, weights: onnx.TensorProto, by: list[float]) -> None:
    """Multiply a convolution's weights with the factors of its input's channels."""
    values = numpy_helper.to_array(weights)
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    each = np.repeat(np.array(by, np.float32).reshape(groups, -1), len(values) // groups, axis=0)
    weights.CopyFrom(numpy_helper.from_array(values * each[:, :, None, None], weights.name))


def _multiply(graph: onnx.GraphProto, source: str, target: str, by: list[float]) -> onnx.NodeProto:
    """A node that multiplies the channels of a tensor (N, C, H, W)."""
    values = np.array(by, np.float32).reshape(1, -1, 1, 1)
    graph.initializer.append(numpy_helper.from_array(values, f"{target}_factors"))
    return helper.make_node("Mul", [source, f"{target}_factors"], [target], target)
