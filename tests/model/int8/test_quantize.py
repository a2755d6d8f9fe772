"""INT8 in the graph: the Q/DQ nodes, their numbers, and the convolutions that are left alone."""

from collections import Counter
from pathlib import Path

import emulation
import numpy as np
import onnx
import pytest
from fp16_stress import scale_final_convolution
from onnx import TensorProto, helper, numpy_helper

from rtmpose.engines import BACKENDS
from rtmpose.model import graph, mixed_precision
from rtmpose.model.int8 import calibrate, quantize
from rtmpose.model.int8.quantize import Ranges

SHAPE = (2, 3, 256, 192)
SCHEMES = {name: backend.INT8_SCHEME for name, backend in BACKENDS.items() if hasattr(backend, "INT8_SCHEME")}


@pytest.fixture(scope="module")
def model(model_files: dict[str, Path]) -> onnx.ModelProto:
    """A random RTMPose-t in FP32, simplified, with a fixed batch size."""
    return graph.simplify(graph.load_model(model_files["onnx"]), SHAPE)


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Two batches of random input, the second with a wider range."""
    random = np.random.default_rng(0)
    return [random.standard_normal(SHAPE, dtype=np.float32) * np.float32(scale) for scale in (1, 1.5)]


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto, crops: list[np.ndarray]) -> dict[str, Ranges]:
    """Ranges of the tensors, by backend."""
    return {name: calibrate.find_ranges(model, scheme, crops) for name, scheme in SCHEMES.items()}


@pytest.fixture(scope="module")
def quantized(model: onnx.ModelProto, ranges: dict[str, Ranges]) -> dict[str, onnx.ModelProto]:
    """The Q/DQ graph of each backend."""
    return {name: quantize.insert_quantization(model, ranges[name], scheme) for name, scheme in SCHEMES.items()}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """A graph's initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """A graph's convolutions."""
    return [node for node in model.graph.node if node.op_type == "Conv"]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that gives each tensor."""
    return {name: node for node in model.graph.node for name in node.output}


def run(model: onnx.ModelProto, batch: np.ndarray) -> list[np.ndarray]:
    """Outputs of a graph, with nothing optimised away."""
    return graph.open_session(model).run(None, {"input": batch})


