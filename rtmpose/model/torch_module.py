"""A typed ONNX graph as a PyTorch module, which computes in the graph's types on any device of PyTorch.

In OPERATORS, ONNX's inputs are positional arguments and its attributes keyword arguments. Integer constants (axes,
shapes) are lists, all others tensors. What a graph has and a function doesn't take is an error: nothing is ignored.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
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

    Raises NotImplementedError for an operator that is none of :data:`OPERATORS`. Constants are buffers; those of four
    dimensions are channels last, and so are the convolutions then.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = deepcopy(model).graph
        constants_to_initializers(graph)
        self._input = graph.input[0].name
        self._integers: dict[str, list[int]] = {}
        self._buffer_names: dict[str, str] = {}  # by the constant's name, which may have dots
        for i, constant in enumerate(graph.initializer):
            array = numpy_helper.to_array(constant)
            if constant.data_type == TensorProto.INT64:
                self._integers[constant.name] = array.ravel().tolist()
                continue
            tensor = torch.from_numpy(array.astype("f4")).to(_TYPES[constant.data_type])  # exact
            layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
            self._buffer_names[constant.name] = f"constant_{i}"
            self.register_buffer(f"constant_{i}", tensor.contiguous(memory_format=layout))
        self._steps = [(_bind(node), tuple(node.input), tuple(node.output)) for node in graph.node]

    def forward(self, crops: Tensor) -> list[Tensor]:
        values: dict[str, Any] = {self._input: crops, "": None, **self._integers}
        values |= {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}
        for function, inputs, outputs in self._steps:
            results = function(*(values[name] for name in inputs))
            values.update(zip(outputs, [results] if isinstance(results, Tensor) else results, strict=True))
        return [values[name] for name in OUTPUTS]


def _bind(node: onnx.NodeProto) -> Callable[..., Any]:
    """The function of a node, with the node's attributes."""
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    if operator not in OPERATORS:
        raise NotImplementedError(f"the kit has no {first_line(operator, 60)} for PyTorch, only {', '.join(OPERATORS)}")
    return partial(OPERATORS[operator], **{one.name: helper.get_attribute_value(one) for one in node.attribute})


def _padding(pads: Sequence[int]) -> Sequence[int]:
    """PyTorch's padding, which is the same at both ends of an axis."""
    if pads[:2] != pads[2:]:
        raise ValueError(f"pads {pads} are not the same at both ends")
    return pads[:2]


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Sequence[int] = (),
          strides: Any = 1, pads: Sequence[int] = (0, 0, 0, 0), dilations: Any = 1, group: int = 1) -> Tensor:
    return F.conv2d(x, weight, bias, strides, _padding(pads), dilations, group)


def _max_pool(x: Tensor, *, kernel_shape: Any, strides: Any = 1, pads: Sequence[int] = (0, 0, 0, 0),
              dilations: Any = 1, ceil_mode: int = 0) -> Tensor:
    return F.max_pool2d(x, kernel_shape, strides, list(_padding(pads)), dilations, bool(ceil_mode))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow,
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Clip": torch.clamp,
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: torch.clamp(x * alpha + beta, 0, 1),
    "Conv": _conv, "MatMul": torch.matmul, "MaxPool": _max_pool,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "ReduceL2": lambda x, axes, *, keepdims=1: torch.linalg.vector_norm(x, 2, axes, bool(keepdims)),
    "ReduceMean": lambda x, axes, *, keepdims=1: x.mean(axes, bool(keepdims)),
    "Concat": lambda *tensors, axis: torch.cat(tensors, axis),
    "Split": lambda x, split, *, axis=0: x.split(split, axis),
    "Reshape": lambda x, shape, *, allowzero=0: x.reshape([size or x.shape[i] for i, size in enumerate(shape)]),
    "Flatten": lambda x, *, axis=1: x.reshape(x.shape[:axis].numel(), -1),
    "Squeeze": lambda x, axes: x.squeeze(tuple(axes)),
    "Unsqueeze": lambda x, axes: x.unsqueeze(*axes),
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Cast": lambda x, *, to: x.to(_TYPES[to]),
}
