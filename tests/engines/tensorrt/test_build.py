"""Real engines, built with TensorRT or TensorRT-RTX; running them needs a GPU."""

import importlib
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import build_engine, run_script

from rtmpose.engines import backend, load_engine
from rtmpose.engines.record import read_record
from rtmpose.machine.gpu import Gpu, find_gpu
from rtmpose.model import export, graph
from rtmpose.model.checkpoint import Network, _SimCC
from rtmpose.model.config import build_estimator, read_config
from rtmpose.model.int8 import calibrate, quantize
from rtmpose.model.mixed_precision import scale_final_convolutions, to_mixed_precision

tensorrt = backend("tensorrt")
pytestmark = pytest.mark.skipif(
    "tensorrt_rtx" not in tensorrt._installed() and not (tensorrt.is_installed() and find_gpu()),
    reason="needs TensorRT-RTX, or TensorRT and a GPU",
)

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


def published_config(name: str) -> Path:
    """A config as mmpose ships it: with mmdet's backbone, SyncBN, and base configs."""
    package = importlib.util.find_spec("mmpose")
    return Path(package.origin).parent / ".mim/configs" / name


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS, ids=lambda name: Path(name).stem)
def test_every_published_size_exports_and_builds_in_fp32_and_fp16(name: str, tmp_path: Path) -> None:
    config = published_config(name)
    read = read_config(config)
    network = Network(_SimCC(build_estimator(read.model, config)).eval(), read.input_size, read.skeleton)
    export.export(network, tmp_path / "model.onnx", {}, simplify_it=True)
    width, height = network.input_size
    fixed = graph.simplify(graph.load(tmp_path / "model.onnx"), (2, 3, height, width))
    spec = graph.read_spec(fixed, "model.onnx")
    assert spec == graph.ModelSpec(2, (width, height), len(read.skeleton.keypoints), (2 * width, 2 * height))
    products = sum(Counter(n.op_type for n in fixed.graph.node)[kind] for kind in ("Conv", "MatMul"))
    half, _ = to_mixed_precision(fixed, "fp16")
    for typed, expected, size in ((fixed, {"fp32": products}, 4), (half, {"fp16": products - 4, "fp32": 4}, 2)):
        engine = tmp_path / "rtmpose.engine"
        arithmetic, layers = tensorrt.build(typed, engine, engine)
        assert arithmetic == expected
        assert sum(layers.values()) > products
        assert engine.stat().st_size > size * 3_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", [CONFIGS[0], CONFIGS[2]], ids=lambda name: Path(name).stem)
def test_int8_builds_strongly_typed(name: str, tmp_path: Path) -> None:
    """Convolutions in INT8, the rest as in FP16: logits and attention in FP32."""
    config = published_config(name)
    torch.manual_seed(0)
    read = read_config(config)
    network = Network(_SimCC(build_estimator(read.model, config)).eval(), read.input_size, read.skeleton)
    export.export(network, tmp_path / "model.onnx", {}, simplify_it=True)
    fixed = graph.simplify(graph.load(tmp_path / "model.onnx"), (2, 3, 256, 192))
    crops = np.random.default_rng(0).standard_normal((2, 3, 256, 192), dtype=np.float32)
    ranges = calibrate.find_ranges(fixed, tensorrt.INT8_SCHEME, [crops])
    quantized = quantize.insert_quantization(scale_final_convolutions(fixed), ranges, tensorrt.INT8_SCHEME)
    typed, _ = to_mixed_precision(quantized, "fp16")
    engine = tmp_path / "rtmpose.engine"
    arithmetic, layers = tensorrt.build(typed, engine, engine)
    convolutions = sum(node.op_type == "Conv" for node in fixed.graph.node)
    assert convolutions > 30 and arithmetic == {"int8": convolutions, "fp16": 3, "fp32": 4}
    assert sum(layers.values()) > sum(arithmetic.values()) and engine.stat().st_size > 3_000_000


