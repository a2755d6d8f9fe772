"""The ONNX graph: load, check, simplify; the model's specification and its multiply-adds, read back from it."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.errors import KitError, explained, first_line
from rtmpose.machine.cpu import count_cores

if TYPE_CHECKING:
    import onnxruntime

_SKELETON, _KEYPOINTS, WEIGHTS = "skeleton", "keypoints", "weights"  # keys of the metadata
INPUT = "input"
OUTPUTS = ("simcc_x", "simcc_y")
PRODUCTS = ("Conv", "MatMul", "Gemm")  # the operators that multiply

RECIPE = 6  # increases when the kit builds another engine from the same ONNX file, so that old engines are rebuilt

# Type (ONNX's number) and shape of tensors, by name; a dynamic size is 0, as in all shapes here.
Shapes = dict[str, tuple[int, tuple[int, ...]]]

_TYPES: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16",
                          TensorProto.DOUBLE: "fp64", TensorProto.INT64: "int64", TensorProto.INT8: "int8",
                          TensorProto.UINT8: "int8"}

# Operators of ONNX, ONNX Runtime and OpenVINO that only quantized graphs have, e.g. QLinearConv, QGemm, MatMulNBits.
_QUANTIZED = re.compile("[Qq]uant|Integer|^Q[A-Z]|MatMul(NBits|Bnb4|FpQ4)")

_LARGEST = 1 << 31  # numbers in an input, which is TensorRT's limit


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of a network, in the order of its outputs."""

    name: str  # mmpose's for the data set, e.g. coco
    keypoints: tuple[str, ...]  # their names, e.g. left_eye; none if the ONNX file doesn't say


@dataclass(frozen=True)
class ModelSpec:
    """What a graph gives, and where it comes from."""

    num_keypoints: int
    bins: tuple[int, int]  # number of SimCC bins over x and over y
    skeleton: Skeleton
    source: dict[str, str]  # as export.py wrote it


def simplify(model: onnx.ModelProto, input_shape: Sequence[int] | None = None) -> onnx.ModelProto:
    """Simplify a graph, for a fixed input shape if given. Raises KitError if onnxsim fails or changes the results."""
    import onnxsim
    shapes = {model.graph.input[0].name: list(input_shape)} if input_shape else None
    with explained("onnxsim can't simplify the graph", "export it again"):
        simplified, same = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    if not same:
        raise KitError("onnxsim's simplified graph gives other results than the graph; use the graph as it is")
    return simplified


def open_session(model: onnx.ModelProto | bytes) -> "onnxruntime.InferenceSession":
    """A session of ONNX Runtime that runs a graph exactly as its nodes say."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if count_cores() < (os.cpu_count() or 1):  # by default it takes the cores of the machine, whoever may use them
        options.intra_op_num_threads = count_cores()
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def check_runs(model: onnx.ModelProto, path: str | Path, input_shape: Sequence[int]) -> None:
    """Run a graph on zeros, one image if its batch size is dynamic. Raises KitError if it can't run.

    onnxsim prints a traceback for an operator that can't run, and goes on.
    """
    name, (batch, *_) = read_input(model)
    with explained(f"{path}: can't run", "export it again"):
        open_session(model).run(None, {name: np.zeros((batch or 1, *input_shape[1:]), np.float32)})


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read and check an ONNX file, and make FP32 of FP16 in it.

    Raises KitError if it is missing, cut off or not valid, or is quantized already.
    """
    if not Path(path).is_file():
        raise KitError(f"{path}: no such ONNX file; export.py --simplify makes it")
    with explained(f"{path}: is no valid ONNX file or was cut off", "export it again"):
        model = onnx.load(path, "protobuf", load_external_data=False)
        if obstacle := _find_obstacle(model):
            raise KitError(f"{path}: {obstacle}")
        onnx.checker.check_model(model)
        if any(isinstance(text, bytes) for entry in model.metadata_props for text in (entry.key, entry.value)):
            raise ValueError("its metadata is not UTF-8")
        _widen(model)
    return model


