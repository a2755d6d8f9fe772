"""How fast a network can be on a card at best: its arithmetic and its traffic against what the card was measured to do.

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
    """One convolution or matrix product.

    Attributes:
        type: what it computes in: ``fp32`` or ``fp16``.
        flops: floating-point operations, two a multiply-add.
        bytes: what it reads and writes, each operand and the result once.
    """

    type: str
    flops: int
    bytes: int


@dataclass(frozen=True)
class Ceilings:
    """What a card was measured to do.

    Attributes:
        flops: floating-point operations a second of a large matrix product, by type.
        bandwidth: bytes a second of a large copy within its memory, read and written.
    """

    flops: Mapping[str, float]
    bandwidth: float


def count_work(model: onnx.ModelProto) -> list[Work]:
    """Every convolution and matrix product of a graph with a fixed batch size."""
    shapes = infer_shapes(model)
    return [_work(node, shapes) for node in model.graph.node if node.op_type in PRODUCTS]


def _work(node: onnx.NodeProto, shapes: Shapes) -> Work:
    kind = _TYPES[shapes[node.input[0]][0]]
    moved = sum(prod(shapes[name][1]) for name in (*node.input, *node.output) if name)
    return Work(kind, 2 * node_macs(node, shapes), _BYTES[kind] * moved)


def shortest_ms(work: Iterable[Work], ceilings: Ceilings) -> float:
    """Milliseconds that the work takes at least, if one operator runs after the other and each is bound either by
    arithmetic or by memory. What a card keeps in its cache between operators it need not move, so a very good runtime
    can beat this."""
    return 1e3 * sum(max(one.flops / ceilings.flops[one.type], one.bytes / ceilings.bandwidth) for one in work)
