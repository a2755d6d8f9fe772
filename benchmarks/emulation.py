"""A GPU's FP16 arithmetic, emulated in FP32 on the CPU."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rtmpose.model.fp16 import constants_to_initializers, replace_nodes


def round_like_fp16(mixed: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a mixed-precision graph to FP32 with FP16's rounding of results, as GPUs compute it.

    FP16 operators accumulate in FP32 there and round their results. Runtimes without FP16 kernels leave the rounding
    out and so hide overflows. Run the graph without optimisations, which would remove the rounding again.
    """
    model = onnx.ModelProto()
    model.CopyFrom(mixed)
    graph = model.graph
    constants_to_initializers(graph)
    halves = set()
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
            halves.add(tensor.name)
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast":
            half = next(a.i for a in node.attribute if a.name == "to") == TensorProto.FLOAT16
            nodes += _rounding(node.input[0], node.output[0]) if half else [
                helper.make_node("Identity", node.input, node.output)]
        else:
            half = node.op_type != "QuantizeLinear" and bool(halves.intersection(node.input))
            nodes += _with_rounding(node) if half else [node]
        if half:
            halves.update(node.output)
    graph.ClearField("value_info")
    replace_nodes(graph, nodes)
    return model


def _with_rounding(node: NodeProto) -> list[NodeProto]:
    """A node with its outputs rounded to FP16."""
    exact = NodeProto()
    exact.CopyFrom(node)
    exact.output[:] = [f"{name}_exact" for name in node.output]
    return [exact, *(rounding for name in node.output for rounding in _rounding(f"{name}_exact", name))]


def _rounding(source: str, target: str) -> list[NodeProto]:
    return [helper.make_node("Cast", [source], [f"{target}_half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [f"{target}_half"], [target], to=TensorProto.FLOAT)]
