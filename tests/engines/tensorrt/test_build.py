"""Real engines, built with TensorRT or TensorRT-RTX; running them needs a GPU."""

import importlib
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import build_engine, build_facts, ran, refused
from onnx import ModelProto, load_model, save_model

from rtmpose.data import preprocess
from rtmpose.data.coco import load_persons
from rtmpose.engines import load_engine, tensorrt
from rtmpose.engines.record import read_record
from rtmpose.evaluate.predict import predict_persons
from rtmpose.evaluate.predict_gpu import predict_persons_on_gpu
from rtmpose.machine.gpu import Gpu, find_gpu
from rtmpose.model import export, graph
from rtmpose.model.checkpoint import Network, _SimCC
from rtmpose.model.config import build_estimator, read_config
from rtmpose.model.int8 import calibrate, quantize
from rtmpose.model.mixed_precision import scale_final_convolutions, to_mixed_precision

INSTALLED = [target.package for target in tensorrt.describe()]
BUILD = importlib.import_module("rtmpose.engines.tensorrt.build")
pytestmark = pytest.mark.skipif(
    "tensorrt_rtx" not in INSTALLED and not (INSTALLED and find_gpu()),
    reason="needs TensorRT-RTX, or TensorRT and a GPU",
)


def needs_gpu(test: Callable) -> Callable:
    return pytest.mark.gpu(pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")(test))


# One published config of every size, crop and number of keypoints.
BODY = "body_2d_keypoint/rtmpose"
WHOLEBODY = "wholebody_2d_keypoint/rtmpose"
CONFIGS = (
    *(f"{BODY}/coco/rtmpose-{size}_8xb256-420e_coco-256x192.py" for size in "tsml"),
    f"{BODY}/coco/rtmpose-m_8xb256-420e_aic-coco-384x288.py",
    f"{BODY}/coco/rtmpose-l_8xb256-420e_aic-coco-384x288.py",
    f"{BODY}/body8/rtmpose-t_8xb1024-700e_body8-halpe26-256x192.py",
    f"{BODY}/body8/rtmpose-m_8xb512-700e_body8-halpe26-384x288.py",
    f"{BODY}/body8/rtmpose-x_8xb256-700e_body8-halpe26-384x288.py",
    f"{WHOLEBODY}/ubody/rtmpose-s_8xb64-270e_coco-ubody-wholebody-256x192.py",
    f"{WHOLEBODY}/coco-wholebody/rtmpose-m_8xb64-270e_coco-wholebody-256x192.py",
    f"{WHOLEBODY}/coco-wholebody/rtmpose-x_8xb32-270e_coco-wholebody-384x288.py",
)


def export_published(name: str, folder: Path) -> ModelProto:
    """The simplified graph, batch 2, of a config as mmpose ships it: mmdet's backbone, SyncBN, and base configs."""
    config = Path(importlib.util.find_spec("mmpose").origin).parent / ".mim/configs" / name
    torch.manual_seed(0)
    read = read_config(config)
    network = Network(_SimCC(build_estimator(read.model, config)).eval(), read.input_size, read.skeleton, [])
    export.export(network, folder / "model.onnx", {}, simplify_it=True)
    width, height = network.input_size
    fixed = graph.simplify(graph.load_model(folder / "model.onnx"), (2, 3, height, width))
    spec = graph.read_spec(fixed, "model.onnx")
    assert spec == graph.ModelSpec(len(read.skeleton.keypoints), (2 * width, 2 * height), read.skeleton, {})
    return fixed


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS, ids=lambda name: Path(name).stem)
def test_every_published_size_exports_and_builds_in_fp32_and_fp16(name: str, tmp_path: Path) -> None:
    fixed = export_published(name, tmp_path)
    products = sum(node.op_type in ("Conv", "MatMul") for node in fixed.graph.node)
    half, _ = to_mixed_precision(fixed, "fp16")
    for typed, expected, size in ((fixed, {"fp32": products}, 4), (half, {"fp16": products - 4, "fp32": 4}, 2)):
        (compiled,) = tensorrt.build(typed, tmp_path / "rtmpose.engine", build_facts("tensorrt"))
        assert compiled.arithmetic == expected
        assert sum(compiled.layers.values()) > products
        assert len(compiled.content) > size * 3_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", [CONFIGS[0], CONFIGS[2]], ids=lambda name: Path(name).stem)
