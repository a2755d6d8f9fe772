"""inference.py as a user runs it: targets, throughput, limits, memory."""

import common

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

import numpy as np
import pytest
from helpers import ROOT, run_script, write_annotations

import inference
from rtmpose import timing
from rtmpose.evaluate.coco_eval import METRICS
from rtmpose.report.summary import speed

TIMED = ("--warmup", 1, "--iterations", 3, "--duration", 0)


@pytest.mark.parametrize(("target", "code", "message"), [
    (("--acc_target", "0"), 0, "--acc_target 0: reached"),
    (("--acc_target", "0.999"), 3, "--acc_target 0.999: missed"),
    (("--fps_target", "0.001"), 0, "--fps_target 0.001: reached"),
    (("--fps_target", "1e6"), 4, "--fps_target 1e+06: missed"),
])
def test_targets_decide_the_exit_code(engine_file: Path, drawn: Path, target: tuple, code: int, message: str) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, *target)
    assert done.returncode == code, done.stderr
    assert message in done.stdout


def test_limit_evaluates_the_first_images_only(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--limit", 2, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    images = {result["image_id"] for result in json.loads((tmp_path / "keypoints.json").read_text())}
    assert images == {1, 2}
    assert json.loads((tmp_path / "summary.json").read_text())["images"] == 2


def test_accuracy_prints_ten_lines_and_a_row(engine_file: Path, drawn: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--batchsize", 4,
                      "--input_name", "input")
    lines = done.stdout.splitlines()
    assert sum("IoU=" in line for line in lines) == 10
    assert lines[-5].startswith("rtmpose-t on ") and lines[-1].startswith("| 4         | fp32 ")


@pytest.mark.parametrize("flag", [("--perf_only",), ("--perf_only", "True"), ("--perf_only", "true")])
def test_throughput_needs_no_data_set(engine_file: Path, tmp_path: Path, flag: tuple) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DATASETS_DIR"}
    done = run_script("inference.py", "--engine", engine_file, *flag, *TIMED, "--output", tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "* Mean inference time: " in done.stdout and " ms, Mean fps: " in done.stdout
    assert "median" in done.stdout and "p99" in done.stdout and "spread" in done.stdout
    assert "input: random pixels" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["fps"] == pytest.approx(summary["batch"] / summary["latency_ms"]["mean"] * 1e3)
    assert summary["iterations"] == 3 and "ONNX Runtime on the CPU" in summary["fps_of"]
    assert not set(METRICS) & set(summary)
    conditions = summary["conditions"]
    assert conditions["cpu"]["seconds"] >= 1 or conditions["verdict"] == "unknown" and "too short" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"| {conditions['verdict']:10} |")


def test_a_busy_process_beside_marks_the_figures(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            done = run_script("inference.py", "--engine", engine_file, "--perf_only", "--duration", 1.2, "--output",
                              tmp_path)
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Conditions: busy: others took \d+ % of the cores; not a result$", done.stdout, re.M)
    assert done.stdout.splitlines()[-1].endswith("| busy       |")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["warmup"] > 5 and summary["warmup_s"] >= 0.5  # beyond the minimum, to see whether it is steady
    cpu = summary["conditions"]["cpu"]
    assert summary["conditions"]["verdict"] == "busy" and summary["cores_per_1000_fps"] == pytest.approx(
        cpu["own_seconds"] / (summary["iterations"] * summary["batch"]) * 1e3)


def test_an_accuracy_run_has_conditions_too(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    cpu = summary["conditions"]["cpu"]
    assert cpu["own_seconds"] > 0 and summary["cores_per_1000_fps"] == pytest.approx(
        cpu["own_seconds"] / summary["persons"] * 1e3)
    assert f"Conditions: {summary['conditions']['verdict']}" in done.stdout


def test_repeats_are_fresh_processes(engine_file: Path, tmp_path: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--perf_only", *TIMED, "--repeats", 3, "--output",
                      tmp_path, "--fps_target", 1e6)
    assert done.returncode == 4, done.stderr  # the median misses the target
    summary = json.loads((tmp_path / "summary.json").read_text())
    values, (low, high) = summary["repeats"]["values"], summary["repeats"]["interval"]
    assert len(set(values)) == len(summary["repeats"]["conditions"]) == 3
    assert summary["fps"] == sorted(values)[1] == pytest.approx(summary["batch"] / summary["latency_ms"]["mean"] * 1e3)
    assert low < np.mean(values) < high
    assert summary["command"].endswith(f"--repeats 3 --output {tmp_path} --fps_target 1000000.0")
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("process ")] == [
        "process 1/3", "process 2/3", "process 3/3"]
    assert f"| {speed(summary)} |" in done.stdout


@pytest.mark.parametrize(("options", "message"), [
    (("--repeats", 2), "--repeats: has no effect on accuracy, only on throughput"),
    (("--perf_only", "--repeats", 2, "--batchsize", 3), "was built for batch 4, --batchsize says 3"),
])
def test_repeats_end_with_one_line_after_an_error(engine_file: Path, options: tuple, message: str) -> None:
    done = run_script("inference.py", "--engine", engine_file, *options)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("inference.py: error: ") and done.stderr.count("error: ") == 1


def test_perf_only_false_measures_accuracy(engine_file: Path, drawn: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--perf_only", "False", "--datasets", drawn)
    assert "Average Precision" in done.stdout


def test_throughput_takes_real_crops_where_there_are_some(engine_file: Path, drawn: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--perf_only", *TIMED, "--datasets", drawn)
    assert done.returncode == 0, done.stderr
    assert f"input: crops of {drawn}" in done.stdout


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
    described = timing.describe_latency(samples)
    assert described == {"mean": samples.mean(), "median": np.median(samples), "p90": np.percentile(samples, 90),
                         "p99": np.percentile(samples, 99)}
    assert timing.describe_samples([1.0, 3.0])["spread"] == 0.5


def peak_memory(command: list[object]) -> int:
    """Peak resident memory of a process in kilobytes."""
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def test_peak_memory_does_not_grow_with_the_number_of_images(engine_file: Path, dataset: Callable) -> None:
    """Ten times as many images of 1.4 MB and crops of 0.6 MB each would show if they were kept."""
    folder, content = dataset()
    record, annotation = content["images"][0], content["annotations"][0]
    peaks = []
    for number in (30, 300):
        content["images"] = [{**record, "id": i + 1} for i in range(number)]
        content["annotations"] = [{**annotation, "id": i + 1, "image_id": i + 1} for i in range(number)]
        write_annotations(folder, content)
        peaks.append(peak_memory([sys.executable, ROOT / "inference.py", "--engine", engine_file,
                                  "--datasets", folder]))
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_inference_imports_neither_torch_nor_mmpose(engine_file: Path, drawn: Path) -> None:
    code = ("import sys; sys.argv = ['inference.py', '--engine', sys.argv[1], '--datasets', sys.argv[2]]; "
            "import inference; inference.main(); "
            "sys.exit(bool({'torch', 'mmpose', 'mmcv', 'mmengine'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code, str(engine_file), str(drawn)], cwd=ROOT, check=False,
                          capture_output=True)
    assert done.returncode == 0


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run inference.py in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, arguments)])
    return common.exit_code(inference.main)


@pytest.fixture
def renamed(dataset: Callable) -> tuple[object, ...]:
    """The options for a data set that is not laid out like COCO."""
    folder, _ = dataset()
    (folder / "annotations/person_keypoints_val2017.json").rename(folder / "mine.json")
    (folder / "images/val2017").rename(folder / "photos")
    return "--annotations", folder / "mine.json", "--images", folder / "photos"


def test_annotations_and_images_of_any_name(engine_file: Path, renamed: tuple, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                            ) -> None:
    """In every mode, with the result of a set that is laid out like COCO, whatever DATASETS_DIR says."""
    monkeypatch.setenv("DATASETS_DIR", "/nowhere")
    usual = tmp_path / "usual"
    (usual / "annotations").mkdir(parents=True)
    shutil.copy(renamed[1], usual / "annotations/person_keypoints_val2017.json")
    shutil.copytree(renamed[3], usual / "val2017")
    assert run_here(monkeypatch, "--engine", engine_file, *renamed, "--output", tmp_path / "a") == 0
    assert run_here(monkeypatch, "--engine", engine_file, "--datasets", usual, "--output", tmp_path / "b") == 0
    assert (tmp_path / "a/keypoints.json").read_bytes() == (tmp_path / "b/keypoints.json").read_bytes()
    assert str(renamed[1]) in json.loads((tmp_path / "a/summary.json").read_text())["inputs"]
    capsys.readouterr()
    assert run_here(monkeypatch, "--engine", engine_file, *renamed, "--perf_only", *TIMED) == 0
    assert f"input: crops of {renamed[1]} and {renamed[3]}" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--annotations", "a.json"), ("--images", "a"),
                                     ("--annotations", "a.json", "--images", "a", "--datasets", "b")])
