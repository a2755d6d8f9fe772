"""User errors: one clear line, exit code 2, nothing half-written."""

import dataclasses
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
from helpers import ROOT, run_script, small_config, write_annotations

from rtmpose.engines.build import build_engine, plan_build
from rtmpose.engines.record import read_record, write_record
from rtmpose.model.checkpoint import load_network, load_state_dict
from rtmpose.model.export import export

Fails = Callable[..., str]
EXPORT = ("export.py", "--weight", "{checkpoint}", "--cfg", "{config}", "--output", "out.onnx")
BUILD = ("build_engine.py", "--model_path", "{onnx}", "--batch", "2", "--backend", "onnxruntime", "--engine_path",
         "out.engine")
INFERENCE = ("inference.py", "--engine", "{engine}", "--datasets", "{folder}")
RTMPOSE_M = ROOT / "rtmpose-m_8xb256-420e_coco-256x192.py"


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Run a script that must fail, in a folder of its own, and return its one-line error."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.delenv("DATASETS_DIR", raising=False)

    def run(script: str, *arguments: object) -> str:
        done = run_script(script, *arguments, cwd=folder)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{Path(script).name}: error: ")
        assert list(folder.iterdir()) == []
        return line

    return run


@pytest.fixture
def fails_with(fails: Fails, model_files: dict[str, Path], engine_file: Path, drawn: Path) -> Fails:
    """Run the script that reads an input, with this one and good ones besides."""
    def run(kind: str, path: object, *options: object) -> str:
        files = {**model_files, "engine": engine_file, "folder": drawn, kind: path}
        command = {"checkpoint": EXPORT, "config": EXPORT, "onnx": BUILD}.get(kind, INFERENCE)
        return fails(*(word.format(**files) for word in command), *options)

    return run


@pytest.fixture
def copies(model_files: dict[str, Path], engine_file: Path, dataset: Callable, tmp_path: Path) -> dict[str, Path]:
    """Good inputs that a test may break; an image stands for the data set that it is in."""
    good = {**model_files, "engine": engine_file}
    for kind, path in good.items():
        shutil.copy(path, tmp_path / f"copy.{kind}")
    shutil.copy(f"{engine_file}.json", tmp_path / "copy.engine.json")
    folder, _ = dataset()
    return {kind: tmp_path / f"copy.{kind}" for kind in good} | {
        "folder": folder, "image": folder / "images/val2017/000000000001.jpg"}


# Files


@pytest.mark.parametrize(("kind", "message"), [
    ("checkpoint", "no such checkpoint"), ("config", "no such config"), ("onnx", "no such ONNX file"),
    ("engine", "no such engine"), ("folder", "no such folder"),
])
def test_missing(fails_with: Fails, kind: str, message: str) -> None:
    assert f"/nowhere.file: {message}" in fails_with(kind, "/nowhere.file")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize(("kind", "message"), [
    ("checkpoint", "copy.checkpoint: is no PyTorch checkpoint or was cut off"),
    ("onnx", "copy.onnx: is no valid ONNX file or was cut off"),
    ("engine", "copy.engine: is not the file that copy.engine.json describes"),
    ("image", "000000000001.jpg: is "),
])
def test_cut_off(fails_with: Fails, copies: dict[str, Path], kind: str, message: str, share: float) -> None:
    os.truncate(copies[kind], int(copies[kind].stat().st_size * share))
    found = fails_with("folder", copies["folder"]) if kind == "image" else fails_with(kind, copies[kind])
    assert message in found and (kind == "engine" or " cut off" in found)


