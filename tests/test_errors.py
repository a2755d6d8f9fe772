"""User errors: one clear line, exit code 2, nothing half-written."""

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
import pytest
import torch
from helpers import ROOT, ran, refused, small_config, write_annotations

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.engines.record import read_record, write_record
from rtmpose.model.checkpoint import load_state_dict

Fails = Callable[..., str]
EXPORT = ("export.py", "--weight", "{checkpoint}", "--cfg", "{config}", "--output", "out.onnx")
BUILD = ("build_engine.py", "--model_path", "{onnx}", "--batch", "2", "--backend", "onnxruntime", "--engine_path",
         "out.engine")
INFERENCE = ("inference.py", "--engine", "{engine}", "--datasets", "{folder}")


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Run a script that must fail, in a folder of its own, and return its one-line error."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.delenv("DATASETS_DIR", raising=False)

    def run(script: str, *arguments: object) -> str:
        line = refused(script, *arguments, cwd=folder)
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
def test_weights_that_are_all_zero(fails_with: Fails, copies: dict[str, Path]) -> None:
    state = {name: tensor * 0 for name, tensor in load_state_dict(copies["checkpoint"]).items()}
    torch.save({"state_dict": state}, copies["checkpoint"])
    message = fails_with("checkpoint", copies["checkpoint"])
    assert "check the checkpoint for NaN and for weights that are all zero" in message


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


def test_config_that_mmpose_cannot_build(fails_with: Fails, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(small_config().replace("arch='P5'", "arch='P7'"))
    assert "config.py: mmpose can't build this model" in fails_with("config", tmp_path / "config.py")


# build_engine.py


@pytest.mark.parametrize(("options", "message"), [
    *((("--input", shape), f"argument --input: {shape!r} is not NAME:N,3,H,W") for shape in (
        "input", "input:", "32,3,256,192", "input:32,3,256", "input:a,3,256,192", "input:0,3,256,192",
        "input:32,1,256,192")),
    ((), "--batch N or --input NAME:N,3,H,W is needed"),
    (("--batch", "0"), "argument --batch: 0 is not above zero"),
    (("--batch", "4", "--input", "input:2,3,256,192"), "--batch 4: --input says 2,3,256,192; they must agree"),
    (("--batch", "4", "--device", "cpu"), "--device cpu: needs --backend NAME, because each runtime has names of its"),
    (("--batch", "4", "--precision", "int8"), "--precision int8 and --calibration DIR (or "),
])
def test_options_of_a_build(fails: Fails, model_files: dict[str, Path], options: tuple, message: str) -> None:
    assert message in fails("build_engine.py", "--model_path", model_files["onnx"], "--engine_path", "out.engine",
                            *options)


# inference.py: engines


@pytest.mark.parametrize(("changed", "message"), [
    ({"version": "1.0.0"}, "was built by onnxruntime 1.0.0, but "),
    ({"device_name": "Another CPU"}, " for Another CPU, but this machine has "),
    ({"device": "gpu.1"}, "was built for the device gpu.1, but onnxruntime "),
    ({"backend": "other"}, "was built for the backend 'other'"),
    ({"num_keypoints": 133, "skeleton": "coco_wholebody"}, "gives 133 keypoints of coco_wholebody (nose, left_eye"),
    ({"keypoints": ("L_Eye", *COCO_KEYPOINTS[1:]), "skeleton": "ap10k"},
     "copy.engine: gives 17 keypoints of ap10k (L_Eye, left_eye, right_eye, ...), COCO val2017 has 17 (nose, "),
    ({"keypoints": (), "skeleton": "unknown"}, "gives 17 keypoints of unknown (not named in its ONNX file)"),
    ({"backend": "tensorrt", "package": "tensorrt_rtx", "version": "0.1"}, "was built by tensorrt_rtx 0.1, but "),
    ({"backend": "tensorrt", "package": "tensorrt_rtx", "device_name": "NVIDIA A10", "compute_capability": "8.6"},
     "for NVIDIA A10 (compute capability 8.6), but this machine has NVIDIA L4 (compute capability 8.9); "),
])
def test_engine_of_another_machine_or_network(fails_with: Fails, copies: dict[str, Path], engine_file: Path,
                                              monkeypatch: pytest.MonkeyPatch, changed: dict, message: str) -> None:
    """TensorRT's checks come before any CUDA call, so they need no GPU."""
    if "package" in changed:
        trt = pytest.importorskip("tensorrt_rtx")
        from rtmpose.machine.gpu import Gpu
        monkeypatch.setattr(importlib.import_module("rtmpose.engines.tensorrt.build"), "find_gpu",
                            lambda: Gpu("NVIDIA L4", "8.9", "13.0", 0, ""))
        changed = {"version": trt.__version__, "device": "cuda", **changed}
    write_record(copies["engine"], dataclasses.replace(read_record(copies["engine"]), **changed))
    assert message in fails_with("engine", copies["engine"])
    assert message in fails_with("engine", engine_file, "--reference", copies["engine"])


@pytest.mark.parametrize(("options", "message"), [
    (("--batchsize", 32), "was built for batch 4, --batchsize says 32"),
    (("--input_name", "image"), "has the input input, --input_name says image"),
    (("--perf_only", "--streams", 2), "--streams 2: only TensorRT has several streams here; leave it out"),
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
        ("", "accuracy", "--duration 3|--iterations 3|--warmup 3|--repeats 2|--streams 2|--min_duration 3|"
                         "--target_qps 3"),
        ("--perf_only", "throughput", "--visualize 2|--flip_test|--reference a|--limit 3|--detections a|"
                                      "--target_qps 3|--bbox 1,2,3,4"),
        ("--scenario offline", "accuracy with --scenario", "--fps_target 3|--min_duration 3|--flip_test|--reference a|"
                                                           "--visualize 1"),
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


def test_annotations_that_are_no_object(fails_with: Fails, dataset: Callable) -> None:
    folder, _ = dataset()
    write_annotations(folder, [])
    assert "person_keypoints_val2017.json: lacks the lists images, annotations" in fails_with("folder", folder)


def test_what_is_left_out_is_reported(engine_file: Path, dataset: Callable, tmp_path: Path) -> None:
    folder, content = dataset()
    boxes = [[0, 0, 0, 0], [5, 5, 10, 0], [-50, -50, 20, 20], [4000, 10, 20, 20]]
    for annotation, box in zip(content["annotations"], boxes, strict=False):
        annotation["bbox"] = box
    write_annotations(folder, content)
    shown = ran("inference.py", "--engine", engine_file, "--datasets", folder, "--output", tmp_path / "output")
    note = "persons left out, whose box is empty or outside the image"
    assert f"Note: 4 {note}\n" in shown
    assert json.loads((tmp_path / "output/summary.json").read_text())["notes"] == {note: 4}


@pytest.mark.parametrize(("text", "message"), [
    (None, "can't be read"), ("{}", "is no list"), ("[", "is not valid JSON"),
    ("[]", "holds no detection of category 1"), ("[{}]", "detection 0: it is {}, not an "),
])
def test_detections(fails_with: Fails, drawn: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "detections.json").write_text(text)
    assert f"detections.json: {message}" in fails_with("folder", drawn, "--detections", tmp_path / "detections.json")


def test_sweep_reads_its_data_set_before_it_builds(fails: Fails) -> None:
    assert "nowhere: no such folder" in fails("scripts/sweep.py", "--model", "a", "--datasets", "nowhere",
                                              "--precisions", "fp32", "--batches", "1", "--output", "out")


# In processes of their own


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