def test_annotations_and_images_belong_together(engine_file: Path, monkeypatch: pytest.MonkeyPatch, options: tuple,
                                                capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(monkeypatch, "--engine", engine_file, *options) == 2
    assert "--annotations FILE and --images DIR: belong together" in capfd.readouterr().err


def test_output_used_again(engine_file: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keypoints or pictures of an earlier run lie beside the new numbers; a run that fails removes nothing."""
    common_options = ("--engine", engine_file, "--datasets", drawn, "--output", tmp_path)

    def files() -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}

    assert run_here(monkeypatch, *common_options, "--visualize", 2) == 0
    first = files()
    assert first > {"summary.json", "keypoints.json", "pictures/worst_2.jpg"}
    assert json.loads((tmp_path / "summary.json").read_text())["limit"] is None
    assert run_here(monkeypatch, *common_options, "--detections", "/nowhere.json") == 2
    assert files() == first
    assert run_here(monkeypatch, *common_options, "--visualize", 1, "--limit", 1) == 0
    assert files() == {"summary.json", "keypoints.json", "pictures/worst_1.jpg", "pictures/best_1.jpg",
                       "pictures/overview.jpg"}
    assert json.loads((tmp_path / "summary.json").read_text())["limit"] == 1
    assert run_here(monkeypatch, *common_options, "--perf_only", *TIMED) == 0
    assert files() == {"summary.json"} and not (tmp_path / "pictures").exists()


def test_missed_target_is_in_the_summary(engine_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--engine", engine_file, "--perf_only", *TIMED, "--output", tmp_path, "--datasets")
    for target, missed in ((1e6, 1), (0.001, 0)):
        assert run_here(monkeypatch, *options, "--fps_target", target) == 4 * missed
        found = json.loads((tmp_path / "summary.json").read_text())["missed_targets"]
        assert [line.split(" with ")[0] for line in found] == ["--fps_target 1e+06"] * missed


def test_bar_shows_the_seconds_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    shown.isatty = lambda: True
    with timing.Countdown(100, desc="Timing", file=shown, mininterval=0) as bar:
        bar.update()
        assert re.search(r"Timing: 1it .*, (99|100) s left\]", shown.getvalue())
        bar.end -= 200
        bar.update()
    assert "s left" not in shown.getvalue().splitlines()[-1].rpartition("\r")[2]
