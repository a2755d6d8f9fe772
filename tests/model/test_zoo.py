"""ONNX files as mmdeploy, rtmlib and converters leave them: their engines give the keypoints of the file itself."""

import io
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
import torch
from helpers import BASELINE, ROOT, ran, refused
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from rtmpose.data import postprocess
from rtmpose.data.batches import iterate_batches
from rtmpose.data.coco import load_persons
from rtmpose.engines import load_engine
from rtmpose.engines.record import read_record
from rtmpose.model import graph
from rtmpose.model.checkpoint import load_network
from rtmpose.model.mixed_precision import to_mixed_precision


@pytest.fixture(scope="session")
def end2end() -> bytes:
    """The demo's network as mmdeploy exports one: opset 11, a dynamic batch, no metadata."""
    return export(input_names=["input"], output_names=["simcc_x", "simcc_y"],
                  dynamic_axes={name: {0: "batch"} for name in ("input", "simcc_x", "simcc_y")})


def export(**options: object) -> bytes:
    network = load_network(ROOT / "demo/rtmpose-t_drawn-people-256x192.py", next((ROOT / "demo").glob("*.pth")))
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(network.module, (torch.zeros(1, 3, 256, 192),), file, dynamo=False, opset_version=11,
                          **options)
    return file.getvalue()


def halve(model: onnx.ModelProto, keep_io_types: bool) -> onnx.ModelProto:
    halved = OnnxModel(convert_float_to_float16(model, keep_io_types=keep_io_types))
    halved.topological_sort()
    return halved.model


