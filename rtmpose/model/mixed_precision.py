"""Mixed precision: every operator of RTMPose computes in FP16 or BF16, except those that need FP32.

FP16 holds magnitudes up to 65504, with 11 significant bits. Nearly all of RTMPose fits. The exceptions:

* ScaleNorm (``x / (|x| * dim**-0.5) * g``, Nguyen and Salazar 2019) sums squares: 255 is the largest integer whose
  square fits. From that sum to the division it stays in FP32, constants included.
* The gated attention unit squares a ReLU and multiplies the squares with values. From the product of queries and keys
  to that of squares and values it stays in FP32: 0.05 % of RTMPose-t's multiplications.
* The two classifiers give the logits. Near a maximum, neighbouring bins differ by less than FP16's step, so rounded
  logits tie and the first of them wins: the cause of most keypoints that FP16 moved. They stay in FP32.
* The final convolution feeds only ScaleNorm, which cancels any common factor: a power of two brings its longest row of
  weights to about unit length, and no checkpoint can push its outputs out of range.
* An operator with a constant that would not fit stays in FP32.

BF16 has FP32's range and 8 significant bits. The head behind the final convolution stays in FP32.
"""

from collections import defaultdict
from copy import deepcopy

import numpy as np
import onnx
import onnx.version_converter
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rtmpose.model.graph import OUTPUTS

LARGEST = 65504.0  # FP16's largest number
SPARE = 4.0  # headroom that constants must leave below it, as a factor

HALVES: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_BF16_OPSET = 22  # the first in which convolutions can be BF16


def to_mixed_precision(model: onnx.ModelProto, half: str) -> tuple[onnx.ModelProto, dict[str, list[str]]]:
    """Convert a simplified FP32 graph: FP32 inputs and outputs, ``half`` (of :data:`HALVES`) inside where that is safe.

    A strongly typed TensorRT network computes exactly in its types. Scales of Q/DQ nodes become 16-bit. Returns a new
    graph, and the names of the operators that stay in FP32 by the reason for it.
    """
    converted = scale_final_convolutions(model)
    graph = converted.graph
    if half == "bf16":
        kept = {"head: BF16's step is too coarse for logits and what they are made of": find_head(graph)}
    else:
        kept = {"ScaleNorm: a sum of squares can leave FP16's range": _scale_norms(graph),
                "attention: a squared ReLU can leave FP16's range": _squared_attention(graph),
                "logits: neighbouring bins differ by less than FP16's step": [
                    node.name for node in graph.node if {*OUTPUTS}.intersection(node.output)],
                "a constant leaves FP16's range": _large_constants(graph)}
    insert_casts(graph, {name for names in kept.values() for name in names}, half)
    if half == "bf16":
        converted = onnx.version_converter.convert_version(converted, _BF16_OPSET)
    return converted, {reason: names for reason, names in kept.items() if names}


def scale_final_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scale every convolution that feeds only a ScaleNorm by a power of two, to weights of about unit length.

    Returns a copy of the FP32 graph, with all constants as initializers, that computes the same to the last bit.
    """
    scaled = deepcopy(model)
    constants_to_initializers(scaled.graph)
    tensors = {tensor.name: tensor for tensor in scaled.graph.initializer}
    readers = _readers(scaled.graph)
    for node in scaled.graph.node:
        if node.op_type == "Conv" and node.input[1] in tensors and _feeds_only_scale_norm(node, readers):
            rows = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
            length = np.sqrt((rows.reshape(len(rows), -1) ** 2).sum(axis=1)).max()  # of the longest output channel
            factor = np.float32(2.0 ** -np.round(np.log2(length))) if length > 0 else np.float32(1)
            for name in node.input[1:]:
                values = numpy_helper.to_array(tensors[name]) * factor
                tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return scaled


def _feeds_only_scale_norm(node: NodeProto, readers: defaultdict[str, list[NodeProto]]) -> bool:
    following = readers[node.output[0]]
    while len(following) == 1 and following[0].op_type in ("Reshape", "Flatten"):
        following = readers[following[0].output[0]]
    return {reader.op_type for reader in following} == {"ReduceL2", "Div"}


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, so that one place converts them."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = next(a.t for a in node.attribute if a.name == "value")
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _readers(graph: onnx.GraphProto) -> defaultdict[str, list[NodeProto]]:
    """The nodes that read each tensor."""
    readers = defaultdict(list)
    for node in graph.node:
        for name in set(node.input):
            readers[name].append(node)
    return readers


def find_head(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators behind the last convolution."""
    names = [node.name for node in graph.node]
    return names[max(i for i, node in enumerate(graph.node) if node.op_type == "Conv") + 1:]


def _scale_norms(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators of every ScaleNorm, from the norm to the division by it."""
    names: list[str] = []
    norms: set[str] = set()  # tensors computed from a norm, before the division
    for node in graph.node:
        if node.op_type == "ReduceL2" or norms.intersection(node.input):
            names.append(node.name)
            if node.op_type != "Div":
                norms.update(node.output)
    return names


def _squared_attention(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators around every squared ReLU, from the matrix product before to the one after."""
    readers, producers = _readers(graph), {name: node for node in graph.node for name in node.output}
    names: list[str] = []
    for square in graph.node:
        squared = square.op_type == "Pow" or square.op_type == "Mul" and len(set(square.input)) == 1
        if squared and producers[square.input[0]].op_type == "Relu":
            chain = [square]
            while chain[-1].op_type != "MatMul":
                chain.append(producers[chain[-1].input[0]])
            names += [node.name for node in (*chain[::-1], *readers[square.output[0]])]
    return names


def _large_constants(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators with a constant beyond FP16's range, less the headroom."""
    large = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT
             and np.abs(numpy_helper.to_array(tensor)).max(initial=0) > LARGEST / SPARE}
    return [node.name for node in graph.node if large.intersection(node.input)]


def insert_casts(graph: onnx.GraphProto, fp32_nodes: set[str], half: str) -> None:
    """Convert constants to the type of the operators that read them, and cast other tensors where types meet."""
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    types: dict[str, int] = dict.fromkeys([*constants, *(value.name for value in graph.input)], TensorProto.FLOAT)
    nodes = []
    for node in graph.node:
        wanted = TensorProto.FLOAT if node.name in fp32_nodes else HALVES[half]
        for index, name in enumerate(node.input):
            if types.get(name, wanted) == wanted:
                continue
            node.input[index] = cast = f"{name}_{'fp32' if wanted == TensorProto.FLOAT else half}"
            if cast in types:
                continue
            types[cast] = wanted
            if name in constants:
                values = numpy_helper.to_array(constants[name]).astype(helper.tensor_dtype_to_np_dtype(wanted))
                graph.initializer.append(numpy_helper.from_array(values, cast))
            else:
                nodes.append(helper.make_node("Cast", [name], [cast], f"{name}_cast", to=wanted))
        # Only Q/DQ nodes convert from and to INT8, so what QuantizeLinear gives has none of the two types.
        if node.op_type != "QuantizeLinear":
            types.update((output, wanted) for output in node.output)
        nodes.append(node)
    replace_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Replace all nodes of a graph; the new ones may include its own."""
    graph.ClearField("value_info")  # types of tensors, which are others now
    del graph.node[:]
    graph.node.extend(nodes)