def distance(given: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Root of the mean square of the difference, relative to the logits' own."""
    return max(float(np.sqrt(np.square(g - e).mean() / np.square(e).mean()))
               for g, e in zip(given, expected, strict=True))


@pytest.mark.parametrize("name", SCHEMES)
def test_every_convolution_takes_int8_and_nothing_else_does(model: onnx.ModelProto, name: str,
                                                           quantized: dict[str, onnx.ModelProto]) -> None:
    typed, scheme = quantized[name], SCHEMES[name]
    onnx.checker.check_model(typed, full_check=True)
    source, values = producers(typed), constants(typed)
    plain = {node.name: node for node in convolutions(model)}
    originals = constants(model)
    found = convolutions(typed)
    assert {node.name for node in found} == set(plain) and len(found) > 30
    for node in found:
        data, weights = (source[tensor] for tensor in node.input[:2])
        assert data.op_type == weights.op_type == "DequantizeLinear"
        assert source[data.input[0]].op_type == "QuantizeLinear"
        assert values[data.input[1]].shape == () and values[data.input[2]].dtype == (
            np.int8 if scheme.signed else np.uint8)
        stored, scale, zero = (values[tensor] for tensor in weights.input)
        assert stored.dtype == zero.dtype == np.int8 and not zero.any()
        assert scale.shape == (len(stored),) and weights.attribute[0].i == 0
        rows = originals[plain[node.name].input[1]].astype(np.float64).reshape(len(stored), -1)
        steps, numbers = scale[:, None].astype(np.float64), stored.reshape(rows.shape)
        assert (np.abs(numbers * steps - rows) <= 0.501 * steps).all()
        # No channel wastes the range, unless its scale is the smallest that there is.
        assert ((np.abs(numbers).max(axis=1) >= 126) | (scale < 1.1e-5)).all()
        # Biases are the very numbers that they were.
        assert np.array_equal(values[node.input[2]], originals[plain[node.name].input[2]])
        assert values[node.input[2]].dtype == np.float32
    readers = Counter(node.op_type for node in typed.graph.node for tensor in node.input
                      if tensor in source and source[tensor].op_type == "DequantizeLinear")
    # Where a convolution and a shortcut read the same tensor, both read it rounded to INT8.
    assert readers["MatMul"] == 0 and (scheme.outputs or set(readers) == {"Conv", "Add"})
    given = {node.output[0] for node in found}
    behind = {node.op_type for node in typed.graph.node if given.intersection(node.input)}
    assert behind == {"QuantizeLinear"} if scheme.outputs else "QuantizeLinear" not in behind and "Sigmoid" in behind
    added = {"QuantizeLinear", "DequantizeLinear", "Constant"}
    others, before = (Counter(node.op_type for node in one.graph.node if node.op_type not in added)
                      for one in (typed, model))
    assert others == before


@pytest.mark.parametrize("name", SCHEMES)
def test_scales_cover_the_ranges(quantized: dict[str, onnx.ModelProto], ranges: dict[str, Ranges], name: str) -> None:
    values = constants(quantized[name])
    found = [node for node in quantized[name].graph.node if node.op_type == "QuantizeLinear"]
    assert len(found) > 30
    for node in found:
        tensor, scale, zero = node.input[0], values[node.input[1]], values[node.input[2]]
        low, high = min(ranges[name][tensor][0], 0), max(ranges[name][tensor][1], 0)
        if SCHEMES[name].signed:
            assert zero.dtype == np.int8 and zero == 0
            assert scale * 127 == pytest.approx(max(-low, high), rel=0.01)
        else:
            assert zero.dtype == np.uint8
            assert scale * 255 == pytest.approx(high - low, rel=0.01)
            assert abs(-low / scale - zero) <= 0.51


@pytest.mark.parametrize("name", ["openvino", "tensorrt"])
def test_ranges_are_those_of_the_tensors(model: onnx.ModelProto, crops: list[np.ndarray], ranges: dict[str, Ranges],
                                         name: str) -> None:
    """Against NumPy's order statistics; a histogram may be off by a bin, a 2048th of the range.

    ONNX Runtime's histogram of magnitudes, for signed schemes, loses the largest number of a batch that reaches further
    than those before (it rounds the new bins' edges): only tensors of less than 100,000 numbers can show it.
    """
    found = ranges[name]
    wanted = {tensor for node in convolutions(model) for tensor in (node.input[0], *node.output)}
    assert set(found) == wanted
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    names = sorted(wanted - {"input"})
    opened.graph.output.extend(onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    session = graph.open_session(opened)
    runs = [dict(zip(names, session.run(names, {"input": batch}), strict=True)) | {"input": batch} for batch in crops]
    cut = 1 - calibrate.PERCENTILE / 100
    for tensor in wanted:
        values = np.concatenate([one[tensor].ravel() for one in runs])
        tolerance = float(2.01 * np.abs(values).max() / 2048)
        if SCHEMES[name].signed:
            sizes = np.sort(np.abs(values))
            most, least = (np.quantile(some, 1 - cut, method="inverted_cdf") for some in (sizes, sizes[:-1]))
            lowest, highest = (min(one, values.max()) for one in (least, most))
            assert lowest - tolerance <= found[tensor][1] <= highest + tolerance, tensor
            assert max(-most, values.min()) - tolerance <= found[tensor][0], tensor
            assert found[tensor][0] <= max(-least, values.min()) + tolerance, tensor
        else:
            expected = tuple(float(np.quantile(values, share, method="inverted_cdf"))
                             for share in (cut / 2, 1 - cut / 2))
            assert found[tensor] == pytest.approx(expected, abs=tolerance), tensor


def test_outliers_do_not_widen_a_range() -> None:
    """One number in 300,000 is 1000; the others are those of a normal distribution, whose 5e-6 lie beyond 4.4."""
    node = helper.make_node("Conv", ["input", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("input", "y")]
    weights = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    small = helper.make_model(helper.make_graph([node], "test", values[:1], values[1:], [weights]),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    batch = np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)
    for outlier, least, most in ((0, 4, 6), (1000, 3, 10)):
        batch[0, 0, 0, 0] = outlier
        low, high = calibrate.find_ranges(small, SCHEMES["openvino"], [batch])["input"]
        assert -6 < low < -4 and least < high < most


@pytest.mark.parametrize("name", SCHEMES)
def test_kept_convolutions_are_left_alone(model: onnx.ModelProto, ranges: dict[str, Ranges], name: str) -> None:
    kept = [node.name for node in convolutions(model) if "stem" in node.name or "stage4" in node.name]
    assert len(kept) == 13
    before = model.SerializeToString()
    typed = quantize.insert_quantization(model, ranges[name], SCHEMES[name], kept)
    assert model.SerializeToString() == before
    source, originals, values = producers(typed), constants(model), constants(typed)
    for node in convolutions(typed):
        weights = source.get(node.input[1])
        assert (weights is None) == (node.name in kept), node.name
        if weights is None:
            assert np.array_equal(values[node.input[1]], originals[node.input[1]])
    assert graph.count_types(model)[0] == {"fp32": len(convolutions(model)) + 7}


def test_scaling_the_final_convolution_changes_no_bit(model: onnx.ModelProto, crops: list[np.ndarray]) -> None:
    """A factor of 8 that was put in comes out again; the random weights are of unit length by themselves."""
    stressed = scale_final_convolution(model, 3)
    scaled = mixed_precision.scale_final_convolutions(stressed)
    final = convolutions(model)[-1]
    before, after = constants(stressed)[final.input[1]], constants(scaled)[final.input[1]]
    assert np.array_equal(after, before / 8)
    assert 0.7 < np.sqrt((after ** 2).reshape(len(after), -1).sum(axis=1)).max() < 1.42
    for expected, given in zip(run(stressed, crops[0]), run(scaled, crops[0]), strict=True):
        assert np.array_equal(expected, given)


@pytest.mark.slow
def test_int8_beside_fp16_is_valid_and_as_near_to_fp32_as_int8_alone(demo_onnx: Path, calibration_folder: Path
                                                                    ) -> None:
    """FP16's rounding turns an INT8 number into its neighbour now and then, and what follows turns more of them: the
    two graphs end about as far apart as INT8 is from FP32 (0.050 and 0.062 were measured). But it is noise of the same
    size, not more: two independent roundings would differ by 1.4 times what one does, and be equally far from FP32."""
    crops = calibrate.load_calibration_set(calibration_folder, (192, 256)).batches[:2]
    demo, scheme = graph.simplify(graph.load_model(demo_onnx), crops[0].shape), SCHEMES["tensorrt"]
    found = calibrate.find_ranges(demo, scheme, crops)
    quantized = quantize.insert_quantization(mixed_precision.scale_final_convolutions(demo), found, scheme)
    typed, _ = mixed_precision.to_mixed_precision(quantized, "fp16")
    onnx.checker.check_model(typed, full_check=True)
    assert graph.count_types(typed)[0] == {"fp16": 41, "fp32": 4}
    steps = {node.input[1] for node in typed.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert {constants(typed)[name].dtype for name in steps} == {np.dtype(np.float16)}
    exact, ours, half = (run(one, crops[0]) for one in (demo, quantized, emulation.round_like_gpu(typed)))
    assert 0.001 < distance(half, ours) < 1.4 * distance(ours, exact)
    assert distance(half, exact) < 1.25 * distance(ours, exact)