@pytest.mark.parametrize(("script", "options", "path"), [
    ("export.py", ("--weight", "a", "--cfg", "b", "--output", "nowhere/a.onnx"), "nowhere/a.onnx"),
    ("inference.py", ("--engine", "a", "--output", "/dev/null/a"), "/dev/null/a"),
    ("inference.py", ("--engine", "a", "--output", "/proc/a"), "/proc/a"),
    ("inference.py", ("--engine", "a", "--picture", "b", "--output", "/dev/null/a"), "/dev/null/a"),
    ("scripts/sweep.py", ("--model", "a", "--datasets", "b", "--precisions", "fp32", "--batches", "1",
                          "--output", "/dev/null/a"), "/dev/null/a"),
    ("demo/make_dataset.py", ("--output", "/dev/null/a"), "/dev/null/a"),
    ("demo/make_dataset.py", ("--output", "out", "--contact-sheet", "nowhere/a.png"), "nowhere/a.png"),
    ("demo/train.py", ("--output", "/dev/null/a"), "/dev/null/a"),
    ("scripts/check_gpu.py", ("--output", "nowhere/a.json"), "nowhere/a.json"),
])
def test_output_is_checked_before_a_script_begins(fails: Fails, script: str, options: tuple, path: str) -> None:
    """Not even the missing inputs are looked at."""
    assert f"{path}: can't be written (" in fails(script, *options)


@pytest.mark.parametrize(("kind", "command"), [("onnx", BUILD), ("checkpoint", EXPORT)])
def test_output_that_is_an_input(fails: Fails, copies: dict[str, Path], kind: str, command: tuple) -> None:
    before = copies[kind].read_bytes()
    message = fails(*(word.format(**copies) for word in command[:-1]), copies[kind])
    assert f"copy.{kind}: is an input as well, and would be lost" in message
    assert copies[kind].read_bytes() == before


# export.py


@pytest.mark.filterwarnings("error:invalid value")
@pytest.mark.parametrize(("change", "message"), [
    (lambda state: {name: tensor * 0 for name, tensor in state.items()},
     "check the checkpoint for NaN and for weights that are all zero"),
    (lambda state: {**state, "head.cls_x.weight": state["head.cls_x.weight"] * float("nan")},
     "copy.checkpoint: holds NaN or infinity in 1 keys: head.cls_x.weight"),
    (lambda state: {("head.extra" if name == "head.cls_x.weight" else name): tensor for name, tensor in state.items()},
     "1 keys missing: head.cls_x.weight; 1 keys unexpected: head.extra"),
    (lambda state: {"a": 1}, "copy.checkpoint: holds no state_dict"),
])
def test_weights(fails_with: Fails, copies: dict[str, Path], change: Callable[[dict], dict], message: str) -> None:
    torch.save({"state_dict": change(load_state_dict(copies["checkpoint"]))}, copies["checkpoint"])
    assert message in fails_with("checkpoint", copies["checkpoint"])


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def test_checkpoint_that_would_run_code_is_refused_and_does_not_run(fails_with: Fails, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"state_dict": {}, "meta": _Malicious(f"touch {trace}")}, tmp_path / "evil.pth")
    message = fails_with("checkpoint", tmp_path / "evil.pth")
    assert "evil.pth: refused, it holds objects that could run code (posix.system)" in message
    assert not trace.exists()


def test_metadata_of_an_official_checkpoint_is_allowed(copies: dict[str, Path]) -> None:
    """The published files carry mmengine's log buffers and NumPy scalars and arrays beside the weights."""
    from mmengine.logging.history_buffer import HistoryBuffer
    losses = HistoryBuffer([1.5, 2.0], [1, 1])
    losses.update(0.5)
    state = load_state_dict(copies["checkpoint"])
    torch.save({"state_dict": state, "message_hub": {"log_scalars": {"train/loss": losses}},
                "meta": {"best": np.float64(0.75), "flags": np.bool_(True), "sigmas": np.arange(3, dtype=np.float32),
                         "epoch": np.int64(420), "name": np.str_("coco")}}, copies["checkpoint"])
    assert load_state_dict(copies["checkpoint"]).keys() == state.keys()


