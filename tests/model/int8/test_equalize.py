"""Equalized channels: the same network in FP32, and nearer to it in INT8."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtmpose.engines import BACKENDS
from rtmpose.model import graph
from rtmpose.model.int8 import calibrate, quantize
from rtmpose.model.int8.equalize import EXPONENT, channel_factors, equalize, equalized_tensors


@pytest.fixture(scope="module")
def crops(calibration_folder: Path) -> list[np.ndarray]:
    """Two batches of drawn people."""
    return calibrate.load_calibration_set(calibration_folder, (192, 256)).batches[:2]


@pytest.fixture(scope="module")
def demo(demo_onnx: Path, crops: list[np.ndarray]) -> onnx.ModelProto:
    """The demo's network, simplified, for those batches."""
    return graph.simplify(graph.load_model(demo_onnx), crops[0].shape)


@pytest.fixture(scope="module")
def factors(demo: onnx.ModelProto, crops: list[np.ndarray]) -> dict[str, list[float]]:
    return calibrate.find_factors(demo, crops)


def logits(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """Both outputs of a graph, side by side."""
    return np.concatenate(graph.open_session(model).run(None, {"input": batch}), axis=2)


def test_factors_are_those_of_the_channels(demo: onnx.ModelProto, crops: list[np.ndarray],
                                           factors: dict[str, list[float]]) -> None:
    """The stem's first convolution, computed by PyTorch, and the SiLU behind it."""
    first = next(node for node in demo.graph.node if node.op_type == "Conv")
    weights, bias = (torch.from_numpy(numpy_helper.to_array(tensor).copy()) for name in first.input[1:]
                     for tensor in demo.graph.initializer if tensor.name == name)
    given = torch.nn.functional.silu(torch.nn.functional.conv2d(
        torch.from_numpy(np.concatenate(crops)), weights, bias, stride=2, padding=1))
    reach = given.abs().amax(dim=(0, 2, 3)).numpy()
    assert factors[equalized_tensors(demo)[0]] == pytest.approx((reach / reach.max()) ** EXPONENT, rel=1e-3)
    assert list(factors) == equalized_tensors(demo) and "input" not in factors
    assert all(max(of_channels) == 1 and min(of_channels) > 0 for of_channels in factors.values())


@pytest.mark.parametrize(("reach", "factors"), [
    ([0, 0, 0], [1, 1, 1]), ([1, np.nan, 2], [1, 1, 1]), ([1, np.inf, 2], [1, 1, 1]),
    ([0, 1e-9, 4], [0.01 ** EXPONENT, 0.01 ** EXPONENT, 1]),
])
def test_channels_that_are_silent_or_not_finite(reach: list[float], factors: list[float]) -> None:
    assert channel_factors(np.array(reach, np.float32)) == pytest.approx(factors, rel=1e-2)


def test_the_network_is_the_same(demo: onnx.ModelProto, crops: list[np.ndarray], factors: dict[str, list[float]]
                                 ) -> None:
    before = demo.SerializeToString()
    equalized = equalize(demo, factors)
    assert demo.SerializeToString() == before
    onnx.checker.check_model(equalized, full_check=True)
    expected = logits(demo, crops[0])
    assert np.abs(logits(equalized, crops[0]) - expected).max() < 1e-4 * np.abs(expected).max()
    assert graph.count_macs(equalized) == graph.count_macs(demo)


def one_convolution(weights: np.ndarray, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A ReLU, a convolution behind it, and a sum that reads the ReLU as well."""
    nodes = [helper.make_node("Relu", ["input"], ["x"], "relu"),
             helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", group=shape[1] // weights.shape[1],
                              pads=[1, 1, 1, 1]),
             helper.make_node("Add", ["x", "y"], ["sum"], "sum")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "sum")]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(len(weights), "f"), "b")]
    return helper.make_model(helper.make_graph(nodes, "test", values[:1], values[1:], constants),
                             opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_each_group_has_the_factors_of_its_channels(groups: int) -> None:
    random = np.random.default_rng(groups)
    model = one_convolution(random.standard_normal((6, 6 // groups, 3, 3), dtype=np.float32), (1, 6, 8, 8))
    equalized = equalize(model, {"x": [1, 0.5, 0.1, 0.9, 0.3, 0.7]})
    batch = {"input": random.standard_normal((1, 6, 8, 8), dtype=np.float32)}
    expected, given = (graph.open_session(one).run(None, batch)[0] for one in (model, equalized))
    assert np.allclose(given, expected, atol=1e-5)
    # Both read the one tensor that will be rounded.
    assert [node.op_type for node in equalized.graph.node if "x_equalized" in node.input] == ["Conv", "Mul"]


SCHEMES = {name: backend.INT8_SCHEME for name, backend in BACKENDS.items() if hasattr(backend, "INT8_SCHEME")}


@pytest.mark.parametrize("name", SCHEMES)
def test_int8_is_nearer_to_fp32(name: str) -> None:
    """Channels that reach 0.1 to 1, weights that make up for it; the error is taken on another batch."""
    random, scheme, shape = np.random.default_rng(0), SCHEMES[name], (4, 16, 24, 24)
    reach = np.geomspace(0.1, 1, 16, dtype=np.float32)[:, None, None]
    model = one_convolution(random.standard_normal((16, 16, 3, 3), dtype=np.float32) / reach, shape)
    batches = [random.uniform(-1, 1, shape).astype(np.float32) * reach for _ in range(3)]
    exact = graph.open_session(model).run(None, {"input": batches[2]})[0]

    def error(one: onnx.ModelProto) -> float:
        ranges = calibrate.find_ranges(one, scheme, batches[:2])
        typed = quantize.insert_quantization(one, ranges, scheme)
        return float(np.square(graph.open_session(typed).run(None, {"input": batches[2]})[0] - exact).mean())

    assert error(equalize(model, calibrate.find_factors(model, batches[:2]))) < 0.5 * error(model)
