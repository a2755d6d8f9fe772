"""What TensorRT-RTX makes of INT8: kernels and memory traffic of FP16, the kit's INT8, and variants of it. No GPU.

    python3 benchmarks/int8_layers.py

Weights, factors and ranges are made up: kernels depend on the graph alone. Traffic is what all kernels read and write a
batch, weights included.
"""

from common import Parser, positive, run

import importlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from rtmpose.engines.build import plan_build
from rtmpose.engines.runtime import import_package
from rtmpose.engines.tensorrt import INT8_SCHEME
from rtmpose.engines.tensorrt.layers import read_kernels
from rtmpose.errors import KitError
from rtmpose.model import graph
from rtmpose.model.checkpoint import load_network
from rtmpose.model.config import build_estimator, read_config
from rtmpose.model.export import export
from rtmpose.model.int8 import quantize
from rtmpose.model.int8.equalize import Factors, equalize, equalized_tensors
from rtmpose.model.mixed_precision import replace_nodes, to_mixed_precision
from rtmpose.report.summary import markdown

BUILD = importlib.import_module("rtmpose.engines.tensorrt.build")
ROOT = Path(__file__).resolve().parents[1]
REACH = 4.0  # every tensor lies between this and its negative


def make_graphs(fp32: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graphs that are compared, of a simplified FP32 graph, with their names."""
    yield "FP16", to_mixed_precision(fp32, "fp16")[0]
    factors = make_factors(fp32)
    attention = [name for name in factors if "/attention/Mul" in name]
    depthwise = [node.name for node in fp32.graph.node if node.op_type == "Conv" and any(
        attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)]
    yield "INT8, as for TensorRT", to_int8(fp32, factors)
    yield "a: channels not equalized", to_int8(fp32)
    yield "b: equalized only where factors can be folded: behind the attention", to_int8(
        fold_into_attention(equalize(fp32, {name: factors[name] for name in attention})))
    yield "c: a, depthwise convolutions FP16", to_int8(fp32, kept=depthwise)
    sums = quantize_operands(fp32, ("Add", "Concat"))
    yield "d: a, Q/DQ before sums and concatenations", to_int8(sums)
    yield "e: a, outputs of convolutions quantised", to_int8(fp32, outputs=True)
    yield "f: a, one scale for all weights of a convolution", one_scale(to_int8(fp32))
    yield "c, d and e", to_int8(sums, kept=depthwise, outputs=True)
    yield "c and f", one_scale(to_int8(fp32, kept=depthwise))
    yield "c, d, e and f", one_scale(to_int8(sums, kept=depthwise, outputs=True))


def make_factors(fp32: onnx.ModelProto) -> Factors:
    """Random factors for every channel that is equalized."""
    shapes, random = graph.infer_shapes(fp32), np.random.default_rng(0)
    return {name: random.uniform(0.1, 1, shapes[name][1][1]).tolist() for name in equalized_tensors(fp32)}


def to_int8(fp32: onnx.ModelProto, factors: Factors | None = None, kept: Iterable[str] = (), outputs: bool = False
            ) -> onnx.ModelProto:
    """The kit's INT8 graph for TensorRT, with convolutions ``kept`` in FP16, or with quantised outputs."""
    equalized = equalize(fp32, factors or {})
    ranges = {name: (-REACH, REACH) for node in equalized.graph.node for name in (*node.input, *node.output)}
    final = [node.name for node in fp32.graph.node if node.op_type == "Conv"][-1]
    scheme = replace(INT8_SCHEME, outputs=outputs)
    return to_mixed_precision(quantize.insert_quantization(equalized, ranges, scheme, [final, *kept]), "fp16")[0]


def fold_into_attention(equalized: onnx.ModelProto) -> onnx.ModelProto:
    """Multiply the attention's few numbers with the factors, not its product with the features."""
    producers = {name: node for node in equalized.graph.node for name in node.output}
    nodes = []
    for node in equalized.graph.node:
        if not node.name.endswith("_equalized"):
            nodes.append(node)
            continue
        product = producers[node.input[0]]
        nodes.remove(product)
        scaled = f"{product.input[1]}_scaled"
        nodes += [helper.make_node("Mul", [product.input[1], node.input[1]], [scaled], scaled),
                  helper.make_node("Mul", [product.input[0], scaled], [node.output[0]], product.name)]
    replace_nodes(equalized.graph, nodes)
    return equalized


def quantize_operands(fp32: onnx.ModelProto, operators: tuple[str, ...]) -> onnx.ModelProto:
    """A copy of an FP32 graph in which what some operators of the backbone read is quantised."""
    quantized = deepcopy(fp32)
    quantized.graph.initializer.extend([numpy_helper.from_array(np.float32(REACH / 127), "scale"),
                                        numpy_helper.from_array(np.int8(0), "zero")])
    nodes, done = [], set()
    for node in quantized.graph.node:
        for index, name in enumerate(node.input if node.op_type in operators and "/backbone/" in node.name else ()):
            if name not in done:
                nodes += [helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], f"{name}_q"),
                          helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"],
                                           f"{name}_dq")]
                done.add(name)
            node.input[index] = f"{name}_dq"
        nodes.append(node)
    replace_nodes(quantized.graph, nodes)
    return quantized


def one_scale(typed: onnx.ModelProto) -> onnx.ModelProto:
    """Give the weights of each convolution one scale, where they have one for each output channel."""
    tensors = {tensor.name: tensor for tensor in typed.graph.initializer}
    for node in typed.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            del node.attribute[:]
            for name in node.input[1:]:
                values = numpy_helper.to_array(tensors[name])
                tensors[name].CopyFrom(numpy_helper.from_array(values.max(), name))
    return typed


def main() -> int:
    """Build all graphs, and print a row for each."""
    parser = Parser(description=__doc__)
    parser.add_argument("--cfg", type=Path, default=ROOT / "rtmpose-m_8xb256-420e_coco-256x192.py", metavar="FILE.py",
                        help="mmpose's config of the network; default: RTMPose-m's")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights, path, engine = (Path(folder) / name for name in ("a.pth", "a.onnx", "a.engine"))
        torch.save(build_estimator(read_config(args.cfg).model, args.cfg).state_dict(), weights)
        export(load_network(args.cfg, weights), path, {}, simplify_it=True)
        plan = plan_build(path, engine, args.batch, "fp16", "tensorrt")
        fp32, (facts,) = graph.simplify(plan.model, plan.shape), plan.candidates
        convolutions = {node.name: "int8" for node in fp32.graph.node if node.op_type == "Conv"}
        for name, typed in make_graphs(fp32):
            (built,) = BUILD.build(typed, engine, facts)
            kernels = read_kernels(BUILD.get_logger(import_package(facts.package)).layers)
            if not kernels:
                raise KitError(f"{facts.runtime} doesn't log its layers; install tensorrt-rtx-cu13 alone")
            # The last kernel that names a convolution: others may only pad its input.
            int8 = {name: kernel for kernel in kernels if kernel.type(convolutions) == "int8"
                    for name in convolutions.keys() & kernel.operators}
            writes = Counter(kind for kernel in int8.values() for kind in dict(kernel.writes))
            rows.append({f"{facts.runtime}, {args.cfg.stem}, batch {args.batch}": name, "kernels": str(len(kernels)),
                         "GB a batch": f"{built.kernels['bytes'] / 1e9:.3f}", "INT8 convolutions": str(len(int8)),
                         "they write": ", ".join(f"{number} {kind}" for kind, number in writes.items()) or "-"})
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    run(main)
