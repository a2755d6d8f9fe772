"""A GPU's FP16 and BF16 arithmetic, emulated in FP32 on the CPU."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rtmpose.data.postprocess import decode
from rtmpose.model.graph import OUTPUTS, open_session
from rtmpose.model.mixed_precision import HALVES, constants_to_initializers, replace_nodes


def round_like_gpu(mixed: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a mixed-precision graph to FP32 with the 16-bit rounding of results, as GPUs compute it.

    16-bit operators accumulate in FP32 there and round their results. Runtimes without such kernels leave the rounding
    out and so hide overflows. Run the graph without optimisations, which would remove the rounding again.
    """
    model = onnx.ModelProto()
    model.CopyFrom(mixed)
    graph = model.graph
    constants_to_initializers(graph)
    halves: dict[str, int] = {}  # tensors of a 16-bit type, and which
    for tensor in graph.initializer:
        if tensor.data_type in HALVES.values():
            halves[tensor.name] = tensor.data_type
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = []
    for node in graph.node:
        half = next((halves[name] for name in node.input if name in halves and node.op_type != "QuantizeLinear"), None)
        if node.op_type == "Cast":
            to = next(a.i for a in node.attribute if a.name == "to")
            half = to if to in HALVES.values() else None
            nodes += _rounding(node.input[0], node.output[0], to) if half else [
                helper.make_node("Identity", node.input, node.output)]
        else:
            nodes += _with_rounding(node, half) if half else [node]
        if half:
            halves.update((name, half) for name in node.output)
    replace_nodes(graph, nodes)
    return model


def keypoints(model: onnx.ModelProto, batches: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Run a graph exactly as its nodes say, on batches of its input's shape: keypoints in the crop, and scores."""
    session, name = open_session(model), model.graph.input[0].name
    logits = [session.run(list(OUTPUTS), {name: batch}) for batch in batches]
    simcc_x, simcc_y = (np.concatenate(axis) for axis in zip(*logits, strict=True))
    height, width = batches[0].shape[2:]
    return decode(simcc_x, simcc_y, (width, height))


def _with_rounding(node: NodeProto, half: int) -> list[NodeProto]:
    """A node with its outputs rounded to a 16-bit type."""
    exact = NodeProto()
    exact.CopyFrom(node)
    exact.output[:] = [f"{name}_exact" for name in node.output]
    return [exact, *(rounding for name in node.output for rounding in _rounding(f"{name}_exact", name, half))]


def _rounding(source: str, target: str, half: int) -> list[NodeProto]:
    return [helper.make_node("Cast", [source], [f"{target}_half"], to=half),
            helper.make_node("Cast", [f"{target}_half"], [target], to=TensorProto.FLOAT)]
