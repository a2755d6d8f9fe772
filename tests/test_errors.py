"""User errors: one clear line, exit code 2, nothing half-written."""

import common

import dataclasses
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import ROOT, run_script, save_random_checkpoint, small_config, write_annotations

from rtmpose.engines.build import build_engine, plan_build
from rtmpose.engines.record import read_record, write_record
from rtmpose.model.checkpoint import load_network, load_state_dict
from rtmpose.model.export import export

Run = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a script that must fail, in a folder of its own, and return its one-line error."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATASETS_DIR", raising=False)

    def run(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        capfd.readouterr()
        try:
            code = common.exit_code(importlib.import_module(script).main)
        except SystemExit as left:  # argparse exits by itself
            code = left.code
        lines = capfd.readouterr().err.strip().splitlines()
        assert code == 2
        assert len(lines) == 1 and lines[0].startswith(f"{script}.py: error: "), lines
        assert list(folder.iterdir()) == []
        return lines[0]

    return run


@pytest.mark.parametrize("script", ["export.py", "build_engine.py", "inference.py"])
def test_outside_the_environment(script: str) -> None:
    """Without site-packages, as with a system's Python."""
    done = subprocess.run([sys.executable, "-S", ROOT / script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "numpy" in done.stderr and "scripts/setup.sh" in done.stderr


# export.py


@pytest.fixture
def export_fails(fails: Run, model_files: dict[str, Path]) -> Run:
    """Run export.py with one file replaced."""
    def run(**replaced: Path) -> str:
        files = {**model_files, **replaced}
        return fails("export", "--weight", files["checkpoint"], "--cfg", files["config"], "--output", "out.onnx")
    return run


@pytest.mark.filterwarnings("error:invalid value")
def test_checkpoint_of_zeros(export_fails: Run, model_files: dict[str, Path], tmp_path: Path) -> None:
    import torch

    state = torch.load(model_files["checkpoint"], weights_only=True)["state_dict"]
    torch.save({"state_dict": {name: tensor * 0 for name, tensor in state.items()}}, tmp_path / "zeros.pth")
    assert "check the checkpoint for NaN and for weights that are all zero" in export_fails(
        checkpoint=tmp_path / "zeros.pth")


def test_checkpoint_missing(export_fails: Run) -> None:
    assert "nowhere.pth: no such checkpoint" in export_fails(checkpoint=Path("/nowhere.pth"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_checkpoint_truncated(export_fails: Run, model_files: dict[str, Path], tmp_path: Path, share: float) -> None:
    content = model_files["checkpoint"].read_bytes()
    broken = tmp_path / "broken.pth"
    broken.write_bytes(content[:int(len(content) * share)])
    assert "broken.pth: is no PyTorch checkpoint or was cut off" in export_fails(checkpoint=broken)


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def test_checkpoint_that_would_run_code_is_refused_and_does_not_run(export_fails: Run, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"state_dict": {}, "meta": _Malicious(f"touch {trace}")}, tmp_path / "evil.pth")
    message = export_fails(checkpoint=tmp_path / "evil.pth")
    assert "evil.pth: refused, it holds objects that could run code (posix.system)" in message
    assert not trace.exists()


def test_metadata_of_an_official_checkpoint_is_allowed(model_files: dict[str, Path], tmp_path: Path) -> None:
    """The published files carry mmengine's log buffers and NumPy scalars and arrays beside the weights."""
    from mmengine.logging.history_buffer import HistoryBuffer
    losses = HistoryBuffer([1.5, 2.0], [1, 1])
    losses.update(0.5)
    content = torch.load(model_files["checkpoint"], weights_only=True)
    content["message_hub"] = {"log_scalars": {"train/loss": losses}}
    content["meta"] = {"best": np.float64(0.75), "flags": np.bool_(True), "sigmas": np.arange(3, dtype=np.float32),
                       "epoch": np.int64(420), "name": np.str_("coco")}
    torch.save(content, tmp_path / "official.pth")
    assert load_state_dict(tmp_path / "official.pth").keys() == content["state_dict"].keys()


def test_checkpoint_without_weights(export_fails: Run, tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": 1}}, tmp_path / "empty.pth")
    assert "empty.pth: holds no state_dict" in export_fails(checkpoint=tmp_path / "empty.pth")


def test_checkpoint_of_another_size(export_fails: Run, tmp_path: Path) -> None:
    wider = tmp_path / "wider.py"
    wider.write_text(small_config(widen=0.5))
    assert "keys of another shape: backbone.stem.0.conv.weight, " in export_fails(config=wider)


def test_checkpoint_of_another_depth_lists_missing_and_unexpected_keys(export_fails: Run) -> None:
    message = export_fails(config=ROOT / "rtmpose-m_8xb256-420e_coco-256x192.py")
    assert "keys missing: backbone." in message


def test_checkpoint_with_other_keys_lists_them(export_fails: Run, model_files: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(model_files["checkpoint"], weights_only=True)["state_dict"]
    state["head.extra"] = state.pop("head.cls_x.weight")
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    message = export_fails(checkpoint=tmp_path / "other.pth")
    assert "1 keys missing: head.cls_x.weight; 1 keys unexpected: head.extra" in message


def test_checkpoint_with_nan_weights_is_not_exported(export_fails: Run, model_files: dict[str, Path],
                                                     tmp_path: Path) -> None:
    content = torch.load(model_files["checkpoint"], weights_only=True)
    content["state_dict"]["head.cls_x.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pth")
    message = export_fails(checkpoint=tmp_path / "nan.pth")
    assert "nan.pth: holds NaN or infinity in 1 keys: head.cls_x.weight" in message


def test_config_missing(export_fails: Run) -> None:
    assert "nowhere.py: no such config" in export_fails(config=Path("/nowhere.py"))


@pytest.mark.parametrize(("text", "message"), [
    ("model = dict(", "can't be read as an mmengine config"),
    ("_base_ = ['nowhere.py']", "can't be read as an mmengine config"),
    ("model = dict(type='TopdownPoseEstimator', head=dict(type='HeatmapHead'))",
     "TopdownPoseEstimator, head HeatmapHead, is not supported; RTMPose's RTMCCHead is"),
    ("model = 3", "no model, head none, is not supported"),
    ("x = 1", "no model, head none, is not supported"),
    (small_config().replace("arch='P5'", "arch='P7'"), "mmpose can't build this model"),
    (small_config().replace("123.675", "0"), "data_preprocessor.mean is [0, 116.28, 103.53]"),
])
def test_config_broken_or_no_rtmpose(export_fails: Run, tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "config.py"
    config.write_text(text)
    assert f"config.py: {message}" in export_fails(config=config)


def test_output_in_a_folder_that_is_not_there(fails: Run, model_files: dict[str, Path]) -> None:
    message = fails("export", "--weight", model_files["checkpoint"], "--cfg", model_files["config"],
                 "--output", "nowhere/out.onnx")
    assert "nowhere/out.onnx: can't be written (No such file or directory)" in message


# build_engine.py


@pytest.fixture
def build_fails(fails: Run, model_files: dict[str, Path]) -> Run:
    """Run build_engine.py for the CPU."""
    def run(model: Path | None = None, shape: str = "input:2,3,256,192", precision: str = "fp16") -> str:
        return fails("build_engine", "--model_path", model or model_files["onnx"], "--input", shape,
                     "--precision", precision, "--backend", "onnxruntime", "--engine_path", "out.engine")
    return run


def test_onnx_missing(build_fails: Run) -> None:
    assert "nowhere.onnx: no such ONNX file" in build_fails(Path("/nowhere.onnx"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_onnx_truncated(build_fails: Run, model_files: dict[str, Path], tmp_path: Path, share: float) -> None:
    content = model_files["onnx"].read_bytes()
    (tmp_path / "broken.onnx").write_bytes(content[:int(len(content) * share)])
    assert "broken.onnx: is no valid ONNX file or was cut off" in build_fails(tmp_path / "broken.onnx")


def save_graph(path: Path, inputs: dict[str, list], outputs: dict[str, list]) -> Path:
    """A valid graph that slices, repeats and reshapes whatever it takes into what it should give."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]) for name in outputs]
    nodes += [helper.make_node("Identity", [name], [f"{name}_unused"]) for name in inputs]
    shapes = [helper.make_tensor(f"{name}_shape", onnx.TensorProto.INT64, [len(shape)], shape)
              for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
                              [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()], shapes)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


RTMPOSE_INPUT = {"input": [2, 3, 256, 192]}
RTMPOSE_OUTPUTS = {"simcc_x": [2, 17, 384], "simcc_y": [2, 17, 512]}


@pytest.mark.parametrize(("inputs", "outputs", "message"), [
    ({"image": [2, 3, 256, 192]}, RTMPOSE_OUTPUTS, "has the inputs image[2,3,256,192], expected input alone"),
    ({**RTMPOSE_INPUT, "other": [1]}, RTMPOSE_OUTPUTS, "has the inputs input[2,3,256,192], other[1]"),
    ({"input": [2, 256]}, RTMPOSE_OUTPUTS, "has the input input[2,256], --input says 2,3,256,192"),
    (RTMPOSE_INPUT, {"heatmaps": [2, 17, 64]}, "has the outputs heatmaps[2,17,64]"),
    (RTMPOSE_INPUT, {"simcc_x": [2, 17, 384], "simcc_y": [2, 16, 512]}, "has the outputs simcc_x[2,17,384], simcc_y"),
    (RTMPOSE_INPUT, {"simcc_x": [2, 17, 384], "simcc_y": [2, 17, 384]}, "has the outputs simcc_x[2,17,384], simcc_y"),
])
def test_onnx_with_other_inputs_or_outputs(build_fails: Run, tmp_path: Path, inputs: dict, outputs: dict, message: str
                                           ) -> None:
    assert f"other.onnx: {message}" in build_fails(save_graph(tmp_path / "other.onnx", inputs, outputs))


@pytest.mark.parametrize("shape", ["input", "input:", "32,3,256,192", "input:32,3,256", "input:a,3,256,192",
                                   "input:0,3,256,192", "input:32,1,256,192"])
def test_input_malformed(build_fails: Run, shape: str) -> None:
    assert f"argument --input: {shape!r} is not NAME:N,3,H,W" in build_fails(shape=shape)


@pytest.mark.parametrize(("shape", "message"), [
    ("input:2,3,192,256", "--input says 2,3,192,256; they must agree"),
    ("image:2,3,256,192", "expected image alone; check --input"),
])
def test_input_contradicts_the_graph(build_fails: Run, shape: str, message: str) -> None:
    assert message in build_fails(shape=shape)


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "--batch N or --input NAME:N,3,H,W is needed"),
    (("--batch", "0"), "argument --batch: 0 is not above zero"),
    (("--batch", "4", "--input", "input:2,3,256,192"), "--batch 4: --input says 2,3,256,192; they must agree"),
])
def test_batch_missing_or_contradictory(fails: Run, model_files: dict[str, Path], arguments: tuple, message: str
                                        ) -> None:
    assert message in fails("build_engine", "--model_path", model_files["onnx"], "--engine_path", "out.engine",
                            "--backend", "onnxruntime", *arguments)


@pytest.mark.parametrize("script", ["build_engine", "export"])
def test_output_that_is_an_input(fails: Run, model_files: dict[str, Path], tmp_path: Path, script: str) -> None:
    kept = tmp_path / "kept.onnx"
    shutil.copy(model_files["onnx" if script == "build_engine" else "checkpoint"], kept)
    before = kept.read_bytes()
    arguments = (("--model_path", kept, "--batch", 2, "--engine_path", kept) if script == "build_engine" else
                 ("--weight", kept, "--cfg", model_files["config"], "--output", kept))
    assert "kept.onnx: is an input as well, and would be lost" in fails(script, *arguments)
    assert kept.read_bytes() == before


def test_fixed_batch_contradicts_input(build_fails: Run, tmp_path: Path) -> None:
    graph = save_graph(tmp_path / "fixed.onnx", RTMPOSE_INPUT, RTMPOSE_OUTPUTS)
    assert "has the input input[2,3,256,192], --input says 4,3,256,192" in build_fails(graph, "input:4,3,256,192")


# inference.py: engines


@pytest.fixture
def engine_copy(engine_file: Path, tmp_path: Path) -> Path:
    """An engine with its record that a test may break."""
    copy = tmp_path / "copy.engine"
    shutil.copy(engine_file, copy)
    shutil.copy(f"{engine_file}.json", f"{copy}.json")
    return copy


def change_record(engine: Path, **changed: object) -> None:
    """Another engine's record: the same but for some parts."""
    write_record(engine, dataclasses.replace(read_record(engine), **changed))


def test_engine_missing(fails: Run) -> None:
    assert "nowhere.engine: no such engine" in fails("inference", "--engine", "/nowhere.engine")


def test_engine_truncated(fails: Run, engine_copy: Path) -> None:
    os.truncate(engine_copy, engine_copy.stat().st_size // 2)
    assert "copy.engine: is not the file that copy.engine.json describes" in fails("inference", "--engine", engine_copy)


def test_engine_without_record(fails: Run, engine_copy: Path) -> None:
    Path(f"{engine_copy}.json").unlink()
    assert "copy.engine: has no record copy.engine.json" in fails("inference", "--engine", engine_copy)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"engine_sha256": "0"}'])
def test_engine_with_broken_record(fails: Run, engine_copy: Path, text: str) -> None:
    Path(f"{engine_copy}.json").write_text(text)
    assert "copy.engine.json: is no" in fails("inference", "--engine", engine_copy).replace("is not valid", "is no")


@pytest.mark.parametrize(("changed", "message"), [
    ({"version": "1.0.0"}, "was built by ONNX Runtime 1.0.0 for "),
    ({"device": "Another CPU"}, " for Another CPU, but this machine has "),
    ({"backend": "other"}, "was built for the backend 'other'"),
])
def test_engine_of_another_version_or_machine(fails: Run, engine_copy: Path, changed: dict, message: str) -> None:
    change_record(engine_copy, **changed)
    assert message in fails("inference", "--engine", engine_copy)


def test_engine_of_another_tensorrt_version(fails: Run, engine_copy: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    change_record(engine_copy, backend="tensorrt", package="tensorrt_rtx", version="0.1")
    message = fails("inference", "--engine", engine_copy)
    assert f"was built by tensorrt_rtx 0.1, but {trt.__version__} is installed; build it again" in message


def test_engine_of_another_gpu(fails: Run, engine_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check comes before any CUDA call, so it can be tested without a GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    from rtmpose.engines.tensorrt import build
    from rtmpose.machine.gpu import Gpu
    monkeypatch.setattr(build, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "13.0", 0))
    change_record(engine_copy, backend="tensorrt", package="tensorrt_rtx", version=trt.__version__,
                  device="NVIDIA A10", compute_capability="8.6")
    message = fails("inference", "--engine", engine_copy)
    assert "was built for NVIDIA A10 (compute capability 8.6), but the GPU here is NVIDIA L4 (8.9); " in message


def test_engine_of_another_batch_size_or_input(fails: Run, engine_file: Path) -> None:
    assert "was built for batch 4, --batchsize says 32" in fails(
        "inference", "--engine", engine_file, "--batchsize", 32)
    assert "has the input input, --input_name says image" in fails(
        "inference", "--engine", engine_file, "--input_name", "image")


def test_engine_of_other_keypoints_than_coco(fails: Run, engine_copy: Path) -> None:
    change_record(engine_copy, num_keypoints=133, skeleton="coco_wholebody")
    assert "gives 133 keypoints of coco_wholebody (nose, left_eye" in fails("inference", "--engine", engine_copy)


@pytest.fixture(scope="module")
def animals_engine(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the 17 keypoints of AP-10K's animals, which the data set of its config says."""
    folder = tmp_path_factory.mktemp("animals")
    config = folder / "animals.py"
    config.write_text(small_config().replace("/coco.py", "/ap10k.py"))
    export(load_network(config, model_files["checkpoint"]), folder / "animals.onnx", {}, simplify_it=False)
    build_engine(plan_build(folder / "animals.onnx", folder / "animals.engine", 4, "fp32", "onnxruntime"))
    return folder / "animals.engine"


def test_engine_of_17_other_keypoints(fails: Run, animals_engine: Path, engine_file: Path, drawn: Path) -> None:
    message = "animals.engine: gives 17 keypoints of ap10k (L_Eye, R_Eye, Nose, ...), COCO val2017 has 17 (nose, "
    assert message in fails("inference", "--engine", animals_engine, "--datasets", drawn)
    assert message in fails("inference", "--engine", engine_file, "--datasets", drawn, "--reference", animals_engine)


def test_engine_of_unnamed_keypoints(fails: Run, engine_copy: Path, drawn: Path) -> None:
    change_record(engine_copy, keypoints=(), skeleton="unknown")
    assert "gives 17 keypoints of unknown (not named in its ONNX file)" in fails(
        "inference", "--engine", engine_copy, "--datasets", drawn)


@pytest.mark.parametrize(("arguments", "message"), [
    (("--duration", "nan"), "--duration: nan is not a number from 0 to 1e+06"),
    (("--duration", "inf"), "--duration: inf is not"),
    (("--duration", "-1"), "--duration: -1 is not"),
    (("--fps_target", "nan"), "--fps_target: nan is not above zero"),
    (("--fps_target", "-5"), "--fps_target: -5 is not above zero"),
    (("--acc_target", "77.3"), "--acc_target: 77.3 is not a number from 0 to 1"),
    (("--acc_target", "nan"), "--acc_target: nan is not a number"),
    (("--perf_only", "--acc_target", "0.7"), "--acc_target: has no effect on throughput, only on accuracy"),
    (("--perf_only", "--visualize", "2"), "--visualize: has no effect on throughput"),
    (("--perf_only", "--flip_test"), "--flip_test: has no effect on throughput"),
    (("--perf_only", "--reference", "a"), "--reference: has no effect on throughput"),
    (("--perf_only", "--limit", "3"), "--limit: has no effect on throughput"),
    (("--perf_only", "--detections", "a"), "--detections: has no effect on throughput"),
    (("--perf_only", "--target_qps", "3"), "--target_qps: has no effect on throughput, only on accuracy with"),
    (("--duration", "3"), "--duration: has no effect on accuracy, only on throughput; leave it out"),
    (("--iterations", "3"), "--iterations: has no effect on accuracy"),
    (("--min_duration", "3"), "--min_duration: has no effect on accuracy, only on throughput with --scenario"),
    (("--scenario", "offline", "--fps_target", "3"), "--fps_target: has no effect on accuracy with --scenario"),
    (("--scenario", "offline", "--perf_only", "--acc_target", "0.7"), "--acc_target: has no effect"),
    (("--scenario", "offline", "--output", "o", "--target_latency", "7"), "--target_latency: has no effect on offline"),
    (("--visualize", "2"), "--visualize: needs --output DIR"),
    (("--picture", "a.jpg"), "--picture: needs --output DIR"),
    (("--bbox", "1,2,3,4"), "--bbox: has no effect on accuracy, only on --picture; leave it out"),
    (("--perf_only", "--bbox", "1,2,3,4"), "--bbox: has no effect on throughput, only on --picture"),
    (("--picture", "a", "--perf_only"), "--perf_only: has no effect on --picture, only on accuracy, throughput, "),
    (("--picture", "a", "--datasets", "b"), "--datasets: has no effect on --picture"),
    (("--picture", "a", "--datasets"), "--datasets: has no effect on --picture"),
    (("--picture", "a", "--annotations", "b", "--images", "c"), "--annotations: has no effect on --picture"),
    (("--picture", "a", "--scenario", "offline"), "--scenario: has no effect on --picture"),
    (("--picture", "a", "--reference", "b"), "--reference: has no effect on --picture, only on accuracy; leave it out"),
    (("--picture", "a", "--flip_test"), "--flip_test: has no effect on --picture"),
    (("--picture", "a", "--fps_target", "9"), "--fps_target: has no effect on --picture"),
    (("--picture", "a", "--output", "/dev/null/a"), "/dev/null/a: can't be written"),
    *((("--picture", "a", f"--bbox={box}"), f"--bbox: '{box}' is not x,y,w,h: four numbers in pixels") for box in (
        "1,2,3", "1,2,3,4,5", "1,2,0,4", "1,2,3,-4", "nan,2,3,4", "1,2,inf,4", "1,2,3,x", "", "1 2 3 4")),
    (("--output", "/dev/null/a"), "/dev/null/a: can't be written (Not a directory), expected a folder"),
    (("--output", "/proc/a"), "/proc/a: can't be written"),
    (("--reference", "missing.engine"), "missing.engine: no such engine"),
])
def test_options_are_checked_before_the_engine_is_loaded(fails: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in fails("inference", "--engine", "/nowhere.engine", *arguments)


@pytest.mark.parametrize("options", [("--datasets", "nowhere", "--output", "/dev/null/a"), ("--datasets", "nowhere")])
def test_sweep_checks_its_folders_before_it_builds(fails: Run, options: tuple[str, ...]) -> None:
    message = fails("sweep", "--model", "nowhere.onnx", "--precisions", "fp32", "--batches", "1", "--output", "out",
                    *options)
    assert ("/dev/null/a: can't be written" if len(options) > 2 else "nowhere: no such folder") in message


def test_output_is_checked_before_a_script_begins(fails: Run) -> None:
    """Not even the missing inputs are looked at."""
    assert "nowhere/a.onnx: can't be written" in fails("export", "--weight", "a", "--cfg", "b",
                                                       "--output", "nowhere/a.onnx")
    assert "/dev/null/a: can't be written" in fails("make_dataset", "--output", "/dev/null/a")
    assert "nowhere/a.png: can't be written" in fails("make_dataset", "--output", "out", "--contact-sheet",
                                                      "nowhere/a.png")
    assert "/dev/null/a: can't be written" in fails("train", "--output", "/dev/null/a")
    assert "--ema: nan is not a number" in fails("train", "--output", "out", "--ema", "nan")
    assert "nowhere/a.json: can't be written" in fails("check_gpu", "--output", "nowhere/a.json")


# inference.py: data sets


@pytest.fixture
def inference_fails(fails: Run, engine_file: Path) -> Run:
    """Run inference.py for accuracy."""
    def run(folder: Path, *arguments: object) -> str:
        return fails("inference", "--engine", engine_file, "--datasets", folder, *arguments)
    return run


def test_dataset_unset_or_missing(fails: Run, inference_fails: Run, engine_file: Path, tmp_path: Path) -> None:
    assert "DATASETS_DIR is not set" in fails("inference", "--engine", engine_file)
    assert "DATASETS_DIR is not set" in fails("inference", "--engine", engine_file, "--datasets")
    assert "nowhere: no such folder" in inference_fails(Path("/nowhere"))
    assert f"{engine_file}: is a file, expected a folder with annotations/" in inference_fails(engine_file)
    (tmp_path / "empty").mkdir()
    assert "person_keypoints_val2017.json: no such file" in inference_fails(tmp_path / "empty")


def test_dataset_without_images(inference_fails: Run, dataset: Callable) -> None:
    folder, _ = dataset()
    shutil.rmtree(folder / "images")
    assert "has neither images/val2017/ nor val2017/" in inference_fails(folder)


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not valid JSON"),
    ('{"images": [', "is not valid JSON"),
    ("[]", "lacks the lists images, annotations and categories"),
    ('{"images": [], "annotations": []}', "lacks the lists"),
    ('{"images": [], "annotations": {}, "categories": []}', "lacks the lists"),
    ('{"images": [], "annotations": [], "categories": []}', "broken record (0 categories are named person"),
    ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}', "holds no person"),
    ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "broken record (images[0]: no 'file_name')"),
    ('{"images": [3], "annotations": [], "categories": []}', "broken record ("),
    ('{"images": [], "annotations": [], "categories": [null]}', "broken record ("),
    ('{"images": [{"id": [1], "file_name": "a", "width": 5, "height": 5}], "annotations": [], "categories": []}',
     "broken record (images[0]: id is [1], not a number below 2^63, or a string as the first one is)"),
    ('{"images": [{"id": 1, "file_name": "\\ud800", "width": 5, "height": 5}], "annotations": [], "categories": []}',
     "broken record ("),
    ("[" * 200000, "is not valid JSON"),
])
def test_annotations_broken(inference_fails: Run, dataset: Callable, text: str, message: str) -> None:
    folder, _ = dataset()
    (folder / "annotations/person_keypoints_val2017.json").write_text(text)
    assert f"person_keypoints_val2017.json: {message}" in inference_fails(folder)


@pytest.mark.parametrize(("changed", "message"), [
    ({"bbox": [float("nan"), 0, 5, 5]}, "annotations[0]: bbox is [nan, 0, 5, 5], not 4 finite numbers"),
    ({"bbox": [0, 5, 5]}, "annotations[0]: bbox is [0, 5, 5], not 4 finite numbers"),
    ({"bbox": "box!"}, "broken record ("),
    ({"keypoints": [1, 2, 3]}, "annotations[0]: keypoints is [1, 2, 3], not 51 finite numbers"),
    ({"keypoints": [float("inf")] * 51}, "not 51 finite numbers"),
    ({"area": float("nan")}, "annotations[0]: area is [nan]"),
    ({"area": 10**400}, "annotations[0]: area is [1000"),
    ({"iscrowd": None}, "annotations[0]: iscrowd is None, not 0 or 1"),
    ({"category_id": [1]}, "annotations[0]: category_id is [1], not in the file"),
    ({"image_id": 999}, "annotations[0]: image_id is 999, not in the file"),
])
def test_annotation_with_impossible_numbers(inference_fails: Run, dataset: Callable, changed: dict, message: str
                                            ) -> None:
    folder, content = dataset()
    content["annotations"][0] |= changed
    write_annotations(folder, content)
    assert message in inference_fails(folder)


def test_annotations_with_a_list_twice(inference_fails: Run, dataset: Callable) -> None:
    """The last one counts."""
    folder, content = dataset()
    text = json.dumps(content)
    (folder / "annotations/person_keypoints_val2017.json").write_text(f'{text[:-1]}, "images": []}}')
    assert "annotations[0]: image_id is 1, not in the file" in inference_fails(folder)


def test_annotations_without_persons(inference_fails: Run, dataset: Callable) -> None:
    folder, content = dataset()
    for annotation in content["annotations"]:
        del annotation["keypoints"]
        del annotation["num_keypoints"]
    write_annotations(folder, content)
    assert "holds no person with keypoints" in inference_fails(folder)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [5, 5, 10, 0], [-50, -50, 20, 20], [4000, 10, 20, 20]])
def test_annotated_boxes_that_are_empty_or_outside_are_left_out_and_reported(engine_file: Path, dataset: Callable,
                                                                             box: list) -> None:
    folder, content = dataset()
    content["annotations"][0]["bbox"] = box
    write_annotations(folder, content)
    done = run_script("inference.py", "--engine", engine_file, "--datasets", folder)
    assert done.returncode == 0, done.stderr
    assert "Left out: 1 persons whose box is empty or outside the image" in done.stdout


def first_image(folder: Path) -> Path:
    return folder / "images/val2017/000000000001.jpg"


def test_image_missing(inference_fails: Run, dataset: Callable) -> None:
    folder, _ = dataset()
    first_image(folder).unlink()
    assert "000000000001.jpg: can't be read (No such file or directory)" in inference_fails(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999])
def test_image_cut_off(inference_fails: Run, dataset: Callable, share: float) -> None:
    folder, _ = dataset()
    image = first_image(folder)
    os.truncate(image, int(image.stat().st_size * share))
    assert " or was cut off (" in inference_fails(folder)


def test_image_that_is_none(inference_fails: Run, dataset: Callable) -> None:
    folder, _ = dataset()
    first_image(folder).write_text("<html>404</html>")
    assert "000000000001.jpg: is no image or was cut off (16 bytes)" in inference_fails(folder)


def test_image_of_another_size(inference_fails: Run, dataset: Callable) -> None:
    folder, content = dataset()
    shutil.copy(folder / "images/val2017/000000000002.jpg", first_image(folder))
    width, height = content["images"][0]["width"], content["images"][0]["height"]
    assert f"pixels, the annotations say {width}x{height}" in inference_fails(folder)


@pytest.mark.parametrize(("changed", "message"), [
    ({"image_id": 999}, "detection 1: image_id is 999, not the id of an image"),
    ({"bbox": [1, 2, float("nan"), 4]}, "detection 1: bbox is [1, 2, nan, 4], not 4 finite numbers"),
    ({"bbox": [1, 2, 0, 4]}, "detection 1: bbox [1, 2, 0, 4] is empty"),
    ({"bbox": [9000, 2, 3, 4]}, "detection 1: bbox [9000, 2, 3, 4] lies outside its image"),
    ({"score": float("nan")}, "detection 1: score is [nan]"),
    ({"score": 1e300}, "detection 1: score is [1e+300], not 1 finite numbers below 1e+12"),
    ({"score": None}, "detection 1: "),
])
def test_detections_that_cannot_be(inference_fails: Run, drawn: Path, tmp_path: Path, changed: dict, message: str
                                   ) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    (tmp_path / "detections.json").write_text(json.dumps([good, {**good, **changed}]))
    assert f"detections.json: {message}" in inference_fails(drawn, "--detections", tmp_path / "detections.json")


@pytest.mark.parametrize(("text", "message"), [
    ("{}", "is no list"),
    ("[", "is not valid JSON"),
    ("[]", "holds no detection of category 1"),
    ("[{}]", "detection 0: no 'category_id'"),
])
def test_detections_broken(inference_fails: Run, drawn: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "detections.json").write_text(text)
    assert f"detections.json: {message}" in inference_fails(drawn, "--detections", tmp_path / "detections.json")


def test_detections_missing(inference_fails: Run, drawn: Path) -> None:
    assert "nowhere.json: can't be read" in inference_fails(drawn, "--detections", "/nowhere.json")


# While running


def limit_files() -> None:
    """Limit files to 100 kB, as on a disk that is almost full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize("step", ["export", "build_engine", "build_tensorrt"])
def test_disk_full_while_writing(model_files: dict[str, Path], tmp_path: Path, step: str) -> None:
    if step == "build_tensorrt":
        pytest.importorskip("tensorrt_rtx")
    command = {
        "export": ["export.py", "--weight", model_files["checkpoint"], "--cfg", model_files["config"],
                   "--output", "out.onnx"],
        "build_engine": ["build_engine.py", "--model_path", model_files["onnx"], "--input", "input:1,3,256,192",
                         "--backend", "onnxruntime", "--engine_path", "out.engine"],
        "build_tensorrt": ["build_engine.py", "--model_path", model_files["onnx"], "--input", "input:1,3,256,192",
                           "--backend", "tensorrt", "--engine_path", "out.engine"],
    }[step]
    done = subprocess.run([sys.executable, ROOT / command[0], *map(str, command[1:])], cwd=tmp_path,
                          preexec_fn=limit_files, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "out." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_a_run_at_once(engine_file: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, ROOT / "inference.py", "--engine", engine_file, "--perf_only", "--duration", "600",
               "--output", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(number)
        _, message = process.communicate(timeout=2)
    assert process.returncode == -number and "Traceback" not in message


def test_interrupt_leaves_nothing_half_written(model_files: dict[str, Path], tmp_path: Path) -> None:
    big = tmp_path / "rtmpose-m.pth"
    config = ROOT / "rtmpose-m_8xb256-420e_coco-256x192.py"
    save_random_checkpoint(config, big)
    command = [sys.executable, ROOT / "export.py", "--weight", big, "--cfg", config, "--output", "out.onnx"]
    folder = tmp_path / "out"
    folder.mkdir()
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        while not list(folder.iterdir()) and process.poll() is None:
            time.sleep(0.02)
        assert [path.suffix for path in folder.iterdir()] == [".tmp"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT
    assert [path.suffix for path in folder.iterdir()] == [".tmp"]  # until the same file is written again
