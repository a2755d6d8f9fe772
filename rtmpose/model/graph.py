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
PRODUCTS = ("Conv", "MatMul", "Gemm")  # the operators that multiply

RECIPE = 5  # increases when the kit builds another engine from the same ONNX file, so that old engines are rebuilt

# Type (ONNX's number) and shape of tensors, by name; a dynamic size is 0, as in all shapes here.
Shapes = dict[str, tuple[int, tuple[int, ...]]]

_TYPES: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT64: "int64",
                          TensorProto.INT8: "int8", TensorProto.UINT8: "int8"}


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a graph with a fixed batch size."""

    batch: int
    input_size: tuple[int, int]  # width and height of the crop in pixels
    num_keypoints: int
    bins: tuple[int, int]  # number of SimCC bins over x and over y


def simplify(model: onnx.ModelProto, input_shape: Sequence[int] | None = None) -> onnx.ModelProto:
    """Simplify a graph, for a fixed input shape if given. Raises KitError if onnxsim fails or changes the results."""
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
    """Read and check an ONNX file. Raises KitError if it is missing, truncated or not valid."""
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
    """Check that a graph's only input has this name and can have this shape: N, 3, H, W; raise KitError otherwise."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _shape(value) for value in model.graph.input if value.name not in constants}
    if list(inputs) != [name]:
        raise KitError(f"{path}: has the inputs {_describe(inputs)}, expected {name} alone; check --input")
    found = inputs[name]
    if len(found) != 4 or any(size not in (0, wanted) for size, wanted in zip(found, shape, strict=True)):
        raise KitError(f"{path}: has the input {_describe(inputs)}, --input says {','.join(map(str, shape))}; "
                       "they must agree")


def read_input(model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and shape of a graph's input; a dynamic size is 0."""
    return model.graph.input[0].name, _shape(model.graph.input[0])


def read_spec(model: onnx.ModelProto, path: str | Path) -> ModelSpec:
    """Read the specification of a graph with a fixed batch size. Raises KitError if its outputs are not RTMPose's."""
    batch, _, height, width = _shape(model.graph.input[0])
    outputs = {value.name: _shape(value) for value in model.graph.output}
    x, y = (outputs.get(name, ()) for name in OUTPUTS)
    if not (len(outputs) == 2 and len(x) == len(y) == 3 and all((*x, *y)) and x[0] == batch
            and x[:2] == y[:2] and x[2] * height == y[2] * width):
        raise KitError(f"{path}: has the outputs {_describe(outputs)}, expected simcc_x[{batch},K,Wx] and "
                       f"simcc_y[{batch},K,Wy] with as many bins a pixel over {width} pixels as over {height}")
    return ModelSpec(batch, (width, height), x[1], (x[2], y[2]))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def _describe(values: dict[str, tuple[int, ...]]) -> str:
    described = [f"{name}[{','.join(str(size or '?') for size in shape)}]" for name, shape in values.items()]
    return ", ".join(described) or "none"


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Source of a graph, as export.py wrote it, without the pages that onnxsim adds about itself."""
    return {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("onnxsim.")}


def count_arithmetic(model: onnx.ModelProto) -> dict[str, int]:
    """Number of convolutions and matrix products of a graph by the type of their operands, e.g. ``{"fp32": 69}``."""
    return dict(Counter(kind for node, kind in _operand_types(model)
                        if re.sub("^(Fused|QLinear)", "", node.op_type) in PRODUCTS))


def count_layers(model: onnx.ModelProto) -> dict[str, int]:
    """Number of all operators of a graph by the type of their operands."""
    return dict(Counter(kind for _, kind in _operand_types(model)))


def _operand_types(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each node with the type of its operands. ONNX's own inference stops at ONNX Runtime's operators."""
    types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for node in model.graph.node:
        operand = next((types[name] for name in node.input if name in types), TensorProto.UNDEFINED)
        result = _result_type(node, operand, types)
        types.update((output, result) for output in node.output)
        yield node, _TYPES.get(operand or result, "other")


def _result_type(node: onnx.NodeProto, operand: int, types: dict[str, int]) -> int:
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
    return first[-1] * math.prod(result)
