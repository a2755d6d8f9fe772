"""The ONNX graph: load, check, simplify; the model's specification and its multiply-adds, read back from it."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from rtmpose.errors import KitError, first_line

_SKELETON, _KEYPOINTS = "skeleton", "keypoints"  # keys of the metadata
INPUT = "input"
OUTPUTS = ("simcc_x", "simcc_y")
PRODUCTS = ("Conv", "MatMul", "Gemm")  # the operators that multiply

RECIPE = 6  # increases when the kit builds another engine from the same ONNX file, so that old engines are rebuilt

# Type (ONNX's number) and shape of tensors, by name; a dynamic size is 0, as in all shapes here.
Shapes = dict[str, tuple[int, tuple[int, ...]]]

_TYPES: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16",
                          TensorProto.INT64: "int64", TensorProto.INT8: "int8", TensorProto.UINT8: "int8"}


_LARGEST = 1 << 31  # of a file in bytes, which is protobuf's limit, and of an input in numbers, which is TensorRT's


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of a network, in the order of its outputs."""

    name: str  # mmpose's for the data set, e.g. coco
    keypoints: tuple[str, ...]  # their names, e.g. left_eye; none if the ONNX file doesn't say


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
        raise KitError(f"onnxsim can't simplify the graph ({first_line(error)}); export it again") from error
    if not same:
        raise KitError("onnxsim's simplified graph gives other results than the graph; use the graph as it is")
    return simplified


def check_runs(model: onnx.ModelProto, path: str | Path, input_shape: Sequence[int]) -> None:
    """Run a graph on zeros, one image if its batch size is dynamic. Raises KitError if it can't run.

    onnxsim prints a traceback for an operator that can't run, and goes on.
    """
    import onnxruntime
    name, (batch, *_) = read_input(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {name: np.zeros((batch or 1, *input_shape[1:]), np.float32)})
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise KitError(f"{path}: can't run ({first_line(error)}); export it again") from error


def load(path: str | Path) -> onnx.ModelProto:
    """Read and check an ONNX file. Raises KitError if it is missing, truncated or not valid."""
    if not Path(path).is_file():
        raise KitError(f"{path}: no such ONNX file; export.py --simplify makes it")
    if (size := os.path.getsize(path)) > _LARGEST:
        raise KitError(f"{path}: has {size / 2**30:.1f} GiB, an ONNX file has at most 2; export it again")
    try:
        model = onnx.load(path, "protobuf", load_external_data=False)
        external = _is_external(model)
        if not external:
            onnx.checker.check_model(model)
        if any(isinstance(text, bytes) for entry in model.metadata_props for text in (entry.key, entry.value)):
            raise ValueError("its metadata is not UTF-8")
    except Exception as error:  # protobuf, onnx and the file system each raise their own
        raise KitError(f"{path}: is no valid ONNX file or was cut off ({first_line(error, 120)}); export it again"
                       ) from error
    if external:
        raise KitError(f"{path}: keeps weights in other files, expected all in one; export it again with export.py")
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:  # as old exporters wrote them
        model.graph.input.remove(value)
    return model


def _is_external(part: Message) -> bool:
    """Whether a tensor anywhere in a model, or in a part of it, lies in another file."""
    if isinstance(part, TensorProto):
        return part.data_location == TensorProto.EXTERNAL or bool(part.external_data)
    return any(_is_external(child) for field, value in part.ListFields() if field.message_type
               for child in (value if isinstance(value, Iterable) else [value]))


def find_input(model: onnx.ModelProto, path: str | Path, batch: int | None,
               declared: tuple[str, tuple[int, int, int, int]] | None = None
               ) -> tuple[str, tuple[int, int, int, int]]:
    """Name and shape, N, 3, H, W, of a graph's input for a batch size.

    ``declared`` is name and shape as the user says them, and overrides what is dynamic in the graph. Raises KitError if
    the graph is no network of FP32 images, or graph, batch size and ``declared`` don't agree.
    """
    inputs = {value.name: _shape(value) for value in model.graph.input}
    if any(size.HasField("dim_value") and size.dim_value < 1
           for value in model.graph.input for size in value.type.tensor_type.shape.dim):
        raise KitError(f"{path}: has an input without pixels; export it again")
    name = declared[0] if declared else next(iter(inputs), INPUT)
    if list(inputs) != [name]:
        raise KitError(f"{path}: has the inputs {_describe(inputs)}, expected {name} alone; check --input")
    found, wanted = inputs[name], declared[1] if declared else (batch or 1, 3, 0, 0)
    if batch not in (None, wanted[0]):
        raise KitError(f"--batch {batch}: --input says {','.join(map(str, wanted))}; they must agree, or leave one out")
    if len(found) != 4 or any(size and given and size != given for size, given in zip(found, wanted, strict=True)):
        says = f"--input says {','.join(map(str, wanted))}" if declared else f"--batch {batch} asks for {batch},3,H,W"
        raise KitError(f"{path}: has the input {_describe(inputs)}, {says}; they must agree")
    height, width = (size or given for size, given in zip(found[2:], wanted[2:], strict=True))
    if min(height, width) < 1:
        raise KitError(f"{path}: has the input {_describe(inputs)} of no fixed height and width; say them with --input")
    if math.prod(shape := (wanted[0], 3, height, width)) > _LARGEST:
        raise KitError(f"{path}: a batch of {wanted[0]} crops of {width}x{height} (WxH) has more than {_LARGEST:,} "
                       "numbers, which no runtime takes; use a smaller batch")
    for value in (*model.graph.input, *model.graph.output):
        if (kind := value.type.tensor_type.elem_type) != TensorProto.FLOAT:
            raise KitError(f"{path}: {first_line(value.name, 60)} is {_type_name(kind)}, expected FLOAT (32 bits); "
                           "--precision makes other types of it. Export it again")
    return name, shape


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else f"of type {kind}"


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


def read_skeleton(model: onnx.ModelProto) -> Skeleton:
    """The keypoints of a graph, as export.py wrote them into its metadata."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    keypoints = metadata.get(_KEYPOINTS)
    return Skeleton(metadata.get(_SKELETON, "unknown"), tuple(keypoints.split(",")) if keypoints else ())


def write_metadata(model: onnx.ModelProto, skeleton: Skeleton, source: dict[str, str]) -> None:
    """Write the keypoints of a graph, and its source, into its metadata."""
    onnx.helper.set_model_props(model, {_SKELETON: skeleton.name, _KEYPOINTS: ",".join(skeleton.keypoints), **source})


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def _describe(values: dict[str, tuple[int, ...]]) -> str:
    described = [f"{name}[{','.join(str(size or '?') for size in shape)}]" for name, shape in values.items()]
    return first_line(", ".join(described) or "none")


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Source of a graph, as export.py wrote it, without the pages that onnxsim adds about itself."""
    return {entry.key: entry.value for entry in model.metadata_props
            if not entry.key.startswith("onnxsim.") and entry.key not in (_SKELETON, _KEYPOINTS)}


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
