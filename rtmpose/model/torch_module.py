"""A typed ONNX graph as a PyTorch module, which computes in the graph's types on any device of PyTorch.

An operator is a function below: ONNX's inputs are its positional arguments, ONNX's attributes its keyword arguments.
Integer constants (axes, shapes, sizes) are tuples of int, all others are tensors. What a graph has and a function
doesn't take is an error, so nothing is ignored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from rtmpose.errors import first_line
from rtmpose.model.graph import OUTPUTS
from rtmpose.model.mixed_precision import constants_to_initializers

_TYPES: dict[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16,
                                  TensorProto.BFLOAT16: torch.bfloat16}


class OnnxModule(torch.nn.Module):
    """The graph: crops, float32 (N, 3, H, W), to ``simcc_x`` and ``simcc_y``, float32 (N, K, W) each.

    Constants are buffers, those of four dimensions channels last, so that convolutions are.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Raises NotImplementedError for an operator that is none of :data:`OPERATORS`."""
        super().__init__()
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        constants_to_initializers(graph)
        self._input = graph.input[0].name
        self._integers: dict[str, tuple[int, ...]] = {}
        self._buffer_names: dict[str, str] = {}  # by the constant's name, which a buffer can't have if it has a dot
        for i, tensor in enumerate(graph.initializer):
            if tensor.data_type == TensorProto.INT64:
                self._integers[tensor.name] = tuple(numpy_helper.to_array(tensor).ravel().tolist())
            else:
                self._buffer_names[tensor.name] = f"constant_{i}"
                self.register_buffer(f"constant_{i}", _to_tensor(tensor))
        self._steps = [(_bind(node), tuple(node.input), tuple(node.output)) for node in graph.node]

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        values: dict[str, Any] = {self._input: crops, "": None, **self._integers}
        values |= {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}
        for function, inputs, outputs in self._steps:
            results = function(*(values[name] for name in inputs))
            values.update(zip(outputs, [results] if isinstance(results, Tensor) else results, strict=True))
        return tuple(values[name] for name in OUTPUTS)


def _to_tensor(constant: TensorProto) -> Tensor:
    tensor = torch.from_numpy(numpy_helper.to_array(constant).astype("f4")).to(_TYPES[constant.data_type])  # exact
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _bind(node: onnx.NodeProto) -> Callable[..., Any]:
    """The function of a node, with the node's attributes."""
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    if operator not in OPERATORS:
        raise NotImplementedError(f"the kit has no {first_line(operator, 60)} for PyTorch, only {', '.join(OPERATORS)}")
    return partial(OPERATORS[operator], **{one.name: helper.get_attribute_value(one) for one in node.attribute})


def _padding(pads: Sequence[int]) -> tuple[int, int]:
    """Height and width of PyTorch's padding, which is the same at both ends."""
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        raise ValueError(f"pads {tuple(pads)} are not the same at both ends")
    return top, left


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Sequence[int] = (),
          strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
          group: int = 1) -> Tensor:
    return F.conv2d(x, weight, bias, tuple(strides), _padding(pads), tuple(dilations), group)


def _max_pool(x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1),
              pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1), ceil_mode: int = 0) -> Tensor:
    return F.max_pool2d(x, tuple(kernel_shape), tuple(strides), _padding(pads), tuple(dilations), bool(ceil_mode))


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(x * alpha + beta, 0, 1)


def _reduce_l2(x: Tensor, axes: Sequence[int], *, keepdims: int = 1) -> Tensor:
    return torch.linalg.vector_norm(x, 2, tuple(axes), bool(keepdims))


def _reduce_mean(x: Tensor, axes: Sequence[int], *, keepdims: int = 1) -> Tensor:
    return torch.mean(x, tuple(axes), bool(keepdims))


def _split(x: Tensor, split: Sequence[int], *, axis: int = 0) -> tuple[Tensor, ...]:
    return torch.split(x, list(split), axis)


def _reshape(x: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(shape)])


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow,
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "HardSigmoid": _hard_sigmoid, "Clip": torch.clamp,
    "Conv": _conv, "MatMul": torch.matmul, "MaxPool": _max_pool,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True), "ReduceL2": _reduce_l2, "ReduceMean": _reduce_mean,
    "Concat": lambda *tensors, axis: torch.cat(tensors, axis), "Split": _split, "Reshape": _reshape,
    "Flatten": lambda x, *, axis=1: x.reshape(x.shape[:axis].numel(), -1),
    "Squeeze": lambda x, axes: x.squeeze(tuple(axes)), "Unsqueeze": _unsqueeze,
    "Transpose": lambda x, *, perm: x.permute(tuple(perm)), "Cast": lambda x, *, to: x.to(_TYPES[to]),
}
