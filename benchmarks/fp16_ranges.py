"""FP16's range: the largest and the smallest magnitude of everything that the FP32 network computes.

    python3 benchmarks/fp16_ranges.py --model_path rtmpose-t.onnx --datasets people

Runs the FP32 graph over real crops and prints every tensor, and every sum hidden inside an operator, that comes
within a factor of 4 of FP16's largest number, then the largest of the others. Hidden sums are the sum of squares in
ReduceL2, and a convolution's or matrix product's sum of magnitudes, which no order of adding can exceed.
"""

from common import run

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from subject import load_subject, parse_arguments
from tqdm import tqdm

from rtmpose.model import graph
from rtmpose.model.mixed_precision import LARGEST, SPARE


def with_magnitudes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Add outputs ``t:max`` and ``t:min`` to a graph: the largest and the smallest non-zero magnitude of each tensor
    and hidden sum ``t``. Returns the graph and the names ``t``.
    """
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants.update(node.output[0] for node in model.graph.node if node.op_type == "Constant")
    names, nodes = [], []
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        names += node.output
        if node.op_type in graph.PRODUCTS:
            names.append(f"{node.name}: sum of magnitudes")
            nodes += _sum_of_magnitudes(node, names[-1])
        elif node.op_type == "ReduceL2":
            names.append(f"{node.name}: sum of squares")
            nodes.append(helper.make_node("Mul", [node.output[0]] * 2, [names[-1]]))
    measured.graph.initializer.append(numpy_helper.from_array(np.float32(np.inf), "infinity"))
    measured.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    for name in names:
        nodes += _extremes(name)
    measured.graph.node.extend(nodes)
    measured.graph.ClearField("output")
    measured.graph.output.extend(helper.make_tensor_value_info(f"{name}:{end}", TensorProto.FLOAT, None)
                                 for name in names for end in ("max", "min"))
    return measured, names


def _sum_of_magnitudes(node: onnx.NodeProto, name: str) -> list[onnx.NodeProto]:
    """The product of the magnitudes of a node's inputs."""
    magnitudes = [helper.make_node("Abs", [source], [f"{name}|{index}"]) for index, source in enumerate(node.input)]
    product = onnx.NodeProto()
    product.CopyFrom(node)
    product.name, product.output[:] = name, [name]
    product.input[:] = [magnitude.output[0] for magnitude in magnitudes]
    return [*magnitudes, product]


def _extremes(name: str) -> list[onnx.NodeProto]:
    magnitude, nonzero = f"{name}|abs", f"{name}|nonzero"
    return [
        helper.make_node("Abs", [name], [magnitude]),
        helper.make_node("ReduceMax", [magnitude], [f"{name}:max"], keepdims=0),
        helper.make_node("Equal", [magnitude, "zero"], [f"{name}|is_zero"]),
        helper.make_node("Where", [f"{name}|is_zero", "infinity", magnitude], [nonzero]),
        helper.make_node("ReduceMin", [nonzero], [f"{name}:min"], keepdims=0),
    ]


def measure(model: onnx.ModelProto, batches: list[np.ndarray]) -> dict[str, tuple[float, float]]:
    """Largest and smallest non-zero magnitude by name, over all batches."""
    measured, names = with_magnitudes(model)
    session = onnxruntime.InferenceSession(measured.SerializeToString(), providers=["CPUExecutionProvider"])
    largest, smallest = np.zeros(len(names)), np.full(len(names), np.inf)
    for batch in tqdm(batches, unit="batch", disable=None):
        values = np.array(session.run(None, {graph.INPUT: batch}), np.float64)
        largest, smallest = np.maximum(largest, values[::2]), np.minimum(smallest, values[1::2])
    return {name: (big, small) for name, big, small in zip(names, largest, smallest, strict=True)}


def show(title: str, rows: list[tuple[str, tuple[float, float]]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n\n| tensor | largest | smallest non-zero |\n|---|---|---|")
    for name, (largest, smallest) in rows:
        print(f"| {name} | {largest:.4g} | {smallest:.2g} |")


def main() -> int:
    """Measure and print."""
    model, batches = load_subject(parse_arguments(__doc__))
    ranges = measure(model, batches)
    order = sorted(ranges.items(), key=lambda row: -row[1][0])
    close = [row for row in order if row[1][0] > LARGEST / SPARE]
    show(f"Above {LARGEST / SPARE:.0f}, FP16's largest number over {SPARE:g}: {len(close)} of {len(order)}", close)
    show("The largest of the others", order[len(close):len(close) + 10])
    return 0


if __name__ == "__main__":
    run(main)
