"""The ONNX graph: export, check, simplify, and the contract and the arithmetic read back from it."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from rtmpose.errors import KitError
from rtmpose.files import atomic_write, sha256

if TYPE_CHECKING:
    from rtmpose.checkpoint import Network

INPUT = "input"
OUTPUTS = ("simcc_x", "simcc_y")
OPSET = 17

PRODUCTS = ("Conv", "MatMul", "Gemm")
"""The operators that multiply."""

Shapes = dict[str, tuple[int, tuple[int | None, ...]]]
"""ONNX's number of the type, and the shape, of tensors by name."""

RECIPE = 4
"""Counts up when the kit makes another engine of the same ONNX file, so that old engines are rebuilt."""

EXPORT_TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch that an export may have, relative to the largest logit.

Both compute in float32 but add in another order: 1.2e-6 at most was measured, from RTMPose-t to -x. A wrong graph is
off by about 1, and one that slipped into FP16 by about 1e-3 (2**-11 a rounding). The tolerance lies between.
"""


@dataclass(frozen=True)
class Contract:
    """What a graph with a fixed batch size takes and gives.

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


def export(network: "Network", path: str | Path, metadata: dict[str, str], simplify_it: bool) -> dict[str, float]:
    """Write a network as one ONNX file with a dynamic batch, checked against PyTorch before it is there.

    Args:
        network: what :func:`rtmpose.checkpoint.load_network` gave.
        path: the ONNX file to write.
        metadata: where the graph comes from; kept in the file.
        simplify_it: whether onnxsim simplifies it.

    Returns:
        The largest absolute difference between ONNX Runtime and PyTorch, relative to the largest logit, by
        ``"simcc_x, batch 1"`` and so on.

    Raises:
        KitError: the difference exceeds :data:`EXPORT_TOLERANCE`, or the file can't be written.
    """
    import torch

    width, height = network.input_size
    sample = torch.zeros(1, 3, height, width)
    with atomic_write(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The tracing exporter: the graph is smaller than the newer one's, and it needs no onnxscript.
            torch.onnx.export(network.module, (sample,), str(temporary), dynamo=False, opset_version=OPSET,
                              input_names=[INPUT], output_names=list(OUTPUTS),
                              dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)})
        model = onnx.load(temporary)
        if simplify_it:
            model = simplify(model)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, temporary)
        differences = compare_with_torch(network, temporary)
        worst = max(differences.values(), key=lambda d: d if np.isfinite(d) else np.inf)
        if not worst <= EXPORT_TOLERANCE:
            raise KitError(f"{path}: not written, ONNX Runtime differs from PyTorch by {worst:.1e} of the largest "
                           f"logit, expected at most {EXPORT_TOLERANCE:.0e}; check the checkpoint for NaN")
    return differences


def compare_with_torch(network: "Network", path: str | Path) -> dict[str, float]:
    """Run a graph in ONNX Runtime at two batch sizes and measure how far it is from PyTorch (see :func:`export`)."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    width, height = network.input_size
    random = np.random.default_rng(0)
    differences = {}
    for batch in (1, 3):
        crops = random.standard_normal((batch, 3, height, width), dtype=np.float32)
        with torch.inference_mode():
            expected = [output.numpy() for output in network.module(torch.from_numpy(crops))]
        for name, given, wanted in zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT: crops}), expected, strict=True):
            differences[f"{name}, batch {batch}"] = float(np.abs(given - wanted).max() / np.abs(wanted).max())
    return differences


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


def read_contract(model: onnx.ModelProto, path: str | Path) -> Contract:
    """What a graph with a fixed batch size takes and gives.

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
    return Contract(batch, (width, height), x[1], (x[2], y[2]))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _told(values: dict[str, tuple[int | None, ...]]) -> str:
    return ", ".join(f"{name}[{','.join(str(d or '?') for d in shape)}]" for name, shape in values.items()) or "none"


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Where the graph comes from, as :func:`export` wrote it, without the pages that onnxsim adds about itself."""
    return {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("onnxsim.")}


_TYPES = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT64: "int64",
          onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "int8"}


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
        taken = given = next((types[name] for name in node.input if name in types), onnx.TensorProto.UNDEFINED)
        if node.op_type in ("Cast", "Constant"):
            given = next((a.t.data_type or a.i for a in node.attribute if a.name in ("to", "value")), taken)
        elif node.op_type == "QuantizeLinear":
            given = types.get(node.input[2], taken) if len(node.input) > 2 else onnx.TensorProto.UINT8
        elif node.op_type == "DequantizeLinear":
            given = types[node.input[1]]
        types.update((output, given) for output in node.output)
        yield node, _TYPES.get(taken or given, "other")


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


def describe_source(config: str | Path, weights: str | Path) -> dict[str, str]:
    """Where an exported graph comes from, to be kept in its metadata."""
    return {"config": Path(config).name, "config_sha256": sha256(config),
            "checkpoint": Path(weights).name, "checkpoint_sha256": sha256(weights)}