def swap_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Other names, height first."""
    for node in model.graph.node:
        node.output[:] = [name.replace("simcc_", "out_of_") for name in node.output]
    x, y = model.graph.output
    x.name, y.name = "out_of_x", "out_of_y"
    swapped = [deepcopy(y), deepcopy(x)]
    del model.graph.output[:]
    model.graph.output.extend(swapped)
    return model


FILES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "opset 11": lambda model: model,
    "opset 21": lambda model: onnx.version_converter.convert_version(model, 21),
    "unnamed, fixed batch": lambda model: onnx.load_from_string(export()),
    "outputs of other names": swap_outputs,
    "FP16 inside": lambda model: halve(model, keep_io_types=True),
    "FP16": lambda model: halve(model, keep_io_types=False),
    "mixed FP16": lambda model: to_mixed_precision(graph.simplify(model, (2, 3, 256, 192)), "fp16")[0],
}


@pytest.mark.parametrize("kind", FILES)
def test_the_engine_gives_the_keypoints_of_the_file(end2end: bytes, people_folder: Path, tmp_path: Path, kind: str
                                                    ) -> None:
    """Of an FP16 file those of its weights: the file itself rounds between operators as well."""
    model, engine = FILES[kind](onnx.load_from_string(end2end)), tmp_path / "zoo.engine"
    onnx.save(model, tmp_path / "end2end.onnx")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 4
    shown = ran("build_engine.py", "--model_path", tmp_path / "end2end.onnx", "--batch", batch, "--precision", "fp32",
                "--skeleton", "coco", "--backend", "onnxruntime", "--engine_path", engine)
    half = "FP16" in kind
    assert ("Note: the weights of end2end.onnx are rounded to fp16 already" in shown) == half
    assert read_record(engine).source == ({"weights": "fp16"} if half else {})

    session, built = onnxruntime.InferenceSession(model.SerializeToString()), load_engine(engine)
    given, = session.get_inputs()
    crops = np.concatenate([batch.pixels for batch in iterate_batches(load_persons(people_folder).images, (192, 256), 4)
                            ][:8])
    found, expected = [], []
    for start in range(0, len(crops), batch):
        pixels = crops[start:start + batch]
        found.append(postprocess.decode(*built.infer(pixels), (192, 256)))
        outputs = session.run(None, {given.name: pixels.astype(np.float16 if "float16" in given.type else np.float32)})
        by_bins = sorted(outputs, key=lambda output: output.shape[2])
        expected.append(postprocess.decode(*(output.astype(np.float32) for output in by_bins), (192, 256)))
    moved, scores = (np.concatenate(part) for part in zip(
        *((np.abs(one[0] - two[0]), two[1]) for one, two in zip(found, expected, strict=True)), strict=True))
    within = (moved[scores > 0.2] <= 0.5).mean()
    assert within == 1 if not half else within > 0.99
    assert np.median(scores) > 0.2


def test_ap_of_a_file_without_metadata_is_that_of_the_export(end2end: bytes, people_folder: Path, tmp_path: Path
                                                             ) -> None:
    path, engine = tmp_path / "end2end.onnx", tmp_path / "zoo.engine"
    path.write_bytes(end2end)
    build = ("build_engine.py", "--model_path", path, "--batch", 16, "--precision", "fp32", "--backend", "onnxruntime",
             "--engine_path", engine)
    ran(*build)
    line = refused("inference.py", "--engine", engine, "--datasets", people_folder)
    assert line.endswith("if they are the same, build it again with --skeleton coco")
    assert "Built" in ran(*build, "--skeleton", "coco")
    assert "nothing to do" in ran(*build, "--skeleton", "coco")
    shown = ran("inference.py", "--engine", engine, "--datasets", people_folder)
    assert f"{BASELINE['AP']:.3f}" in shown
    assert "Built" in ran(*build)  # again without names


def tiny(path: Path, size: tuple[int, int], outputs: tuple[str, str], keypoints: int = 17, skeleton: str = "",
         bins: str = "") -> Path:
    """A graph with a crop's means as logits, for crops of ``size`` (W, H)."""
    width, height = size
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2], keepdims=1),
             helper.make_node("Reshape", ["mean", "shape"], ["row"]),
             helper.make_node("Expand", ["row", "rows_shape"], ["rows"]),
             *(helper.make_node("MatMul", ["rows", axis], [name]) for axis, name in zip("xy", outputs, strict=True))]
    tensors = {"shape": np.array([-1, 1, width]), "rows_shape": np.array([1, keypoints, width]), **{
        axis: np.ones((width, 2 * side), np.float32) for axis, side in zip("xy", size, strict=True)}}
    made = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, keypoints, bins or 2 * side])
         for name, side in zip(outputs, size, strict=True)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    if skeleton:
        helper.set_model_props(model, {"skeleton": "another", "keypoints": skeleton})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("size", "outputs", "options", "message"), [
    ((256, 192), ("439", "437"), {}, None),  # more bins over x
    ((256, 256), ("pred_x", "pred_y"), {}, None),
    ((256, 256), ("437", "439"), {}, "has the outputs 437[1,17,512], 439[1,17,512], expected simcc_x[1,K,Wx]"),
    ((192, 256), ("simcc_y", "simcc_x"), {}, "has the outputs simcc_y[1,17,384], simcc_x[1,17,512], expected"),
    ((192, 256), ("0", "1"), {"bins": "?"}, "has the outputs 0[1,17,384], 1[1,17,512], expected"),  # says none
    ((192, 256), ("simcc_x", "other"), {}, "has the outputs simcc_x[1,17,384], other[1,17,512], expected"),
    ((192, 256), ("simcc_x", "simcc_y"), {"keypoints": 26},
     "tiny.onnx: gives 26 keypoints, 17 are named; export it again, or leave out --skeleton"),
    ((192, 256), ("simcc_x", "simcc_y"), {"skeleton": ",".join("abcdefghijklmnopq")},
     "names other keypoints than COCO's (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q); leave out --skeleton"),
    ((192, 256), ("simcc_x", "simcc_y"), {"skeleton": ",".join(postprocess.COCO_KEYPOINTS)}, None),
])
def test_what_is_certain_is_taken(tmp_path: Path, size: tuple[int, int], outputs: tuple[str, str], options: dict,
                                  message: str | None) -> None:
    path, engine = tiny(tmp_path / "tiny.onnx", size, outputs, **options), tmp_path / "tiny.engine"
    build = ("build_engine.py", "--model_path", path, "--batch", 1, "--precision", "fp32", "--skeleton", "coco",
             "--backend", "onnxruntime", "--engine_path", engine)
    if message:
        assert message in refused(*build)
        return
    ran(*build)
    record = read_record(engine)
    assert record.bins == (2 * size[0], 2 * size[1]) and record.keypoints == postprocess.COCO_KEYPOINTS
    assert record.skeleton == "coco"
    assert [logits.shape[2] for logits in load_engine(engine).infer(np.zeros((1, 3, *size[::-1]), np.float32))] == [
        2 * size[0], 2 * size[1]]
