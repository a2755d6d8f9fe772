"""The ONNX graph as a PyTorch module: each operator and the whole graph, in FP32, FP16 and BF16."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emulation
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtmpose.model import graph
from rtmpose.model.mixed_precision import HALVES, to_mixed_precision
from rtmpose.model.torch_module import OPERATORS, OnnxModule

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
STEP = {"fp32": 2**-20, "fp16": 2**-10, "bf16": 2**-7}  # of a result, relative to the largest


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def make(operator: str, constants: Sequence[np.ndarray | None] = (), outputs: int = 1, kind: int = TensorProto.FLOAT,
         **attributes: Any) -> onnx.ModelProto:
    """A graph of one operator, of ``input`` and constants; ``simcc_y`` is its last result."""
    tensors = {f"a.{i}/b": constant for i, constant in enumerate(constants) if constant is not None}
    names = ["input", *("" if constant is None else f"a.{i}/b" for i, constant in enumerate(constants))]
    results = [*(f"unused_{i}" for i in range(outputs - 2)), *(["simcc_x"] if outputs > 1 else []), "simcc_y"]
    nodes = [helper.make_node(operator, names, results, "the node", **attributes)]
    if outputs == 1:
        nodes.append(helper.make_node("Relu", ["input"], ["simcc_x"]))
    values = {name: helper.make_tensor_value_info(name, kind, None) for name in ("input", *graph.OUTPUTS)}
    typed = [numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(
        helper.tensor_dtype_to_np_dtype(kind)), name) for name, value in tensors.items()]
    made = helper.make_graph(nodes, "test", [values["input"]], [values[name] for name in graph.OUTPUTS], typed)
    # ReduceMean's axes are an attribute until opset 17, ReduceL2's as well.
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "Add": ((2, 3, 4), {"constants": [floats(4)]}),
    "Sub": ((2, 3, 4), {"constants": [floats(3, 1)]}),
    "Mul": ((2, 3, 4), {"constants": [np.float32(1.7)]}),
    "Div": ((2, 3, 4), {"constants": [np.abs(floats(2, 1, 4)) + 1]}),
    "Pow": ((2, 3, 4), {"constants": [np.float32(2)]}),
    "Relu": ((2, 3, 4), {}),
    "Sigmoid": ((2, 3, 4), {}),
    "HardSigmoid": ((2, 3, 40), {"alpha": 1 / 6}),
    "HardSigmoid with defaults": ((2, 3, 40), {}),
    "Clip": ((2, 3, 4), {"constants": [np.float32(-0.3)]}),
    "Clip above": ((2, 3, 4), {"constants": [None, np.float32(0.3)]}),
    "Conv": ((2, 6, 12, 9), {"constants": [floats(4, 6, 3, 3), floats(4)], "kernel_shape": [3, 3], "strides": [2, 1],
                             "pads": [1, 2, 1, 2], "dilations": [1, 2]}),
    "Conv by groups": ((2, 6, 12, 9), {"constants": [floats(6, 1, 5, 5)], "group": 6, "pads": [2, 2, 2, 2]}),
    "MatMul": ((2, 3, 4), {"constants": [floats(2, 4, 5)]}),
    "MaxPool": ((2, 3, 12, 9), {"kernel_shape": [5, 3], "strides": [1, 2], "pads": [2, 1, 2, 1]}),
    "MaxPool with ceiling": ((2, 3, 12, 9), {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    "GlobalAveragePool": ((2, 3, 12, 9), {}),
    "ReduceL2": ((2, 3, 8), {"axes": [2]}),
    "ReduceL2 of two": ((2, 3, 8), {"axes": [-1, 1], "keepdims": 0}),
    "ReduceMean": ((2, 3, 8), {"axes": [1, 2], "keepdims": 0}),
    "Concat": ((2, 3, 4), {"constants": [floats(2, 2, 4)], "axis": 1}),
    "Split": ((2, 7, 4), {"constants": [np.array([3, 4])], "outputs": 2, "axis": 1}),
    "Split in three": ((2, 3, 9), {"constants": [np.array([4, 4, 1])], "outputs": 3, "axis": -1}),
    "Reshape": ((2, 3, 4, 5), {"constants": [np.array([0, -1, 10])]}),
    "Flatten": ((2, 3, 4, 5), {"axis": 2}),
    "Flatten to one row": ((2, 3, 4), {"axis": 0}),
    "Squeeze": ((2, 1, 3, 1), {"constants": [np.array([-1, 1])]}),
    "Unsqueeze": ((2, 3), {"constants": [np.array([-1])]}),
    "Transpose": ((2, 3, 4), {"perm": [2, 0, 1]}),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_onnx_runtime_gives(case: str, kind: str) -> None:
    """The same numbers, rounded to the type, and of this type."""
    shape, given = CASES[case]
    operator = case.split()[0]
    x = torch.from_numpy(floats(*shape, seed=1)).to(TYPES[kind])
    exact = {**given, "constants": [
        value if value is None or value.dtype == np.int64 else
        torch.from_numpy(np.asarray(value)).to(TYPES[kind]).float().numpy() for value in given.get("constants", ())]}
    expected = graph.open_session(make(operator, **exact)).run(list(graph.OUTPUTS), {"input": x.float().numpy()})
    number = HALVES.get(kind, TensorProto.FLOAT)
    for found, right in zip(OnnxModule(make(operator, kind=number, **exact))(x), expected, strict=True):
        assert found.dtype == TYPES[kind] and found.shape == right.shape
        assert np.abs(found.float().numpy() - right).max() <= STEP[kind] * np.abs(right).max()


def test_all_operators_are_tested() -> None:
    """Those of the whole graphs, below, cast."""
    assert {case.split()[0] for case in CASES} | {"Cast"} == set(OPERATORS)


@pytest.mark.parametrize(("operator", "given", "reason"), [
    ("Erf", {}, "the kit has no Erf for PyTorch, only Add, "),
    ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, r"pads \[0, 0, 1, 1\] are not the same at both ends"),
    ("MaxPool", {"kernel_shape": [2, 2], "storage_order": 1}, "unexpected keyword argument 'storage_order'"),
    ("Unsqueeze", {"constants": [np.array([0, 1])]}, "takes 1 positional argument|takes 2 positional"),
    ("Conv", {"constants": [floats(4, 3, 2, 2)], "auto_pad": "SAME_UPPER"}, "unexpected keyword argument 'auto_pad'")])
def test_what_it_does_not_know_is_an_error(operator: str, given: dict, reason: str) -> None:
    with pytest.raises((NotImplementedError, ValueError, TypeError), match=reason):
        OnnxModule(make(operator, **given))(torch.zeros(2, 3, 8, 8))


def test_an_operator_of_another_domain_is_none_of_onnx() -> None:
    model = make("Relu")
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(NotImplementedError, match=r"no com\.microsoft\.Relu"):
        OnnxModule(model)


def rms(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square of the difference, relative to the largest number."""
    return float(np.sqrt(np.mean((one - other) ** 2)) / np.abs(other).max())