def _find_obstacle(model: onnx.ModelProto) -> str | None:
    """Why a file is no network that the kit can read, and what to do, or None. The graph may be broken."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    for name, found, newest in (("IR version", model.ir_version, onnx.IR_VERSION),
                                ("opset", opset, onnx.defs.onnx_opset_version())):
        if found > newest:
            return (f"has {name} {found}, onnx {onnx.__version__} supports {newest} at most; export it with an older "
                    "one, e.g. opset 17 as export.py does, or convert it with onnx.version_converter")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        return "keeps weights in other files, expected all in one; export it again with export.py"
    nodes = (*model.graph.node, *(node for function in model.functions for node in function.node))
    if quantized := Counter(node.op_type for node in nodes if _QUANTIZED.search(node.op_type)):
        found = ", ".join(f"{number} {operator}" for operator, number in quantized.most_common(3))
        return (f"is quantized already (operators: {first_line(found)}), expected the FP32 file that export.py writes; "
                "give that one, with --precision int8 to quantize it")
    return None


def _widen(model: onnx.ModelProto) -> None:
    """Make FP32 of all FP16 and BF16 in a graph, in place: exactly, because FP32 holds all of their numbers.

    The metadata say which type the weights had. Raises an error of ONNX Runtime's if types contradict each other.
    """
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    casts = [attribute for attribute in attributes if attribute.name in ("to", "dtype") and attribute.i in halves]
    tensors = [tensor for tensor in (*model.graph.initializer, *(attribute.t for attribute in attributes))
               if tensor.data_type in halves]
    ends = [value.type.tensor_type for value in (*model.graph.input, *model.graph.output)
            if value.type.tensor_type.elem_type in halves]
    if not (casts or tensors or ends):
        return
    open_session(model)
    if tensors:
        model.metadata_props.add(key=WEIGHTS, value=_TYPES[tensors[0].data_type])
    for tensor in tensors:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for cast in casts:
        cast.i = TensorProto.FLOAT
    for end in ends:
        end.elem_type = TensorProto.FLOAT
    model.graph.ClearField("value_info")  # types of tensors, which may be others now


def name_outputs(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> None:
    """Name the outputs of a graph as in :data:`OUTPUTS`, in place, if it is certain which one is which.

    That is where their shapes, (N, K, Wx) and (N, K, Wy), have as many bins a pixel of an input of ``shape``, N, 3, H,
    W; for a square input, where their names end in x and y. Others stay as they are; :func:`read_spec` refuses them.
    """
    found, (height, width) = {value.name: _shape(value) for value in model.graph.output}, shape[2:]
    if {*OUTPUTS} & {*found} or [len(size) for size in found.values()] != [3, 3]:
        return
    axes = {name: name[-1:].lower() if height == width else found[name][2] for name in found}
    x, y = sorted(found, key=axes.__getitem__, reverse=width > height)
    expected = ("x", "y") if height == width else (found[y][2] * width / height, found[x][2] * height / width)
    if (axes[x], axes[y]) != expected or 0 in axes.values():
        return
    renamed = {x: OUTPUTS[0], y: OUTPUTS[1]}
    for names in (names for node in model.graph.node for names in (node.input, node.output)):
        names[:] = [renamed.get(name, name) for name in names]
    for value in model.graph.output:
        value.name = renamed[value.name]


def name_keypoints(model: onnx.ModelProto, path: str | Path) -> None:
    """Write COCO's keypoints into the metadata of a graph, in place. Raises KitError if it names others."""
    skeleton, source = read_metadata(model)
    if skeleton.keypoints not in ((), COCO_KEYPOINTS):
        raise KitError(f"{path}: names other keypoints than COCO's ({first_line(', '.join(skeleton.keypoints), 60)}); "
                       "leave out --skeleton")
    write_metadata(model, Skeleton("coco", COCO_KEYPOINTS), source)