def test_int8_builds_strongly_typed(name: str, tmp_path: Path) -> None:
    """Convolutions in INT8, the rest as in FP16: logits and attention in FP32."""
    fixed = export_published(name, tmp_path)
    crops = np.random.default_rng(0).standard_normal((2, 3, 256, 192), dtype=np.float32)
    ranges = calibrate.find_ranges(fixed, tensorrt.INT8_SCHEME, [crops])
    quantized = quantize.insert_quantization(scale_final_convolutions(fixed), ranges, tensorrt.INT8_SCHEME)
    typed, _ = to_mixed_precision(quantized, "fp16")
    (compiled,) = tensorrt.build(typed, tmp_path / "rtmpose.engine", build_facts("tensorrt"))
    convolutions = sum(node.op_type == "Conv" for node in fixed.graph.node)
    assert convolutions > 30 and compiled.arithmetic == {"int8": convolutions, "fp16": 3, "fp32": 4}
    assert sum(compiled.layers.values()) > sum(compiled.arithmetic.values()) and len(compiled.content) > 3_000_000
    (half,) = tensorrt.build(to_mixed_precision(fixed, "fp16")[0], tmp_path / "half.engine", build_facts("tensorrt"))
    if INSTALLED[0] == "tensorrt_rtx":
        assert compiled.kernels["bytes"] > half.kernels["bytes"], "INT8 may be faster now, and need not be refused"


@pytest.mark.parametrize(("precision", "arithmetic"), [
    ("fp32", {"fp32": 45}), ("fp16", {"fp16": 41, "fp32": 4}), ("bf16", {"bf16": 38, "fp32": 7})])
def test_build_engine_writes_an_engine_and_its_record(model_files: dict[str, Path], tmp_path: Path, precision: str,
                                                      arithmetic: dict[str, int]) -> None:
    engine = tmp_path / "rtmpose.engine"
    arguments = ("--model_path", model_files["onnx"], "--batch", 2, "--precision", precision, "--backend", "tensorrt",
                 "--engine_path", engine)
    shown = ran("build_engine.py", *arguments)
    record = read_record(engine)
    assert (record.precision, record.batch, record.input_size) == (precision, 2, (192, 256))
    assert record.arithmetic == arithmetic and record.package in INSTALLED
    assert precision in shown and "MiB" in shown
    kernels = record.kernels
    assert f"{kernels['fused']} of {sum(record.layers.values())} compute several layers; they read and write" in shown
    assert "nothing to do" in ran("build_engine.py", *arguments)
    if precision == "fp32" and find_gpu() is None:
        assert "no NVIDIA GPU is here" in refused("inference.py", "--engine", engine, "--perf_only")


@pytest.mark.skipif(INSTALLED[:1] != ["tensorrt_rtx"], reason="needs TensorRT-RTX")
def test_rtx_refuses_int8(model_files: dict[str, Path], calibration_folder: Path, tmp_path: Path) -> None:
    line = refused("build_engine.py", "--model_path", model_files["onnx"], "--batch", 2, "--precision", "int8",
                   "--calibration", calibration_folder, "--backend", "tensorrt", "--engine_path", tmp_path / "a.engine")
    assert line.endswith("--precision int8: TensorRT-RTX fuses nothing into INT8 convolutions, which makes INT8 slower "
                         "than FP16; use --precision fp16")


def test_operator_that_the_parser_refuses_is_named(model_files: dict[str, Path], tmp_path: Path) -> None:
    """The parser's description of the error alone is "false"."""
    model, path = load_model(model_files["onnx"]), tmp_path / "rtmpose.onnx"
    next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Bernoulli"
    save_model(model, path)
    line = refused("build_engine.py", "--model_path", path, "--batch", 1, "--precision", "fp32", "--backend",
                   "tensorrt", "--engine_path", tmp_path / "rtmpose.engine")
    assert "can't build it (can't parse the graph: In node " in line and " and operator: Bernoulli (" in line


def test_real_builder_rounds_no_operands_to_tf32() -> None:
    trt = importlib.import_module(INSTALLED[0])
    builder = trt.Builder(trt.Logger())
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "off by default: the kit need not clear it"
    assert not BUILD.make_config(trt, builder).get_flag(trt.BuilderFlag.TF32)