@pytest.mark.slow
def test_build_engine_builds_int8(demo_onnx: Path, calibration_folder: Path, tmp_path: Path) -> None:
    engine = tmp_path / "rtmpose.engine"
    arguments = ("--model_path", demo_onnx, "--input", "input:2,3,256,192", "--precision", "int8",
                 "--calibration", calibration_folder, "--backend", "tensorrt", "--engine_path", engine)
    done = run_script("build_engine.py", *arguments)
    assert done.returncode == 0, done.stderr
    record = read_record(engine)
    assert record.arithmetic == {"int8": 37, "fp16": 4, "fp32": 4}
    assert record.precision == "int8"
    assert record.calibration["scheme"] == {"signed": True, "outputs": False, "equalized": True, "rest_fp16": True}
    assert "| block | convolutions |" in done.stdout and "| stays in fp32, because |" in done.stdout
    again = run_script("build_engine.py", *arguments)
    assert again.returncode == 0 and "nothing to do" in again.stdout


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_build_engine_writes_an_engine_and_its_record(model_files: dict[str, Path], tmp_path: Path, precision: str
                                                      ) -> None:
    engine = tmp_path / "rtmpose.engine"
    arguments = ("--model_path", model_files["onnx"], "--input", "input:2,3,256,192", "--precision", precision,
                 "--backend", "tensorrt", "--engine_path", engine)
    done = run_script("build_engine.py", *arguments)
    assert done.returncode == 0, done.stderr
    record = read_record(engine)
    assert (record.precision, record.batch, record.input_size) == (precision, 2, (192, 256))
    assert record.arithmetic == {"fp16": {"fp16": 41, "fp32": 4}, "bf16": {"bf16": 38, "fp32": 7}}[precision]
    assert record.package in tensorrt._installed()
    assert precision in done.stdout and "MiB" in done.stdout
    again = run_script("build_engine.py", *arguments)
    assert again.returncode == 0 and "nothing to do" in again.stdout


def test_real_builder_rounds_no_operands_to_tf32(model_files: dict[str, Path], tmp_path: Path) -> None:
    trt = importlib.import_module(tensorrt._installed()[0])
    builder = trt.Builder(trt.Logger())
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "off by default: the kit need not clear it"
    assert not tensorrt.make_config(trt, builder).get_flag(trt.BuilderFlag.TF32)
    engine = build_engine(model_files["onnx"], tmp_path / "fp32.engine", 1, "fp32", "tensorrt")
    assert set(read_record(engine).arithmetic) == {"fp32"}


@pytest.mark.parametrize(("package", "capability", "message"), [
    ("tensorrt_rtx", "9.0", "TensorRT-RTX does not support compute capability 9.0; install tensorrt"),
    ("tensorrt_rtx", "8.9", None), ("tensorrt", "9.0", None)])
def test_rtx_on_a_gpu_that_it_does_not_list(monkeypatch: pytest.MonkeyPatch, package: str, capability: str,
                                            message: str | None) -> None:
    monkeypatch.setattr(tensorrt, "_is_importable", lambda name: True)
    obstacle = tensorrt.find_obstacle(Gpu("NVIDIA", capability, "13.0", 0, ""), package)
    assert (obstacle or "").startswith(message or "") and bool(obstacle) == bool(message)


@pytest.mark.parametrize(("capability", "message"), [("7.5", "has compute capability 7.5, and BF16 needs 8.0"),
                                                    ("8.0", None), ("12.0", None)])
def test_gpus_without_bf16_are_named(monkeypatch: pytest.MonkeyPatch, capability: str, message: str | None) -> None:
    monkeypatch.setattr("rtmpose.engines.tensorrt.build.find_gpu", lambda: Gpu("NVIDIA", capability, "13.0", 0, ""))
    obstacle = tensorrt.find_bf16_obstacle()
    assert obstacle == (message and f"NVIDIA {message}")


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_an_engine_for_the_gpu_is_refused_without_one(model_files: dict[str, Path], tmp_path: Path) -> None:
    engine = tmp_path / "rtmpose.engine"
    run_script("build_engine.py", "--model_path", model_files["onnx"], "--input", "input:1,3,256,192", "--precision",
               "fp16", "--backend", "tensorrt", "--engine_path", engine)
    done = run_script("inference.py", "--engine", engine, "--perf_only")
    assert done.returncode == 2
    assert "no NVIDIA GPU is here" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
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


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
def test_the_gpu_is_timed_with_and_without_copies(model_files: dict[str, Path], tmp_path: Path) -> None:
    engine = tmp_path / "rtmpose.engine"
    run_script("build_engine.py", "--model_path", model_files["onnx"], "--input", "input:32,3,256,192",
               "--precision", "fp16", "--backend", "tensorrt", "--engine_path", engine)
    done = run_script("inference.py", "--engine", engine, "--perf_only", "True", "--duration", "1")
    assert done.returncode == 0, done.stderr
    assert "CUDA events" in done.stdout and "host-device copies" in done.stdout