def find_input(model: onnx.ModelProto, path: str | Path, batch: int | None,
               declared: tuple[str, tuple[int, int, int, int]] | None = None
               ) -> tuple[str, tuple[int, int, int, int]]:
    """Name and shape, N, 3, H, W, of a graph's input for a batch size.

    ``declared`` is name and shape as the user says them, and overrides what is dynamic in the graph. Raises KitError if
    the graph is no network of FP32 images, or graph, batch size and ``declared`` don't agree.
    """
    inputs = {value.name: _shape(value) for value in model.graph.input}
    name, wanted = declared or (next(iter(inputs), INPUT), (batch or 1, 3, 0, 0))
    says = f"--input says {','.join(map(str, wanted))}" if declared else f"--batch {batch} asks for {batch},3,H,W"
    if list(inputs) != [name]:
        raise KitError(f"{path}: has the inputs {_describe(inputs)}, expected {name} alone; check --input")
    if batch not in (None, wanted[0]):
        raise KitError(f"--batch {batch}: {says}; they must agree, or leave one out")
    found = inputs[name]
    if len(found) != 4 or any(size and given and size != given for size, given in zip(found, wanted, strict=True)):
        raise KitError(f"{path}: has the input {_describe(inputs)}, {says}; they must agree")
    shape = wanted[0], 3, found[2] or wanted[2], found[3] or wanted[3]
    if min(shape) < 1:
        raise KitError(f"{path}: has the input {_describe(inputs)}: height and width are dynamic; pass --input")
    if math.prod(shape) > _LARGEST:
        raise KitError(f"{path}: a batch of {shape[0]} crops of {shape[3]}x{shape[2]} (WxH) has more than {_LARGEST:,} "
                       "numbers, which no runtime takes; use a smaller batch")
    for value in (*model.graph.input, *model.graph.output):
        if (kind := value.type.tensor_type.elem_type) != TensorProto.FLOAT:
            raise KitError(f"{path}: {first_line(value.name, 60)} is {_TYPES.get(kind, f'of type {kind}')}, expected "
                           "fp32; --precision makes other types of it. Export it again")
    return name, shape


def read_input(model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and shape of a graph's input; a dynamic size is 0."""
    return model.graph.input[0].name, _shape(model.graph.input[0])


def read_spec(model: onnx.ModelProto, path: str | Path) -> ModelSpec:
    """Read the specification of a graph with a fixed batch size. Raises KitError if its outputs are not RTMPose's."""
    batch, _, height, width = read_input(model)[1]
    outputs = {value.name: _shape(value) for value in model.graph.output}
    x, y = (outputs.get(name, ()) for name in OUTPUTS)
    if not (len(outputs) == 2 and len(x) == len(y) == 3 and all((*x, *y)) and x[0] == batch
            and x[:2] == y[:2] and x[2] * height == y[2] * width):
        raise KitError(f"{path}: has the outputs {_describe(outputs)}, expected simcc_x[{batch},K,Wx] and "
                       f"simcc_y[{batch},K,Wy] with as many bins a pixel over {width} pixels as over {height}")
    skeleton, source = read_metadata(model)
    if len(skeleton.keypoints) not in (0, x[1]):
        raise KitError(f"{path}: gives {x[1]} keypoints, {len(skeleton.keypoints)} are named; export it again, or "
                       "leave out --skeleton")
    return ModelSpec(x[1], (x[2], y[2]), skeleton, source)


def read_metadata(model: onnx.ModelProto) -> tuple[Skeleton, dict[str, str]]:
    """The keypoints that a graph names, and its source."""
    # onnxsim adds pages about itself.
    metadata = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("onnxsim.")}
    name, names = metadata.pop(_SKELETON, "unknown"), metadata.pop(_KEYPOINTS, "")
    return Skeleton(name, tuple(names.split(",")) if names else ()), metadata


def write_metadata(model: onnx.ModelProto, skeleton: Skeleton, source: dict[str, str]) -> None:
    """Write the keypoints of a graph, and its source, into its metadata."""
    onnx.helper.set_model_props(model, {_SKELETON: skeleton.name, _KEYPOINTS: ",".join(skeleton.keypoints), **source})


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def _describe(values: dict[str, tuple[int, ...]]) -> str:
    described = [f"{name}[{','.join(str(size or '?') for size in shape)}]" for name, shape in values.items()]
    return first_line(", ".join(described) or "none")


def count_types(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Number of convolutions and matrix products, and of all operators, by their operands' type, e.g. ``{"fp32": 69}``.

    ONNX's own inference stops at ONNX Runtime's operators.
    """
    arithmetic: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for node in model.graph.node:
        operand = next((types[name] for name in node.input if name in types), TensorProto.UNDEFINED)
        result = _result_type(node, operand, types)
        types.update((output, result) for output in node.output)
        kind = _TYPES.get(operand or result, "other")
        layers[kind] += 1
        if re.sub("^(Fused|QLinear)", "", node.op_type) in PRODUCTS:
            arithmetic[kind] += 1
    return dict(arithmetic), dict(layers)


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