def test_a_whole_graph_computes_in_its_types(demo_onnx: Path) -> None:
    """FP32 is ONNX Runtime's; FP16 and BF16 are as far from it as results that are rounded to them, and no farther
    from these."""
    crops = floats(4, 3, 256, 192)
    fixed = graph.simplify(graph.load_model(demo_onnx), crops.shape)

    def run(model: onnx.ModelProto) -> list[np.ndarray]:
        return graph.open_session(model).run(list(graph.OUTPUTS), {"input": crops})

    def run_pytorch(model: onnx.ModelProto) -> list[np.ndarray]:
        return [logits.numpy() for logits in OnnxModule(model)(torch.from_numpy(crops))]

    exact = run(fixed)
    assert all(rms(*axis) < 1e-6 for axis in zip(run_pytorch(fixed), exact, strict=True))
    for half in HALVES:
        typed, _ = to_mixed_precision(fixed, half)
        for found, rounded, right in zip(run_pytorch(typed), run(emulation.round_like_gpu(typed)), exact, strict=True):
            assert found.dtype == np.float32
            assert 0.5 * rms(rounded, right) < rms(found, right) < 1.5 * rms(rounded, right)
            assert rms(found, rounded) < 1.2 * rms(rounded, right)


def test_constants_move_with_the_module_and_are_channels_last() -> None:
    module = OnnxModule(make("Conv", [floats(4, 3, 3, 3)]))
    (weights,) = module.buffers()
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert {buffer.device.type for buffer in module.to("meta").buffers()} == {"meta"}
