"""A network's shortest possible time on a GPU, from its arithmetic, its memory traffic and the GPU's measured ceilings.

The roofline of Williams, Waterman and Patterson ("Roofline: an insightful visual performance model", 2009), summed over
convolutions and matrix products. Everything between them counts as free, as if fused into them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import TensorProto

from rtmpose.model.graph import PRODUCTS, Shapes, infer_shapes, node_macs

_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
_BYTES = {"fp32": 4, "fp16": 2}


@dataclass(frozen=True)
class Work:
    """One convolution or matrix product."""

    type: str  # that it computes in: fp32 or fp16
    flops: int  # floating-point operations, two a multiply-add
    bytes: int  # read and written, each operand and the result once


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a GPU."""

    flops: Mapping[str, float]  # floating-point operations a second of a large matrix product, by type
    bandwidth: float  # bytes a second, read and written, of a large copy within its memory


def count_work(model: onnx.ModelProto) -> list[Work]:
    """Every convolution and matrix product of a graph with a fixed batch size."""
    shapes = infer_shapes(model)
    return [_work(node, shapes) for node in model.graph.node if node.op_type in PRODUCTS]


def _work(node: onnx.NodeProto, shapes: Shapes) -> Work:
    dtype = _TYPES[shapes[node.input[0]][0]]
    values = sum(prod(shapes[name][1]) for name in (*node.input, *node.output) if name)
    return Work(dtype, 2 * node_macs(node, shapes), _BYTES[dtype] * values)


def shortest_ms(work: Iterable[Work], ceilings: Ceilings) -> float:
    """Minimum milliseconds if the operators run one after the other, each bound by arithmetic or by memory.

    A runtime that keeps data in the cache between operators can beat this.
    """
    return 1e3 * sum(max(one.flops / ceilings.flops[one.type], one.bytes / ceilings.bandwidth) for one in work)