@pytest.mark.skipif("tensorrt_rtx" not in INSTALLED, reason="needs TensorRT-RTX")
def test_rtx_builds_the_same_engine_at_each_level(model_files: dict[str, Path]) -> None:
    """So levels and several builds of it are refused."""
    trt = importlib.import_module("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    fixed = graph.simplify(graph.load_model(model_files["onnx"]), (2, 3, 256, 192))
    assert trt.OnnxParser(network, trt.Logger()).parse(fixed.SerializeToString())
    engines = {bytes(memoryview(builder.build_serialized_network(network, BUILD.make_config(trt, builder, level))))
               for level in (None, 0, 5)}
    assert len(engines) == 1
    arguments = ("build_engine.py", "--model_path", model_files["onnx"], "--batch", 2, "--backend", "tensorrt",
                 "--engine_path", model_files["onnx"].with_name("level.engine"))
    if INSTALLED[0] == "tensorrt_rtx":
        assert "TensorRT-RTX builds the same engine at each" in refused(*arguments, "--optimization_level", 5)
        assert "--builds 3: tensorrt_rtx " in refused(*arguments, "--builds", 3)


@pytest.mark.parametrize(("package", "capability", "message"), [
    ("tensorrt_rtx", "9.0", "TensorRT-RTX does not support compute capability 9.0; install tensorrt"),
    ("tensorrt_rtx", "8.9", None), ("tensorrt", "9.0", None)])
def test_rtx_on_a_gpu_that_it_does_not_list(monkeypatch: pytest.MonkeyPatch, package: str, capability: str,
                                            message: str | None) -> None:
    monkeypatch.setattr(BUILD, "is_installed", lambda name: True)
    obstacle = tensorrt.find_obstacle(Gpu("NVIDIA", capability, "13.0", 0, ""), package)
    assert (obstacle or "").startswith(message or "") and bool(obstacle) == bool(message)


@pytest.mark.parametrize(("capability", "obstacle"), [
    ("7.5", "NVIDIA has compute capability 7.5, and BF16 needs 8.0"), ("8.0", None), ("12.0", None)])
def test_gpus_without_bf16_are_named(monkeypatch: pytest.MonkeyPatch, capability: str, obstacle: str | None) -> None:
    monkeypatch.setattr(BUILD, "find_gpu", lambda: Gpu("NVIDIA", capability, "13.0", 0, ""))
    assert tensorrt.find_precision_obstacle("cuda", "bf16") == obstacle


@needs_gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 1e-1)])
def test_the_gpu_agrees_with_onnx_runtime(model_files: dict[str, Path], tmp_path: Path, precision: str,
                                          tolerance: float) -> None:
    crops = np.random.default_rng(0).standard_normal((2, 3, 256, 192), dtype=np.float32)
    outputs = []
    for name, typed in (("onnxruntime", "fp32"), ("tensorrt", precision)):
        engine = build_engine(model_files["onnx"], tmp_path / f"{name}.engine", 2, typed, name)
        outputs.append(load_engine(engine).infer(crops))
    for expected, given in zip(*outputs, strict=True):
        assert np.abs(given - expected).max() <= tolerance * np.abs(expected).max()


@needs_gpu
def test_the_gpu_is_timed_and_takes_images_as_well_as_crops(model_files: dict[str, Path], drawn: Path, tmp_path: Path
                                                            ) -> None:
    path = build_engine(model_files["onnx"], tmp_path / "rtmpose.engine", 4, "fp16", "tensorrt")
    shown = ran("inference.py", "--engine", path, "--perf_only", "True", "--duration", "1")
    assert "CUDA events" in shown and "host-device copies" in shown
    engine, persons = load_engine(path), load_persons(drawn)
    for flip_test in (False, True):
        expected, *_ = predict_persons(engine, persons, flip_test)
        given, batch_ms, _ = predict_persons_on_gpu(engine, persons, flip_test)
        assert len(batch_ms) == -(-len(persons) // 4)
        for name in ("keypoints", "scores", "scales"):
            np.testing.assert_array_equal(getattr(given, name), getattr(expected, name))
    with ThreadPoolExecutor(1) as pool:  # another thread
        crops = preprocess.random_input(4, (192, 256))
        for one, other in zip(pool.submit(engine.infer, crops).result(), engine.infer(crops), strict=True):
            np.testing.assert_array_equal(one, other)