@pytest.mark.parametrize(("text", "message"), [
    ("model = dict(", "config.py: can't be read as an mmengine config"),
    ("_base_ = ['nowhere.py']", "config.py: can't be read as an mmengine config"),
    ("model = dict(type='TopdownPoseEstimator', head=dict(type='HeatmapHead'))",
     "config.py: TopdownPoseEstimator, head HeatmapHead, is not supported; RTMPose's RTMCCHead is"),
    ("x = 1", "config.py: no model, head none, is not supported"),
    (small_config().replace("arch='P5'", "arch='P7'"), "config.py: mmpose can't build this model"),
    (small_config().replace("123.675", "0"), "config.py: data_preprocessor.mean is [0, 116.28, 103.53]"),
    (small_config(widen=0.5), "keys of another shape or type: backbone.stem.0.conv.weight, "),
    (RTMPOSE_M.read_text(), "keys missing: backbone."),
])
def test_config(fails_with: Fails, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.py").write_text(text)
    assert message in fails_with("config", tmp_path / "config.py")


# build_engine.py


def save_graph(path: Path, inputs: dict[str, list], outputs: dict[str, list]) -> Path:
    """A valid graph that leaves its inputs aside and gives zeros."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]) for name in outputs]
    nodes += [helper.make_node("Identity", [name], [f"{name}_unused"]) for name in inputs]
    shapes = [helper.make_tensor(f"{name}_shape", onnx.TensorProto.INT64, [len(shape)], shape)
              for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
                              [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()], shapes)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


CROPS = {"input": [2, 3, 256, 192]}
SIMCC = {"simcc_x": [2, 17, 384], "simcc_y": [2, 17, 512]}


@pytest.mark.parametrize(("inputs", "outputs", "shape", "message"), [
    ({"image": [2, 3, 256, 192]}, SIMCC, "input:2,3,256,192", "the inputs image[2,3,256,192], expected input alone"),
    ({**CROPS, "other": [1]}, SIMCC, "input:2,3,256,192", "has the inputs input[2,3,256,192], other[1]"),
    ({"input": [2, 256]}, SIMCC, "input:2,3,256,192", "has the input input[2,256], --input says 2,3,256,192"),
    (CROPS, SIMCC, "input:4,3,256,192", "has the input input[2,3,256,192], --input says 4,3,256,192"),
    (CROPS, SIMCC, "input:2,3,192,256", "--input says 2,3,192,256; they must agree"),
    (CROPS, SIMCC, "image:2,3,256,192", "expected image alone; check --input"),
    (CROPS, {"heatmaps": [2, 17, 64]}, "input:2,3,256,192", "has the outputs heatmaps[2,17,64]"),
    (CROPS, {**SIMCC, "simcc_y": [2, 16, 512]}, "input:2,3,256,192", "has the outputs simcc_x[2,17,384], simcc_y"),
    (CROPS, {**SIMCC, "simcc_y": [2, 17, 384]}, "input:2,3,256,192", "has the outputs simcc_x[2,17,384], simcc_y"),
])
def test_graph(fails: Fails, tmp_path: Path, inputs: dict, outputs: dict, shape: str, message: str) -> None:
    graph = save_graph(tmp_path / "other.onnx", inputs, outputs)
    found = fails("build_engine.py", "--model_path", graph, "--input", shape, "--backend", "onnxruntime",
                  "--engine_path", "out.engine")
    assert "other.onnx: has the " in found and message in found


@pytest.mark.parametrize(("options", "message"), [
    *((("--input", shape), f"argument --input: {shape!r} is not NAME:N,3,H,W") for shape in (
        "input", "input:", "32,3,256,192", "input:32,3,256", "input:a,3,256,192", "input:0,3,256,192",
        "input:32,1,256,192")),
    ((), "--batch N or --input NAME:N,3,H,W is needed"),
    (("--batch", "0"), "argument --batch: 0 is not above zero"),
    (("--batch", "4", "--input", "input:2,3,256,192"), "--batch 4: --input says 2,3,256,192; they must agree"),
    (("--batch", "4", "--precision", "int8"), "--precision int8 and --calibration DIR belong together"),
])
def test_options_of_a_build(fails: Fails, model_files: dict[str, Path], options: tuple, message: str) -> None:
    assert message in fails("build_engine.py", "--model_path", model_files["onnx"], "--engine_path", "out.engine",
                            *options)


# inference.py: engines


def test_engine_without_record(fails_with: Fails, copies: dict[str, Path]) -> None:
    Path(f"{copies['engine']}.json").unlink()
    assert "copy.engine: has no record copy.engine.json" in fails_with("engine", copies["engine"])


@pytest.mark.parametrize("text", ["[]", "{", '{"engine_sha256": "0"}'])
def test_engine_with_broken_record(fails_with: Fails, copies: dict[str, Path], text: str) -> None:
    Path(f"{copies['engine']}.json").write_text(text)
    assert "copy.engine.json: is no" in fails_with("engine", copies["engine"]).replace("is not valid", "is no")


@pytest.mark.parametrize(("changed", "message"), [
    ({"version": "1.0.0"}, "was built by onnxruntime 1.0.0, but "),
    ({"device": "Another CPU"}, " for Another CPU, but this machine has "),
    ({"backend": "other"}, "was built for the backend 'other'"),
    ({"num_keypoints": 133, "skeleton": "coco_wholebody"}, "gives 133 keypoints of coco_wholebody (nose, left_eye"),
    ({"keypoints": (), "skeleton": "unknown"}, "gives 17 keypoints of unknown (not named in its ONNX file)"),
    ({"backend": "tensorrt", "package": "tensorrt_rtx", "version": "0.1"}, "was built by tensorrt_rtx 0.1, but "),
    ({"backend": "tensorrt", "package": "tensorrt_rtx", "device": "NVIDIA A10", "compute_capability": "8.6"},
     "for NVIDIA A10 (compute capability 8.6), but this machine has NVIDIA L4 (compute capability 8.9); "),
])
def test_engine_of_another_machine_or_network(fails_with: Fails, copies: dict[str, Path],
                                              monkeypatch: pytest.MonkeyPatch, changed: dict, message: str) -> None:
    """TensorRT's checks come before any CUDA call, so they need no GPU."""
    if "package" in changed:
        trt = pytest.importorskip("tensorrt_rtx")
        from rtmpose.machine.gpu import Gpu
        monkeypatch.setattr("rtmpose.engines.find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "13.0", 0, ""))
        changed = {"version": trt.__version__, **changed}
    write_record(copies["engine"], dataclasses.replace(read_record(copies["engine"]), **changed))
    assert message in fails_with("engine", copies["engine"])


def test_engine_of_17_other_keypoints(fails_with: Fails, model_files: dict[str, Path], engine_file: Path,
                                      tmp_path: Path) -> None:
    """AP-10K's animals, which the data set of the config says."""
    config, onnx_file, animals = (tmp_path / f"animals.{kind}" for kind in ("py", "onnx", "engine"))
    config.write_text(small_config().replace("/coco.py", "/ap10k.py"))
    export(load_network(config, model_files["checkpoint"]), onnx_file, {}, simplify_it=False)
    build_engine(plan_build(onnx_file, animals, 4, "fp32", "onnxruntime"))
    message = "animals.engine: gives 17 keypoints of ap10k (L_Eye, R_Eye, Nose, ...), COCO val2017 has 17 (nose, "
    assert message in fails_with("engine", animals)
    assert message in fails_with("engine", engine_file, "--reference", animals)


@pytest.mark.parametrize(("options", "message"), [
    (("--batchsize", 32), "was built for batch 4, --batchsize says 32"),
    (("--input_name", "image"), "has the input input, --input_name says image"),
])
def test_options_that_contradict_the_engine(fails_with: Fails, engine_file: Path, options: tuple, message: str) -> None:
    assert message in fails_with("engine", engine_file, *options)


# inference.py: options


@pytest.mark.parametrize(("options", "message"), [
    ("--duration nan", "--duration: nan is not a number from 0 to 1e+06"),
    ("--duration -1", "--duration: -1 is not"),
    ("--fps_target nan", "--fps_target: nan is not above zero"),
    ("--acc_target 77.3", "--acc_target: 77.3 is not a number from 0 to 1"),
    ("--perf_only 2", "--perf_only: '2' is neither True nor False"),
    *((f"--picture a --bbox={box}", f"--bbox: '{box}' is not x,y,w,h: four numbers in pixels") for box in (
        "1,2,3", "1,2,3,4,5", "1,2,0,4", "1,2,3,-4", "nan,2,3,4", "1,2,inf,4", "1,2,3,x", "")),
    ("--perf_only --acc_target 0.7", "--acc_target: has no effect on throughput, only on accuracy, accuracy with "),
    ("--bbox 1,2,3,4", "--bbox: has no effect on accuracy, only on --picture; leave it out"),
    *((f"{mode} {option}".strip(), f"{option.split()[0]}: has no effect on {name}, only on ")
      for mode, name, options in (
        ("", "accuracy", "--duration 3|--iterations 3|--warmup 3|--repeats 2|--min_duration 3|--target_qps 3"),
        ("--perf_only", "throughput", "--visualize 2|--flip_test|--reference a|--limit 3|--detections a|"
                                      "--target_qps 3|--bbox 1,2,3,4"),
        ("--scenario offline", "accuracy with --scenario", "--fps_target 3|--min_duration 3|--flip_test|--reference a"),
        ("--scenario offline --perf_only", "throughput with --scenario", "--acc_target 0.7|--duration 3"),
        ("--picture a", "--picture", "--perf_only|--datasets|--annotations b --images c|--scenario offline|"
                                     "--reference b|--flip_test|--fps_target 9"),
      ) for option in options.split("|")),
    ("--scenario offline --output o --target_latency 7", "--target_latency: has no effect on offline"),
    ("--scenario singlestream --output o --target_qps 3", "--target_qps: singlestream has no rate"),
    *((options, f"{options.split()[0]}: needs --output DIR") for options in (
        "--visualize 2", "--picture a.jpg", "--scenario offline")),
    *((options, "--annotations FILE and --images DIR: belong together") for options in (
        "--annotations a", "--images a", "--annotations a --images b --datasets c")),
    ("--reference missing.engine", "missing.engine: no such engine"),
])
def test_options_are_checked_before_the_engine_is_loaded(fails: Fails, options: str, message: str) -> None:
    assert message in fails("inference.py", "--engine", "/nowhere.engine", *options.split(" "))


def test_options_are_not_abbreviated(fails: Fails) -> None:
    assert "the following arguments are required: --output" in fails("demo/make_dataset.py", "--out", "nowhere")


def test_repeats_end_with_one_line_after_an_error(fails: Fails, engine_file: Path) -> None:
    """The line of the process that measures, once."""
    message = fails("inference.py", "--engine", engine_file, "--perf_only", "--repeats", 2, "--batchsize", 3)
    assert "was built for batch 4, --batchsize says 3" in message and message.count("error: ") == 1


# inference.py: data sets


def test_folder(fails: Fails, fails_with: Fails, engine_file: Path, copies: dict[str, Path]) -> None:
    assert "DATASETS_DIR is not set" in fails("inference.py", "--engine", engine_file)
    assert "DATASETS_DIR is not set" in fails("inference.py", "--engine", engine_file, "--datasets")
    assert f"{engine_file}: is a file, expected a folder with annotations/" in fails_with("folder", engine_file)
    copies["image"].unlink()
    assert "000000000001.jpg: can't be read (No such file or directory)" in fails_with("folder", copies["folder"])
    shutil.rmtree(copies["folder"] / "images")
    assert "has neither images/val2017/ nor val2017/" in fails_with("folder", copies["folder"])
    shutil.rmtree(copies["folder"] / "annotations")
    assert "person_keypoints_val2017.json: no such file" in fails_with("folder", copies["folder"])


def first(kind: str, **changed: object) -> Callable[[dict], dict]:
    """A change of the first record of a kind."""
    return lambda content: {**content, kind: [{**content[kind][0], **changed}, *content[kind][1:]]}


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: [], "lacks the lists images, annotations and categories"),
    (lambda content: {**content, "annotations": {}}, "lacks the lists"),
    (lambda content: {**content, "annotations": []}, "holds no person with keypoints"),
    (lambda content: {**content, "images": [3]}, "broken record (images[0]: it is 3, not an object)"),
    (first("images", id=[1]), "images[0]: id is [1], not a number below 2^63, or a string as the first one is)"),
    (first("images", file_name="\ud800"), "broken record ("),
    (first("annotations", bbox=[float("nan"), 0, 5, 5]), "annotations[0]: bbox is [nan, 0, 5, 5], not 4 finite num"),
    (first("annotations", bbox=[0, 5, 5]), "annotations[0]: bbox is [0, 5, 5], not 4 finite numbers"),
    (first("annotations", bbox="box!"), "broken record ("),
    (first("annotations", keypoints=[1, 2, 3]), "annotations[0]: keypoints is [1, 2, 3], not 51 finite numbers"),
    (first("annotations", keypoints=[float("inf")] * 51), "not 51 finite numbers"),
    (first("annotations", area=float("nan")), "annotations[0]: area is [nan]"),
    (first("annotations", area=10**400), "annotations[0]: area is [1000"),
    (first("annotations", iscrowd=None), "annotations[0]: iscrowd is None, not 0 or 1"),
    (first("annotations", image_id=999), "annotations[0]: image_id is 999, not in the file"),
])
def test_annotations(fails_with: Fails, dataset: Callable, change: Callable[[dict], object], message: str) -> None:
    folder, content = dataset()
    write_annotations(folder, change(content))
    found = fails_with("folder", folder)
    assert "person_keypoints_val2017.json: " in found and message in found


