"""Which type each operator of RTMPose computes in when FP16 is asked for, and why some stay in FP32.

FP16 holds magnitudes up to 65504 and steps of 2**-11 of a number. Nearly all of RTMPose fits. What does not:

* ScaleNorm (``x / (|x| * dim**-0.5) * g``, Nguyen and Salazar 2019) sums squares: 257 is the largest number whose
  square fits. From that sum to the division it stays in FP32, constants included.
* The attention of the gated attention unit squares a ReLU, and multiplies the squares with values. From the product of
  queries and keys to that of the squares and values it stays in FP32: one multiplication in 10,000 of the network.
* The two classifiers give the logits. Near a maximum neighbouring bins differ by less than FP16's step, so rounded
  logits tie and the first of them wins: most of the keypoints that FP16 moved, moved for this. They stay in FP32.
* The final convolution feeds ScaleNorm only, which takes out any common factor: its weights and bias are multiplied
  with the power of two that brings its rows to unit length. In exact arithmetic nothing changes, and no checkpoint can
  make its outputs leave the range.
* An operator whose constants would not fit stays in FP32.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

LARGEST = 65504.0
"""FP16's largest number."""

SPARE = 4.0
"""Factor that numbers must leave to FP16's largest one."""


@dataclass(frozen=True)
class Kept:
    """Operators that stay in FP32: their names in the graph, and why."""

    nodes: tuple[str, ...]
    reason: str


def to_fp16(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Kept]]:
    """Type a graph with FP32 inputs and outputs, FP16 inside where that is safe.

    A strongly typed TensorRT network computes exactly in these types.

    Args:
        model: FP32, simplified, with a fixed batch size; may have Q/DQ nodes, whose scales become FP16. Not changed.

    Returns:
        The typed graph, and what stays in FP32.
    """
    typed = scale_final_convolutions(model)
    graph = typed.graph
    kept = [Kept(tuple(nodes), reason) for nodes, reason in (
        (_scale_norms(graph), "ScaleNorm: a sum of squares can leave FP16's range"),
        (_squared_attention(graph), "attention: a squared ReLU can leave FP16's range"),
        (_classifiers(graph), "logits: neighbouring bins differ by less than FP16's step"),
        (_large_constants(graph), "a constant leaves FP16's range"),
    ) if nodes]
    _insert_casts(graph, {name for entry in kept for name in entry.nodes})
    return typed, kept


def scale_final_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring the rows of a convolution that feeds nothing but a ScaleNorm to about unit length, by a power of two.

    Args:
        model: FP32; not changed.

    Returns:
        The graph with all constants as initializers. What it computes is the same to the last bit.
    """
    scaled = onnx.ModelProto()
    scaled.CopyFrom(model)
    graph = scaled.graph
    constants_to_initializers(graph)
    producers = _producers(graph)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for norm in [node for node in graph.node if node.op_type == "ReduceL2"]:
        name = norm.input[0]
        while name in producers and producers[name].op_type in ("Reshape", "Flatten"):
            name = producers[name].input[0]
        source = producers.get(name)
        readers = {node.op_type for node in graph.node if norm.input[0] in node.input}
        alone = source is not None and len(_consumers(graph, source)) == 1 and readers == {"ReduceL2", "Div"}
        if not alone or source.op_type != "Conv" or source.input[1] not in initializers:
            continue
        weights = numpy_helper.to_array(initializers[source.input[1]])
        length = np.sqrt((weights.astype(np.float64) ** 2).reshape(len(weights), -1).sum(axis=1)).max()
        factor = np.float32(2.0 ** -np.round(np.log2(length))) if length > 0 else np.float32(1)
        for name in source.input[1:]:
            values = numpy_helper.to_array(initializers[name]) * factor
            initializers[name].CopyFrom(numpy_helper.from_array(values, name))
    return scaled


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Let all constants be initializers, so that one place converts them."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = next(a.t for a in node.attribute if a.name == "value")
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _producers(graph: onnx.GraphProto) -> dict[str, NodeProto]:
    return {output: node for node in graph.node for output in node.output}


def _consumers(graph: onnx.GraphProto, node: NodeProto) -> list[NodeProto]:
    outputs = set(node.output)
    return [other for other in graph.node if outputs.intersection(other.input)]


def _scale_norms(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators of every ScaleNorm: ReduceL2, the scale, the clip, the division."""
    names, tensors = [], set()
    for node in graph.node:
        if node.op_type == "ReduceL2" or tensors.intersection(node.input):
            names.append(node.name)
            if node.op_type != "Div":
                tensors.update(node.output)
    return names


def _squared_attention(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators around every squared ReLU, from the matrix product before to the one after."""
    producers, names = _producers(graph), []
    for node in graph.node:
        squares = [c for c in _consumers(graph, node) if c.op_type == "Pow" or list(c.input) == [node.output[0]] * 2]
        if node.op_type != "Relu" or not squares:
            continue
        before = producers[node.input[0]]
        while before.op_type != "MatMul":
            names.append(before.name)
            before = producers[before.input[0]]
        after = [product for square in squares for product in _consumers(graph, square)]
        names += [before.name, node.name, *(other.name for other in (*squares, *after))]
    return names


def _classifiers(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators that give the graph's outputs."""
    outputs = {value.name for value in graph.output}
    return [node.name for node in graph.node if outputs.intersection(node.output)]


def _large_constants(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators that take a constant beyond what FP16 holds with a factor to spare."""
    large = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT
             and np.abs(numpy_helper.to_array(tensor)).max(initial=0) > LARGEST / SPARE}
    return [node.name for node in graph.node if large.intersection(node.input)]


def _insert_casts(graph: onnx.GraphProto, fp32_nodes: set[str]) -> None:
    """Give every operator its type, with casts where types meet."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types |= {value.name: TensorProto.FLOAT for value in graph.input}
    converted: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        wanted = TensorProto.FLOAT if node.name in fp32_nodes else TensorProto.FLOAT16
        for index, name in enumerate(node.input):
            if types.get(name, wanted) == wanted:
                continue
            if name not in converted:
                converted[name] = f"{name}_{'fp32' if wanted == TensorProto.FLOAT else 'fp16'}"
                if name in constants:
                    half = numpy_helper.to_array(constants[name]).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(half, converted[name]))
                else:
                    nodes.append(helper.make_node("Cast", [name], [converted[name]], f"{name}_cast", to=wanted))
            node.input[index] = converted[name]
        # INT8 is cast by nothing but its Q/DQ nodes.
        if node.op_type != "QuantizeLinear":
            types.update((output, wanted) for output in node.output)
        nodes.append(node)
    graph.ClearField("value_info")
    replace_nodes(graph, nodes)
    _drop_unused_initializers(graph)


def replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Let a graph consist of these nodes, some of which may be its own."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
