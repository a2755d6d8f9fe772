"""Mixed precision: the operators that stay in FP32, the rounding, and no checkpoint makes it overflow."""

from pathlib import Path

import emulation
import numpy as np
import onnx
import pytest
import torch
from fp16_stress import scale_final_convolution
from onnx import TensorProto, numpy_helper

from rtmpose.model import graph, mixed_precision

BATCH = 2


@pytest.fixture(scope="module")
def model(model_files: dict[str, Path]) -> onnx.ModelProto:
    """A random RTMPose-t in FP32, simplified, with a fixed batch size."""
    return graph.simplify(graph.load_model(model_files["onnx"]), (BATCH, 3, 256, 192))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Random input."""
    return np.random.default_rng(0).standard_normal((BATCH, 3, 256, 192), dtype=np.float32)


def run(model: onnx.ModelProto, crops: np.ndarray) -> list[np.ndarray]:
    """Outputs of a graph, with nothing optimised away."""
    return graph.open_session(model).run(None, {"input": crops})


def difference(given: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest difference, relative to the largest value; infinite where something is no number."""
    worst = max(float(np.abs(g - e).max() / np.abs(e).max()) for g, e in zip(given, expected, strict=True))
    return worst if np.isfinite(worst) else np.inf


@pytest.mark.parametrize("half", mixed_precision.HALVES)
def test_operators_that_stay_in_fp32(model: onnx.ModelProto, half: str) -> None:
    before = model.SerializeToString()
    typed, kept = mixed_precision.to_mixed_precision(model, half)
    assert model.SerializeToString() == before
    onnx.checker.check_model(typed, full_check=True)
    values = (*typed.graph.input, *typed.graph.output)
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    types = {node.name: node.op_type for node in model.graph.node}
    found = {reason.split(":")[0]: sorted(types[name] for name in names) for reason, names in kept.items()}
    arithmetic, _ = graph.count_types(typed)
    if half == "fp16":
        assert found == {"ScaleNorm": sorted(2 * ["ReduceL2", "Mul", "Clip", "Div"]),
                         "attention": sorted(["MatMul", "Div", "Relu", "Mul", "MatMul"]),
                         "logits": ["MatMul", "MatMul"]}
        assert arithmetic == {"fp32": 4, "fp16": 41}
    else:
        assert set(found) == {"head"} and "Conv" not in found["head"] and found["head"].count("MatMul") == 7
        assert arithmetic == {"fp32": 7, "bf16": 38}


@pytest.mark.parametrize("power", [-8, 0, 8, 12, 16])
def test_rounding_to_fp16_changes_little_whatever_the_final_convolution_is_scaled_by(
        model: onnx.ModelProto, crops: np.ndarray, power: int) -> None:
    """On a random network, which rounding moves further than a trained one: 0.017 and 0.022 on two processors."""
    expected = run(model, crops)
    typed, _ = mixed_precision.to_mixed_precision(scale_final_convolution(model, power), "fp16")
    assert difference(run(emulation.round_like_gpu(typed), crops), expected) < 0.05


def test_constants_beyond_fp16_keep_their_operator_in_fp32(model: onnx.ModelProto) -> None:
    large = onnx.ModelProto()
    large.CopyFrom(model)
    first = next(node for node in large.graph.node if node.op_type == "Conv")
    for tensor in large.graph.initializer:
        if tensor.name == first.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e6), tensor.name))
    _, kept = mixed_precision.to_mixed_precision(large, "fp16")
    assert kept["a constant leaves FP16's range"] == [first.name]


@pytest.mark.parametrize(("half", "judge"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weights_and_results_are_rounded_as_pytorch_rounds(model: onnx.ModelProto, crops: np.ndarray, half: str,
                                                           judge: torch.dtype) -> None:
    """PyTorch computes the first convolution from the FP32 weights."""
    typed, _ = mixed_precision.to_mixed_precision(model, half)
    rounded = emulation.round_like_gpu(typed)
    first = next(node for node in typed.graph.node if node.op_type == "Conv")
    rounded.graph.output.append(onnx.helper.make_tensor_value_info(first.output[0], TensorProto.FLOAT, None))
    value = torch.from_numpy(run(rounded, crops)[-1])
    assert torch.equal(value, value.to(judge).float()) and len(value.unique()) > 1000
    constants = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    original = next(node for node in model.graph.node if node.op_type == "Conv")
    image, weight, bias = (tensor.to(judge).float() for tensor in (
        torch.from_numpy(crops), *(constants[name] for name in original.input[1:])))
    expected = torch.nn.functional.conv2d(image, weight, bias, stride=2, padding=1).to(judge).float()
    # Sums in another order now and then round to the neighbour.
    assert (value == expected).float().mean() > 0.98
    assert (value - expected).abs().max() <= 2 * torch.finfo(judge).eps * expected.abs().max()
