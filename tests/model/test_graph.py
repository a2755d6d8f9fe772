"""ONNX files that are none of RTMPose's: each is refused in one line, by build_engine.py's own functions."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from rtmpose.engines import load_engine
from rtmpose.engines.build import build_engine, plan_build
from rtmpose.engines.record import read_record
from rtmpose.errors import KitError
from rtmpose.model import graph

FLOAT = TensorProto.FLOAT


def refusal(path: Path, precision: str = "fp32", batch: int | None = 2, declared: object = None,
            folder: Path | None = None) -> str:
    """The error of a build for ONNX Runtime, in INT8 with the calibration set ``folder``."""
    with pytest.raises(KitError) as raised:
        build_engine(plan_build(path, path.with_name("out.engine"), batch, precision, "onnxruntime",
                                folder if precision == "int8" else None, declared))
    message = str(raised.value)
    assert "\n" not in message and len(message) < 700
    assert not list(path.parent.glob("*out.engine*"))
    return message


def save(path: Path, nodes: list, inputs: dict[str, list], outputs: dict[str, list], kind: int = FLOAT,
         opset: int = 17, **tensors: np.ndarray) -> Path:
    """Write a graph without checking it."""
    made = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


# Mean over the crop, then a matrix product to the logits of each axis: the smallest graph with RTMPose's interface.
TINY_NODES = [helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2], keepdims=1),
              helper.make_node("Reshape", ["mean", "shape"], ["row"]),
              helper.make_node("MatMul", ["row", "x"], ["simcc_x"], "cls_x"),
              helper.make_node("MatMul", ["row", "y"], ["simcc_y"], "cls_y")]
TINY = {"shape": np.array([-1, 1, 192]), "x": np.ones((1, 192, 384), np.float32),
        "y": np.ones((1, 192, 512), np.float32)}


def tiny(path: Path, **changed: object) -> Path:
    """A graph of one keypoint with a dynamic batch."""
    given = {"nodes": TINY_NODES, "inputs": {"input": ["N", 3, 256, 192]},
             "outputs": {"simcc_x": ["N", 1, 384], "simcc_y": ["N", 1, 512]}, **TINY, **changed}
    return save(path, **given)


def test_the_smallest_graph_builds(tmp_path: Path) -> None:
    """So that the graphs below fail for the reason that they say."""
    path = tiny(tmp_path / "tiny.onnx")
    build_engine(plan_build(path, tmp_path / "out.engine", 2, "fp32", "onnxruntime"))
    record = read_record(tmp_path / "out.engine")
    assert (record.num_keypoints, record.skeleton, record.keypoints) == (1, "unknown", ())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("changed", "message"), [
    ({"kind": TensorProto.FLOAT16}, "odd.onnx: is no valid ONNX file"),  # the rest is FP32
    ({"x": TINY["x"].astype(np.float16)}, "odd.onnx: is no valid ONNX file"),
    ({"kind": TensorProto.UINT8}, "input is int8, expected fp32"),
    ({"kind": TensorProto.DOUBLE}, "input is fp64, expected fp32"),
    ({"inputs": {}}, "odd.onnx: "),
    ({"inputs": {"input": ["N", 3, 256, 192], "other": [1]}}, "has the inputs input[?,3,256,192], other[1]"),
    ({"inputs": {f"input{i}": [1] for i in range(1000)}}, "odd.onnx: "),
    ({"inputs": {"input": ["N", 3, 192]}}, "has the input input[?,3,192], --batch 2 asks for 2,3,H,W"),
    ({"inputs": {"input": []}}, "has the input input[], --batch"),
    ({"inputs": {"input": None}}, "odd.onnx: "),
    ({"inputs": {"input": ["N", 1, 256, 192]}}, "--batch 2 asks for 2,3,H,W"),
    ({"inputs": {"input": [4, 3, 256, 192]}}, "has the input input[4,3,256,192], --batch 2 asks for 2,3,H,W"),
    ({"inputs": {"input": ["N", 3, "H", "W"]}}, "height and width are dynamic; pass --input"),
    ({"inputs": {"input": ["N", 3, 0, 192]}}, "height and width are dynamic"),
    ({"inputs": {"input": ["N", 3, -5, 192]}}, "odd.onnx: "),
    ({"inputs": {"input": ["N", 3, 10**6, 10**6]}}, "use a smaller batch"),
    ({"outputs": {}}, "odd.onnx: "),
    ({"outputs": {"simcc_x": ["N", 1, 384]}}, "has the outputs simcc_x"),
    ({"outputs": {"row": ["N", 1, 192], "simcc_y": ["N", 1, 512]}}, "has the outputs row"),
    ({"y": np.ones((1, 192, 384), np.float32), "outputs": {"simcc_x": ["N", 1, 384], "simcc_y": ["N", 1, 384]}},
     "has the outputs simcc_x[2,1,384], simcc_y[2,1,384], expected simcc_x[2,K,Wx] and simcc_y[2,K,Wy] with as many"),
    ({"nodes": [*TINY_NODES[:3], helper.make_node("MatMul", ["row", "two"], ["simcc_y"])],
      "two": np.ones((2, 192, 512), np.float32), "outputs": {"simcc_x": [2, 1, 384], "simcc_y": [2, 2, 512]}},
     "has the outputs simcc_x"),
    ({"opset": 1}, "odd.onnx: "),
    ({"x": np.ones((0, 192, 384), np.float32)}, ""),
    ({"x": np.ones((1, 192, 0), np.float32), "outputs": {"simcc_x": ["N", 1, 0], "simcc_y": ["N", 1, 512]}}, ""),
    ({"nodes": [helper.make_node("NoSuchOperator", ["input"], ["simcc_x"]), *TINY_NODES[:2], TINY_NODES[3]]}, ""),
    ({"nodes": [helper.make_node("Custom", ["input"], ["simcc_x"], domain="own"), *TINY_NODES[:2], TINY_NODES[3]]}, ""),
    ({"nodes": TINY_NODES[1:]}, "odd.onnx: "),
    ({"nodes": TINY_NODES[::-1]}, "odd.onnx: "),
    ({"nodes": [helper.make_node("ConstantOfShape", ["shape_x"], ["simcc_x"]),
                helper.make_node("ConstantOfShape", ["shape_y"], ["simcc_y"])],
      "shape_x": np.array([2, 1, 384]), "shape_y": np.array([2, 1, 512]),
      "outputs": {"simcc_x": [2, 1, 384], "simcc_y": [2, 1, 512]}}, "has no convolutions and no matrix products"),
    ({"nodes": [helper.make_node("ConstantOfShape", ["huge"], ["simcc_x"]), *TINY_NODES[:2], TINY_NODES[3]],
      "huge": np.array([10**6, 10**6, 10**6])}, ""),
    ({"nodes": [helper.make_node("Relu", ["input"], ["relu"]), helper.make_node("Mul", ["relu", "relu"], ["square"]),
                helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1, 2], keepdims=1), *TINY_NODES[1:]]}, None),
])
def test_odd_graphs(tmp_path: Path, precision: str, changed: dict, message: str | None) -> None:
    """``None``: FP32 builds, and FP16, which knows RTMPose's attention, can't."""
    path = tiny(tmp_path / "odd.onnx", **changed)
    if message is None:
        if precision == "fp32":
            return
        message = "can't be converted to fp16 ("
    assert message in refusal(path, precision)


def quantize_statically(form: quantization.QuantFormat) -> Callable[[Path], None]:
    def quantize(path: Path) -> None:
        crops = iter([{"input": np.ones((1, 3, 256, 192), np.float32)}, None])
        reader = SimpleNamespace(get_next=crops.__next__, set_range=None)
        quantization.quantize_static(path, path, reader, quant_format=form)
    return quantize


def change(**fields: int) -> Callable[[Path], None]:
    def save_changed(path: Path) -> None:
        model = onnx.load(path)
        model.ir_version = fields.get("ir", model.ir_version)
        model.opset_import[0].version = fields.get("opset", model.opset_import[0].version)
        onnx.save(model, path)
    return save_changed


GIVE = "expected the FP32 file that export.py writes; give that one, with --precision"
SUPPORTS, NEWEST = f"onnx {onnx.__version__} supports", onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("change", "message"), [
    (quantize_statically(quantization.QuantFormat.QDQ), f"(operators: 5 DequantizeLinear, 3 QuantizeLinear), {GIVE} i"),
    (quantize_statically(quantization.QuantFormat.QOperator), "is quantized already (operators: 2 QLinearMatMul, "),
    (lambda path: quantization.quantize_dynamic(path, path), "(operators: 2 MatMulInteger, 1 DynamicQuantizeLinear), "),
    (change(ir=onnx.IR_VERSION + 1), f"has IR version {onnx.IR_VERSION + 1}, {SUPPORTS} {onnx.IR_VERSION} at most; "),
    (change(opset=999), f"has opset 999, {SUPPORTS} {NEWEST} at most; export it with an older one, e.g. opset 17"),
], ids=["qdq", "qlinear", "dynamic", "ir", "opset"])
def test_converted_files_are_refused_for_what_they_are(tmp_path: Path, calibration_folder: Path, precision: str,
                                                       change: Callable, message: str) -> None:
    """Whatever the precision: a graph in INT8 would give another AP than its record says."""
    path = tiny(tmp_path / "odd.onnx")
    change(path)
    assert message in refusal(path, precision, folder=calibration_folder)


@pytest.mark.parametrize("operator", ["QGemm", "QLinearAdd", "MatMulNBits", "MatMulBnb4", "FakeQuantize", "ConvInteger",
                                      "GatherBlockQuantized", "DynamicQuantizeMatMul"])
def test_quantized_operators_of_other_tools(tmp_path: Path, operator: str) -> None:
    path = tiny(tmp_path / "odd.onnx", nodes=[helper.make_node(operator, ["input"], ["x"], domain="com.microsoft")])
    assert f"is quantized already (operators: 1 {operator})" in refusal(path)


def test_the_newest_versions_are_built(tmp_path: Path) -> None:
    """Those that the line above says are supported."""
    model = onnx.version_converter.convert_version(onnx.load(tiny(tmp_path / "new.onnx")), NEWEST)
    model.ir_version = onnx.IR_VERSION
    onnx.save(model, tmp_path / "new.onnx")
    for backend in ("onnxruntime", "openvino"):
        build_engine(plan_build(tmp_path / "new.onnx", tmp_path / "new.engine", 2, "fp32", backend))
        crops = np.random.default_rng(0).normal(size=(2, 3, 256, 192)).astype(np.float32)
        session = onnxruntime.InferenceSession(tmp_path / "new.onnx")
        for found, expected in zip(load_engine(tmp_path / "new.engine").infer(crops),
                                   session.run(graph.OUTPUTS, {"input": crops}), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_onnxruntime_that_is_older_than_the_file_says_its_versions(tmp_path: Path) -> None:
    change(ir=onnx.IR_VERSION + 1)(tiny(tmp_path / "odd.onnx"))
    with pytest.raises(KitError, match=r"can't run \(Fail: Unsupported model IR version: \d+, max supported"):
        graph.check_runs(onnx.load(tmp_path / "odd.onnx"), tmp_path / "odd.onnx", (2, 3, 256, 192))


@pytest.mark.parametrize("content", [b"", b"no ONNX file", b"\0" * 1000, b"\x08\x08", b"PK\x03\x04" + bytes(100),
                                     b"\x12" * 10**5])
def test_not_an_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.onnx").write_bytes(content)
    assert "odd.onnx: " in refusal(tmp_path / "odd.onnx")


@pytest.mark.parametrize("entries", [{"location": "weights.bin"}, {"location": "../weights.bin", "length": "text"}, {}])
def test_weights_in_other_files(tmp_path: Path, entries: dict) -> None:
    """Whatever is in the other file, the ONNX file alone would be the same, and its engine up to date."""
    (tmp_path / "weights.bin").write_bytes(bytes(10**6))
    model = onnx.load(tiny(tmp_path / "odd.onnx"))
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    assert "odd.onnx: keeps weights in other files, expected all in one" in refusal(tmp_path / "odd.onnx")


@pytest.mark.parametrize(("batch", "declared", "expected"), [
    (2, None, ("input", (2, 3, 256, 192))),
    (None, ("input", (2, 3, 256, 192)), ("input", (2, 3, 256, 192))),
    (2, ("input", (2, 3, 256, 192)), ("input", (2, 3, 256, 192))),
    (4, ("input", (2, 3, 256, 192)), "--batch 4: --input says 2,3,256,192; they must agree"),
    (2, ("image", (2, 3, 256, 192)), "has the inputs input[?,3,256,192], expected image alone"),
    (2, ("input", (2, 3, 192, 256)), "--input says 2,3,192,256; they must agree"),
    (10**9, None, "use a smaller batch"),
])
def test_batch_and_input_agree_with_the_graph(tmp_path: Path, batch: int | None, declared: tuple | None,
                                              expected: tuple | str) -> None:
    path = tiny(tmp_path / "tiny.onnx", inputs={"input": ["N", 3, "H" if batch is None else 256, 192]})
    if isinstance(expected, str):
        assert expected in refusal(path, "fp32", batch, declared)
    else:
        assert graph.find_input(graph.load_model(path), path, batch, declared) == expected


def test_an_operator_that_cant_run_is_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX's checker passes it; onnxsim would print a traceback and leave the operator as it is."""
    conv = [helper.make_node("Conv", ["image", "kernel"], ["features"]),
            helper.make_node("ReduceSum", ["features"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["shifted"]),
            helper.make_node("MatMul", ["row", "shifted"], ["simcc_x"], "cls_x")]
    path = tiny(tmp_path / "odd.onnx", nodes=[*TINY_NODES[:2], *conv, TINY_NODES[3]],
                image=np.zeros((1, 3, 8, 8), np.float32), kernel=np.zeros((4, 2, 1, 1), np.float32))
    assert re.search(r"odd.onnx: can't run .*channels", refusal(path, "fp32"))
    assert capfd.readouterr().err == ""


def test_keypoints_in_the_metadata_must_be_as_many_as_the_graph_gives(tmp_path: Path) -> None:
    model = onnx.load(tiny(tmp_path / "tiny.onnx"))
    graph.write_metadata(model, graph.Skeleton("two", ("a", "b")), {"config": "c.py"})
    onnx.save(model, tmp_path / "tiny.onnx")
    assert "tiny.onnx: gives 1 keypoints, 2 are named; export it again" in refusal(tmp_path / "tiny.onnx")


def record_folder(path: Path) -> Path:
    path.with_name("out.engine.json").mkdir()
    return path.with_name("out.engine")


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: path, "is an input as well, and would be lost"),
    (lambda path: path.parent, "is a folder, expected the name of a file"),
    (lambda path: record_folder(path), "out.engine.json: is a folder"),
])
def test_an_engine_path_that_cant_be_is_refused_before_the_work(tmp_path: Path, make: Callable[[Path], Path],
                                                               message: str) -> None:
    path = tiny(tmp_path / "tiny.onnx")
    with pytest.raises(KitError, match=re.escape(message)):
        build_engine(plan_build(path, make(path), 2, "fp32", "onnxruntime"))


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    """An engine that is up to date may lie in a folder that can't be written."""
    path = tiny(tmp_path / "tiny.onnx")
    before = tmp_path.stat().st_mtime_ns
    plan_build(path, tmp_path / "tiny.engine", 2, "fp32", "onnxruntime")
    assert tmp_path.stat().st_mtime_ns == before
