"""ONNX Runtime on another device than the CPU: OpenVINO's execution provider, a plugin, which this machine can run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import ran, refusal, refused

from rtmpose.engines import load_engine, onnxruntime, open_engine, openvino
from rtmpose.engines.record import read_record

pytestmark = pytest.mark.skipif("openvino" not in [target.device for target in onnxruntime.describe()],
                                reason="needs onnxruntime-ep-openvino")
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Let build_engine.py build an engine of the random RTMPose-t for OpenVINO's provider."""
    def run(precision: str) -> Path:
        engine = tmp_path_factory.mktemp("plugin") / f"{precision}.engine"
        ran(*command(model_files["onnx"], engine, precision))
        return engine
    return run


def command(model: Path, engine: Path, precision: str, device: str = "openvino") -> tuple[object, ...]:
    return ("build_engine.py", "--model_path", model, "--batch", 4, "--precision", precision, "--backend",
            "onnxruntime", "--device", device, "--engine_path", engine)


@pytest.fixture(scope="module")
def engine(build: Build) -> Path:
    return build("fp32")


def test_plugin_is_a_device_with_its_name_and_version(engine: Path) -> None:
    target = next(target for target in onnxruntime.describe() if target.device == "openvino")
    assert target.device_name == openvino.get_core().get_property("CPU", "FULL_DEVICE_NAME")
    record = read_record(engine)
    assert (record.device, record.device_name, record.driver) == ("openvino", target.device_name, target.driver)
    assert target.driver and target.driver[0].isdigit()


def test_provider_computes_fp32(engine: Path, engine_file: Path) -> None:
    """By default it would take BF16 where the processor has it, which is off by 2**-9, twenty times as much."""
    crops = np.random.default_rng(0).standard_normal((4, 3, 256, 192), dtype=np.float32)
    kept = crops.copy()
    for one, other in zip(load_engine(engine).infer(crops), load_engine(engine_file).infer(crops), strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()
    assert np.array_equal(crops, kept)


def test_nodes_are_counted_by_provider(engine: Path, engine_file: Path, model_files: dict[str, Path]) -> None:
    """What a provider compiles counts as its nodes, of which it drops a few; on the CPU they are the engine's."""
    nodes = len(onnx.load(model_files["onnx"]).graph.node)
    (provider, number), = read_record(engine).executors.items()
    assert provider == "OpenVINOExecutionProvider" and 0.9 * nodes <= number <= nodes
    assert read_record(engine_file).executors == {"CPUExecutionProvider": len(onnx.load(engine_file).graph.node)}


def test_types_are_those_that_are_computed_in(build: Build) -> None:
    """Of FP16 OpenVINO makes FP32 on a processor; BF16 is refused unless the processor computes in it."""
    record = read_record(build("fp16"))
    assert record.precision == "fp32" and set(record.arithmetic) == {"fp32"} and "fp16" not in record.layers
    if onnxruntime.find_precision_obstacle("openvino", "bf16") is None:
        assert read_record(build("bf16")).arithmetic == {"bf16": 38, "fp32": 7}


@pytest.fixture(scope="module")
def partly_known(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random RTMPose-t with one operator, Det, that OpenVINO lacks; the kit's outputs depend on it."""
    model = onnx.load(model_files["onnx"])
    for node in model.graph.node:
        node.output[:] = ["logits" if name == "simcc_x" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 1, 1]), "shape"))
    make_node = onnx.helper.make_node
    model.graph.node.extend([
        make_node("Transpose", ["logits"], ["turned"], perm=[0, 2, 1]),
        make_node("MatMul", ["logits", "turned"], ["square"]), make_node("Det", ["square"], ["det"]),
        make_node("Reshape", ["det", "shape"], ["column"]), make_node("Add", ["logits", "column"], ["simcc_x"])])
    path = tmp_path_factory.mktemp("partly") / "partly.onnx"
    onnx.save(model, path)
    return path


def test_a_node_that_would_fall_back_to_the_cpu_is_refused(partly_known: Path, engine: Path) -> None:
    """When it is built, by number and operator; and when it is loaded, whoever built it."""
    line = refused(*command(partly_known, partly_known.with_name("a.engine"), "fp32"))
    assert "--device openvino: leaves 1 of 3 kernels to the CPU (1 Det); check its driver" in line
    assert not partly_known.with_name("a.engine").exists()
    fixed = onnx.load(partly_known)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 4
    message = refusal(open_engine, fixed.SerializeToString(), "a.engine", read_record(engine))
    assert "a.engine: onnxruntime 1." in message and "fallback to CPU EP has been explicitly disabled" in message


def test_crops_are_timed_in_the_memory_of_the_device_too(engine: Path, tmp_path: Path) -> None:
    ran("inference.py", "--engine", engine, "--perf_only", "--duration", 0.1, "--iterations", 2, "--output", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["fps_of"] == "ONNX Runtime on openvino, crops in its memory"
    assert list(summary["other_timings"]) == ["wall clock of ONNX Runtime on openvino, crops in memory"]


def test_int8_and_other_devices_are_refused(model_files: dict[str, Path], calibration_folder: Path, tmp_path: Path
                                            ) -> None:
    line = refused(*command(model_files["onnx"], tmp_path / "a.engine", "fp32", "cuda"))
    assert "--device cuda: onnxruntime 1." in line and "has cpu, openvino here; choose one of them" in line
    line = refused(*command(model_files["onnx"], tmp_path / "a.engine", "int8"), "--calibration", calibration_folder)
    assert "--precision int8: ONNX Runtime doesn't tell what openvino computes in it" in line


def test_keypoints_on_the_demo_are_those_of_the_cpu(demo_onnx: Path, people_folder: Path, tmp_path: Path) -> None:
    engines = {device: tmp_path / f"{device}.engine" for device in ("openvino", "cpu")}
    for device, path in engines.items():
        ran(*command(demo_onnx, path, "fp32", device))
    ran("inference.py", "--engine", engines["openvino"], "--datasets", people_folder, "--reference", engines["cpu"],
        "--output", tmp_path / "output")
    agreement = json.loads((tmp_path / "output/summary.json").read_text())["agreement"]
    assert agreement["counted"] > 500 and agreement["within_bin"] >= 0.999 and agreement["rest"]["within_bin"] >= 0.999