def test_annotated_boxes_that_are_empty_or_outside_are_left_out_and_reported(engine_file: Path, dataset: Callable
                                                                             ) -> None:
    folder, content = dataset()
    boxes = [[0, 0, 0, 0], [5, 5, 10, 0], [-50, -50, 20, 20], [4000, 10, 20, 20]]
    for annotation, box in zip(content["annotations"], boxes, strict=False):
        annotation["bbox"] = box
    write_annotations(folder, content)
    done = run_script("inference.py", "--engine", engine_file, "--datasets", folder)
    assert done.returncode == 0, done.stderr
    assert "Left out: 4 persons whose box is empty or outside the image" in done.stdout


def test_image_of_another_kind_or_size(fails_with: Fails, dataset: Callable) -> None:
    folder, content = dataset()
    image = folder / "images/val2017/000000000001.jpg"
    shutil.copy(image.with_name("000000000002.jpg"), image)
    width, height = content["images"][0]["width"], content["images"][0]["height"]
    assert f"pixels, the annotations say {width}x{height}" in fails_with("folder", folder)
    image.write_text("<html>404</html>")
    assert "000000000001.jpg: is no image or was cut off (16 bytes)" in fails_with("folder", folder)


@pytest.mark.parametrize(("text", "message"), [
    (None, "can't be read"), ("{}", "is no list"), ("[", "is not valid JSON"),
    ("[]", "holds no detection of category 1"), ("[{}]", "detection 0: it is {}, not an "),
    ('[{"image_id": 999, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}]', "detection 0: image_id is 999, "),
])
def test_detections(fails_with: Fails, drawn: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "detections.json").write_text(text)
    assert f"detections.json: {message}" in fails_with("folder", drawn, "--detections", tmp_path / "detections.json")


