"""--save_onnx: the engine's graph for other runtimes, which here are ONNX Runtime and TensorRT's parser."""

import importlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import ran, refused

from rtmpose.data import postprocess
from rtmpose.data.batches import iterate_batches
from rtmpose.data.coco import load_persons
from rtmpose.engines import load_engine, tensorrt
from rtmpose.model import graph

SIZE = (192, 256)


def save(folder: Path, model: Path, precision: str, backend: str, calibration: Path | None = None) -> Path:
    """Build an engine, and save its graph in ``folder``."""
    path = folder / "typed.onnx"
    shown = ran("build_engine.py", "--model_path", model, "--batch", 4, "--precision", precision, "--backend", backend,
                "--engine_path", folder / "rtmpose.engine", "--save_onnx", path,
                *(["--calibration", calibration] if calibration else []))
    assert f"Wrote {path}: " in shown
    onnx.checker.check_model(path, full_check=True)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnx_runtime_finds_the_engines_keypoints(demo_onnx: Path, people_folder: Path, calibration_folder: Path,
                                                  tmp_path: Path, precision: str) -> None:
    path = save(tmp_path, demo_onnx, precision, "onnxruntime", calibration_folder if precision == "int8" else None)
    session, engine = onnxruntime.InferenceSession(path), load_engine(tmp_path / "rtmpose.engine")
    assert [given.shape for given in session.get_inputs()] == [[4, 3, 256, 192]]
    for batch in list(iterate_batches(load_persons(people_folder).images, SIZE, 4))[:4]:
        outputs = session.run(list(graph.OUTPUTS), {"input": batch.pixels})
        assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
        found, scores = postprocess.decode(*outputs, SIZE)
        expected, _ = postprocess.decode(*engine.infer(batch.pixels), SIZE)
        np.testing.assert_array_equal(found, expected)
        assert np.median(scores) > 0.2

    saved, source = onnx.load(path), onnx.load(demo_onnx)
    kept = [{entry.key: entry.value for entry in model.metadata_props} for model in (saved, source)]
    assert kept[0] == {key: value for key, value in kept[1].items() if not key.startswith("onnxsim.")}
    assert {"keypoints", "checkpoint_sha256"} < {*kept[0]}
    assert graph.count_types(saved)[0] == ({"fp16": 41, "fp32": 4} if precision == "fp16" else {"fp32": 45})
    quantized = {name for node in saved.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert sum(quantized.issuperset(node.input[:2]) for node in saved.graph.node if node.op_type == "Conv") == (
        37 if precision == "int8" else 0)


def test_an_engine_that_is_up_to_date_is_left_alone_and_its_graph_written(model_files: dict[str, Path], tmp_path: Path
                                                                         ) -> None:
    path = save(tmp_path, model_files["onnx"], "fp16", "onnxruntime")
    content, built = path.read_bytes(), (tmp_path / "rtmpose.engine").stat().st_mtime_ns
    path.unlink()
    assert save(tmp_path, model_files["onnx"], "fp16", "onnxruntime").read_bytes() == content
    assert (tmp_path / "rtmpose.engine").stat().st_mtime_ns == built


@pytest.mark.parametrize(("name", "message"), [
    ("rtmpose.engine", "is an input as well, and would be lost"), ("missing/typed.onnx", "missing")])
def test_a_file_that_cant_be_written_is_refused_before_the_build(model_files: dict[str, Path], tmp_path: Path,
                                                                 name: str, message: str) -> None:
    (tmp_path / "rtmpose.engine").write_bytes(b"old")
    line = refused("build_engine.py", "--model_path", model_files["onnx"], "--batch", 4, "--engine_path",
                   tmp_path / "rtmpose.engine", "--save_onnx", tmp_path / name)
    assert message in line and (tmp_path / "rtmpose.engine").read_bytes() == b"old"


@pytest.mark.skipif(not tensorrt.describe(), reason="needs TensorRT-RTX, or TensorRT and a GPU")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrts_parser_takes_it_strongly_typed(demo_onnx: Path, tmp_path: Path, precision: str) -> None:
    path = save(tmp_path, demo_onnx, precision, "tensorrt")
    trt = importlib.import_module(tensorrt.describe()[0].package)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), parser.get_error(0).desc()
    assert [network.get_output(i).name for i in range(network.num_outputs)] == [*graph.OUTPUTS]
