"""inference.py as a user runs it: targets, throughput, limits, memory."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, run_script, write_annotations

from rtmpose import timing
from rtmpose.evaluate.coco_eval import METRICS
from rtmpose.report.summary import speed

TIMED = ("--perf_only", "--warmup", 1, "--iterations", 3, "--duration", 0)


@pytest.fixture(autouse=True)
def no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set by default."""
    monkeypatch.delenv("DATASETS_DIR", raising=False)


def infer(engine: Path, *options: object, code: int = 0) -> str:
    """What inference.py prints; it ends with this exit code."""
    done = run_script("inference.py", "--engine", engine, *options)
    assert done.returncode == code, done.stderr
    return done.stdout


def read(folder: Path, name: str = "summary.json") -> Any:
    """A JSON file of the output."""
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(("options", "code", "message"), [
    (("--acc_target", 0), 0, "--acc_target 0: reached"),
    (("--acc_target", 0.999), 3, "--acc_target 0.999: missed"),
    (("--fps_target", 0.001), 0, "--fps_target 0.001: reached"),
    (("--fps_target", 1e6), 4, "--fps_target 1e+06: missed"),
    ((*TIMED, "--fps_target", 1e6), 4, "--fps_target 1e+06: missed"),
    (("--perf_only", "False", "--acc_target", 0), 0, "Average Precision"),
])
def test_targets_decide_the_exit_code(engine_file: Path, drawn: Path, tmp_path: Path, options: tuple, code: int,
                                      message: str) -> None:
    assert message in infer(engine_file, *options, "--datasets", drawn, "--output", tmp_path, code=code)
    assert [line.split(" with ")[0] for line in read(tmp_path)["missed_targets"]] == (
        [message.removesuffix(": missed")] if code else [])


