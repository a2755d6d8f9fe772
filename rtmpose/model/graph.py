"""The ONNX graph: load, check, simplify; the model's specification and its multiply-adds, read back from it."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from rtmpose.errors import KitError

INPUT = "input"
OUTPUTS = ("simcc_x", "simcc_y")

PRODUCTS = ("Conv", "MatMul", "Gemm")
"""The operators that multiply."""

Shapes = dict[str, tuple[int, tuple[int | None, ...]]]
"""ONNX's number of the type, and the shape, of tensors by name."""

RECIPE = 4
"""Counts up when the kit makes another engine of the same ONNX file, so that old engines are rebuilt."""


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a graph with a fixed batch size.

    Attributes:
        batch: number of crops a run.
        input_size: width and height of a crop in pixels.
        num_keypoints: K.
        bins: number of SimCC bins over x and over y.
    """

    batch: int
    input_size: tuple[int, int]
    num_keypoints: int
    bins: tuple[int, int]


def simplify(model: onnx.ModelProto, input_shape: Sequence[int] | None = None) -> onnx.ModelProto:
    """onnxsim's simplification, with the input's shape fixed where one is given.

    Raises:
        KitError: onnxsim can't, or its result differs.
    """
    import onnxsim

    shapes = {model.graph.input[0].name: list(input_shape)} if input_shape else None
    try:
        simplified, same = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    except Exception as error:  # onnxsim passes on whatever its C++ raised
        raise KitError(f"onnxsim can't simplify the graph ({str(error).splitlines()[0][:200]}); export it again"
                       ) from error
    if not same:
        raise KitError("onnxsim's simplified graph gives other results than the graph; use the graph as it is")
    return simplified


def load(path: str | Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        KitError: it is missing, truncated or no valid ONNX.
    """
    if not Path(path).is_file():
        raise KitError(f"{path}: no such ONNX file; export.py --simplify makes it")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the file system each raise their own
        raise KitError(f"{path}: is no valid ONNX file or was cut off ({str(error).splitlines()[0][:120]}); "
                       "export it again") from error
    return model


def check_input(model: onnx.ModelProto, path: str | Path, name: str, shape: Sequence[int]) -> None:
    """Hold the input that an engine is wanted for against a graph.

    Args:
        model: the graph, of the file ``path``.
        name: the input's name.
        shape: N, 3, H, W.

    Raises:
        KitError: the graph has other inputs, or its input can't have this shape.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {i.name: _shape(i) for i in model.graph.input if i.name not in constants}
    if list(inputs) != [name]:
        raise KitError(f"{path}: has the inputs {_told(inputs)}, expected {name} alone; check --input")
    found = inputs[name]
    if len(found) != 4 or any(size not in (None, wanted) for size, wanted in zip(found, shape, strict=True)):
        raise KitError(f"{path}: has the input {_told(inputs)}, --input says {','.join(map(str, shape))}; "
                       "they must agree")


def read_input(model: onnx.ModelProto) -> tuple[str, tuple[int | None, ...]]:
    """Name and shape of a graph's input; None where a size is dynamic."""
    return model.graph.input[0].name, _shape(model.graph.input[0])


def read_spec(model: onnx.ModelProto, path: str | Path) -> ModelSpec:
    """Specification of a graph with a fixed batch size.

    Raises:
        KitError: its outputs are not RTMPose's.
    """
    batch, _, height, width = _shape(model.graph.input[0])
    outputs = {o.name: _shape(o) for o in model.graph.output}
    x, y = (outputs.get(name, ()) for name in OUTPUTS)
    fits = (len(outputs) == 2 and len(x) == len(y) == 3 and None not in (*x, *y) and x[0] == batch
            and x[:2] == y[:2] and x[2] * height == y[2] * width)
    if not fits:
        raise KitError(f"{path}: has the outputs {_told(outputs)}, expected simcc_x[{batch},K,Wx] and "
                       f"simcc_y[{batch},K,Wy] with as many bins a pixel over {width} pixels as over {height}")
    return ModelSpec(batch, (width, height), x[1], (x[2], y[2]))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _told(values: dict[str, tuple[int | None, ...]]) -> str:
    return ", ".join(f"{name}[{','.join(str(d or '?') for d in shape)}]" for name, shape in values.items()) or "none"


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Source of a graph, as export.py wrote it, without the pages that onnxsim adds about itself."""
    return {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("onnxsim.")}


_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT64: "int64",
          TensorProto.INT8: "int8", TensorProto.UINT8: "int8"}


def count_arithmetic(model: onnx.ModelProto) -> dict[str, int]:
    """How many convolutions and matrix products a graph computes in which type, e.g. ``{"fp32": 69}``.

    The type is that of the operands as they reach the operator: what the arithmetic is, whatever was asked for.
    """
    return dict(Counter(kind for node, kind in _typed_nodes(model)
                        if re.sub("^(Fused|QLinear)", "", node.op_type) in PRODUCTS))


def count_layers(model: onnx.ModelProto) -> dict[str, int]:
    """How many of all operators of a graph work on which type."""
    return dict(Counter(kind for _, kind in _typed_nodes(model)))


def _typed_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each node with the type of its operands.

    ONNX's own inference stops at ONNX Runtime's operators; here an operator gives the type that it takes.
    """
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for node in model.graph.node:
        operand = next((types[name] for name in node.input if name in types), TensorProto.UNDEFINED)
        result = _result_type(node, operand, types)
        types.update((output, result) for output in node.output)
        yield node, _TYPES.get(operand or result, "other")


def _result_type(node: onnx.NodeProto, operand: int, types: dict[str, int]) -> int:
    """ONNX's number of the type that a node gives: its operand's, unless it converts."""
    if node.op_type in ("Cast", "Constant"):
        return next((a.t.data_type or a.i for a in node.attribute if a.name in ("to", "value")), operand)
    if node.op_type == "QuantizeLinear":
        return types.get(node.input[2], operand) if len(node.input) > 2 else TensorProto.UINT8
    if node.op_type == "DequantizeLinear":
        return types[node.input[1]]
    return operand


def count_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiplications of each convolution and matrix product of a graph with a fixed batch size, by the node's name."""
    shapes = infer_shapes(model)
    return {node.name: node_macs(node, shapes) for node in model.graph.node if node.op_type in PRODUCTS}


def infer_shapes(model: onnx.ModelProto) -> Shapes:
    """Type and shape of all tensors of a graph."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in inferred.initializer}
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return shapes | {value.name: (value.type.tensor_type.elem_type, _shape(value)) for value in values}


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiplications of one of :data:`PRODUCTS`."""
    (_, first), (_, second), (_, result) = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        return math.prod(second[1:]) * math.prod(result)  # input channels of a group, kernel height and width
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return first[-2 if transposed else -1] * math.prod(result)