def test_sweep_reads_its_data_set_before_it_builds(fails: Fails) -> None:
    assert "nowhere: no such folder" in fails("scripts/sweep.py", "--model", "a", "--datasets", "nowhere",
                                              "--precisions", "fp32", "--batches", "1", "--output", "out")


# In processes of their own


@pytest.mark.parametrize("script", ["export.py", "build_engine.py", "inference.py"])
def test_outside_the_environment(script: str) -> None:
    """Without site-packages, as with a system's Python."""
    done = subprocess.run([sys.executable, "-S", ROOT / script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "numpy" in done.stderr and "scripts/setup.sh" in done.stderr


@pytest.mark.parametrize(("command", "backend"), [(EXPORT, ""), (BUILD, "onnxruntime"), (BUILD, "tensorrt")])
def test_disk_full_while_writing(model_files: dict[str, Path], tmp_path: Path, command: tuple, backend: str) -> None:
    """Files are limited to 100 kB, as on a disk that is almost full."""
    if backend == "tensorrt":
        pytest.importorskip("tensorrt_rtx")
    script, *options = (word.format(**model_files) for word in command)
    done = subprocess.run([sys.executable, ROOT / script, *options, *(["--backend", backend] if backend else [])],
                          cwd=tmp_path, capture_output=True, text=True, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "out." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_interrupt_ends_a_run_at_once(engine_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "inference.py", "--engine", engine_file, "--perf_only", "--duration", "600",
               "--output", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=2)
    assert process.returncode == -signal.SIGINT and "Traceback" not in message


def test_interrupt_leaves_nothing_half_written(model_files: dict[str, Path], tmp_path: Path) -> None:
    script, *options = (word.format(**model_files) for word in EXPORT)
    with subprocess.Popen([sys.executable, ROOT / script, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True
                          ) as process:
        while not list(tmp_path.iterdir()) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