def test_accuracy(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    """Ten lines, the conditions and a row; the first images only."""
    shown = infer(engine_file, "--datasets", drawn, "--batchsize", 4, "--input_name", "input", "--limit", 2,
                  "--output", tmp_path)
    lines, summary = shown.splitlines(), read(tmp_path)
    assert sum("IoU=" in line for line in lines) == 10
    assert lines[-5].startswith("rtmpose-t on ") and lines[-1].startswith("| 4         | fp32 ")
    assert {result["image_id"] for result in read(tmp_path, "keypoints.json")} == {1, 2} and summary["images"] == 2
    cpu = summary["conditions"]["cpu"]
    assert cpu["own_seconds"] > 0 and summary["cores_per_1000_fps"] == pytest.approx(
        cpu["own_seconds"] / summary["persons"] * 1e3)
    assert f"Conditions: {summary['conditions']['verdict']}" in shown


def test_throughput_needs_no_data_set(engine_file: Path, tmp_path: Path) -> None:
    shown = infer(engine_file, *TIMED, "--output", tmp_path)
    assert all(part in shown for part in ("* Mean inference time: ", " ms, Mean fps: ", "median", "p99", "spread",
                                          "input: random pixels"))
    summary = read(tmp_path)
    assert summary["fps"] == pytest.approx(summary["batch"] / summary["latency_ms"]["mean"] * 1e3)
    assert summary["iterations"] == 3 and "ONNX Runtime on cpu" in summary["fps_of"]
    assert not set(METRICS) & set(summary)
    conditions = summary["conditions"]
    assert conditions["cpu"]["seconds"] >= 1 or conditions["verdict"] == "unknown" and "too short" in shown
    assert shown.splitlines()[-1].endswith(f"| {conditions['verdict']:10} |")


def test_repeats_are_fresh_processes(engine_file: Path, tmp_path: Path) -> None:
    shown = infer(engine_file, *TIMED, "--repeats", 3, "--output", tmp_path, "--fps_target", 1e6, code=4)
    summary = read(tmp_path)
    values, (low, high) = summary["repeats"]["values"], summary["repeats"]["interval"]
    assert len(set(values)) == len(summary["repeats"]["conditions"]) == 3
    assert summary["fps"] == sorted(values)[1] == pytest.approx(summary["batch"] / summary["latency_ms"]["mean"] * 1e3)
    assert low < np.mean(values) < high
    assert summary["command"].endswith(f"--repeats 3 --output {tmp_path} --fps_target 1000000.0")
    assert [line.split(":")[0] for line in shown.splitlines() if line.startswith("process ")] == [
        "process 1/3", "process 2/3", "process 3/3"]
    assert f"| {speed(summary)} |" in shown


# Files


def test_annotations_and_images_of_any_name(engine_file: Path, dataset: Callable, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """In every mode, with the result of a set that is laid out like COCO, whatever DATASETS_DIR says."""
    folder, _ = dataset()
    usual = tmp_path / "usual"
    shutil.copytree(folder / "annotations", usual / "annotations")
    shutil.copytree(folder / "images/val2017", usual / "val2017")
    annotations, images = folder / "mine.json", folder / "photos"
    (folder / "annotations/person_keypoints_val2017.json").rename(annotations)
    (folder / "images/val2017").rename(images)
    monkeypatch.setenv("DATASETS_DIR", "/nowhere")
    renamed = ("--annotations", annotations, "--images", images)
    infer(engine_file, *renamed, "--output", tmp_path / "a")
    infer(engine_file, "--datasets", usual, "--output", tmp_path / "b")
    assert (tmp_path / "a/keypoints.json").read_bytes() == (tmp_path / "b/keypoints.json").read_bytes()
    assert str(annotations) in read(tmp_path / "a")["inputs"]
    assert f"input: crops of {annotations} and {images}" in infer(engine_file, *renamed, *TIMED)


def test_output_used_again(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    """No keypoints or pictures of an earlier run lie beside the new numbers; a run that fails removes nothing."""
    options = ("--datasets", drawn, "--output", tmp_path)

    def files() -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}

    infer(engine_file, *options, "--visualize", 2)
    first = files()
    assert first > {"summary.json", "keypoints.json", "pictures/worst_2.jpg"} and read(tmp_path)["limit"] is None
    infer(engine_file, *options, "--detections", "/nowhere.json", code=2)
    assert files() == first
    infer(engine_file, *options, "--visualize", 1, "--limit", 1)
    assert files() == {"summary.json", "keypoints.json", "pictures/worst_1.jpg", "pictures/best_1.jpg",
                       "pictures/overview.jpg"}
    assert read(tmp_path)["limit"] == 1
    infer(engine_file, *options, *TIMED)
    assert files() == {"summary.json"} and not (tmp_path / "pictures").exists()


# Processes of their own


def peak_memory(*command: object) -> int:
    """Peak resident memory of a Python process in kilobytes."""
    with subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                          ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_images(engine_file: Path, dataset: Callable) -> None:
    """Ten times as many images of 1.4 MB and crops of 0.6 MB each would show if they were kept."""
    folder, content = dataset()
    record, annotation = content["images"][0], content["annotations"][0]
    peaks = []
    for number in (30, 300):
        content["images"] = [{**record, "id": i + 1} for i in range(number)]
        content["annotations"] = [{**annotation, "id": i + 1, "image_id": i + 1} for i in range(number)]
        write_annotations(folder, content)
        peaks.append(peak_memory(ROOT / "inference.py", "--engine", engine_file, "--datasets", folder))
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_inference_imports_neither_torch_nor_mmpose(engine_file: Path, drawn: Path) -> None:
    code = "import inference, sys; inference.main(); assert not {'torch', 'mmpose', 'mmengine'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, "--engine", engine_file, "--datasets", drawn], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)


# Timed loops


def test_measure_runs_enough_batches_and_enough_seconds() -> None:
    calls = []
    samples = timing.measure(lambda: calls.append(1) or 2.0, 3, 5, 0.0, "test")
    assert len(calls) == 8 and samples.tolist() == [2.0] * 5
    assert len(timing.measure(lambda: 1.0, 1, 1, 0.05, "test")) > 1


@pytest.mark.parametrize(("milliseconds", "duration", "steady"), [
    (lambda n: 5 + n % 2 * 0.05, 60, True),  # within 1 %
    (lambda n: 5 * 1.1 ** n, 0.15, False),  # grows for ever, until the limit
    (lambda n: 5, 0, False),  # no time to find out
])
def test_warm_up_ends_when_the_speed_is_steady(monkeypatch: pytest.MonkeyPatch, milliseconds: Callable, duration: float,
                                               steady: bool) -> None:
    monkeypatch.setattr(timing, "_WINDOW", 0.02)
    calls: list[float] = []

    def run() -> float:
        time.sleep(0.005)
        calls.append(milliseconds(len(calls)))
        return calls[-1]

    warmed = timing.warm_up(run, 3, duration)
    assert warmed["steady"] == steady and warmed["warmup"] == len(calls) >= 3
    assert len(calls) == 3 or duration
    assert warmed["warmup_s"] >= (0.04 if steady else 2 * duration)


def test_latency_is_described_by_numpys_percentiles() -> None:
    samples = np.random.default_rng(0).gamma(2, 3, 1000)
    assert timing.describe_latency(samples) == {"mean": samples.mean(), "median": np.median(samples),
                                                "p90": np.percentile(samples, 90), "p99": np.percentile(samples, 99)}
    assert timing.describe_samples([1.0, 3.0])["spread"] == 0.5


def test_bar_shows_the_seconds_left() -> None:
    shown = io.StringIO()
    shown.isatty = lambda: True
    with timing.Countdown(100, desc="Timing", file=shown, mininterval=0) as bar:
        bar.update()
        assert re.search(r"Timing: 1it .*, (99|100) s left\]", shown.getvalue())
        bar.end -= 200
        bar.update()
    assert "s left" not in shown.getvalue().splitlines()[-1].rpartition("\r")[2]
