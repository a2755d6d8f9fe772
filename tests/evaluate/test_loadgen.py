"""inference.py --scenario: MLPerf's own LoadGen drives a real engine."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, draw_dataset, refused, run_script

from rtmpose.data.coco import ANNOTATIONS
from rtmpose.engines import load_engine
from rtmpose.errors import EXIT_INVALID, EXIT_OK, KitError
from rtmpose.evaluate.coco_eval import METRICS
from rtmpose.evaluate.loadgen import SCENARIOS, LoadGenConfig, QueueRunner, check_server, infer_on_host
from rtmpose.evaluate.loadgen_logs import read_detail

pytest.importorskip("mlperf_loadgen")

LOGS = {f"mlperf_log_{name}" for name in ("accuracy.json", "detail.txt", "summary.txt", "trace.json")}
PERFORMANCE = ("--perf_only", "--min_duration", 0.001)


def run(engine: Path, output: Path, *options: object, code: int = EXIT_OK) -> tuple[str, dict]:
    """Run inference.py; returns what it printed, and its summary."""
    done = run_script("inference.py", "--engine", engine, "--output", output, *options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, json.loads((output / "summary.json").read_text())


@pytest.fixture(scope="module")
def plain(engine_file: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an accuracy run without LoadGen."""
    folder = tmp_path_factory.mktemp("plain")
    run(engine_file, folder, "--datasets", drawn)
    return folder


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accuracy_is_that_of_inference_alone(engine_file: Path, drawn: Path, plain: Path, tmp_path: Path,
                                             scenario: str) -> None:
    data_set = ("--datasets", drawn) if scenario != "offline" else (
        "--annotations", drawn / ANNOTATIONS, "--images", drawn / "images/val2017")
    _, found = run(engine_file, tmp_path, *data_set, "--scenario", scenario)
    expected = json.loads((plain / "summary.json").read_text())
    assert (tmp_path / "keypoints.json").read_bytes() == (plain / "keypoints.json").read_bytes()
    assert [found[name] for name in METRICS] == [expected[name] for name in METRICS]
    assert found["mode"] == expected["mode"] == "accuracy" and found["loadgen"]["mode"] == "AccuracyOnly"
    assert {path.name for path in (tmp_path / "loadgen").iterdir()} == LOGS
    logged = json.loads((tmp_path / "loadgen/mlperf_log_accuracy.json").read_text())
    assert len(logged) == found["persons"] == found["loadgen"]["samples"]


@pytest.mark.parametrize(("scenario", "options", "expected", "printed"), [
    ("offline", (), {"queries": 1}, "input: crops of"),
    pytest.param("singlestream", ("--datasets", ""), {"samples_per_query": 1}, "input: random pixels",
                 marks=pytest.mark.slow),
    pytest.param("server", ("--target_qps", 500, "--target_latency", 600000),
                 {"target_qps": 500, "target_latency_ms": 600000, "late_queries": 0}, "500 queries a second",
                 marks=pytest.mark.slow),
])
def test_performance_is_valid(engine_file: Path, drawn: Path, tmp_path: Path, scenario: str, options: tuple,
                              expected: dict, printed: str) -> None:
    """What is printed and the summary are what LoadGen's own logs say."""
    out, summary = run(engine_file, tmp_path, "--scenario", scenario, *PERFORMANCE, "--datasets", drawn, *options)
    assert "Result is : VALID" in out and f"{scenario}: VALID" in out and printed in out
    assert ("padded to 4" in out) == (scenario == "singlestream")
    assert {path.name for path in (tmp_path / "loadgen").iterdir()} == LOGS
    verdict = (tmp_path / "loadgen/mlperf_log_summary.txt").read_text()
    assert f"Scenario : {SCENARIOS[scenario]}" in verdict and "Mode     : PerformanceOnly" in verdict
    assert "No errors encountered" in verdict
    assert {"valid": True, "scenario": scenario, "min_duration_s": 0.001, **expected}.items() <= summary.items()
    assert summary["queries"] * summary["samples_per_query"] >= 100 or scenario == "offline"
    assert summary["samples_per_query"] == (summary["loadgen"]["samples"] if scenario == "offline" else 1)
    for name, message in {"median": "50.00", "p90": "90.00", "p99": "99.00"}.items():
        assert f"{message} percentile latency (ns)   : {round(summary['latency_ms'][name] * 1e6)}\n" in verdict
    assert summary["loadgen"]["version"].startswith("6.0.17") and summary["loadgen"]["errors"] == []
    assert not set(METRICS) & set(summary)
    assert f"Conditions: {summary['conditions']['verdict']}" in out and summary["cores_per_1000_fps"] >= 0


def test_offline_takes_as_many_samples_as_expected(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    """A tenth more than --target_qps times --min_duration, says LoadGen; and earlier logs are gone."""
    (tmp_path / "loadgen").mkdir()
    (tmp_path / "loadgen/mlperf_log_old.txt").touch()
    _, summary = run(engine_file, tmp_path, "--scenario", "offline", "--perf_only", "--min_duration", 0.1,
                     "--target_qps", 400, "--datasets", drawn)
    assert summary["samples_per_query"] == 44
    assert {path.name for path in (tmp_path / "loadgen").iterdir()} == LOGS


def test_invalid_run_prints_its_reason(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    """All samples are answered long before --min_duration, because so few were expected."""
    out, summary = run(engine_file, tmp_path, "--scenario", "offline", "--perf_only", "--min_duration", 60,
                       "--target_qps", 0.1, "--fps_target", 0.001, "--datasets", drawn, code=EXIT_INVALID)
    assert "Min duration satisfied : NO" in out and "Increase expected QPS" in out and summary["valid"] is False


@pytest.mark.parametrize(("limit", "qps", "seconds", "message"), [
    (9.9, 5, 600, "--target_latency 9.9: a batch of 4 takes 10 ms, so that every answer would be late"),
    (100, 1000, 600, "--target_qps 1000: the engine answers at most 400 persons a second"),
    (100, 1000, 0.001, "--target_qps 1000: the engine answers at most 400 persons a second"),
    (2000, 1000, 0.001, None), (100, 400, 600, None), (100, 399, 600, None), (10, 0.1, 600, None)])
def test_server_that_cannot_be_valid(limit: float, qps: float, seconds: float, message: str | None) -> None:
    """The engine takes 10 ms for a batch of 4."""
    config = LoadGenConfig("server", accuracy=False, min_duration=seconds, target_qps=qps, target_latency=limit)
    if message is None:
        check_server(config, 10, 4, qps)
        return
    with pytest.raises(KitError, match=message):
        check_server(config, 10, 4, qps)


def test_an_error_beside_loadgen_ends_the_run(engine_file: Path, tmp_path: Path) -> None:
    """An exception would crash LoadGen. Here the memory of a batch has another size than the crops."""
    config = LoadGenConfig("offline", accuracy=False, min_duration=0.001, target_qps=None, target_latency=100)
    runner = QueueRunner(load_engine(engine_file), config, None)
    runner._infer = partial(infer_on_host, runner.engine, np.empty((4, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match="could not broadcast"):
        runner.run_test(tmp_path)


@pytest.mark.parametrize("share", [0, 0.3, 0.6])
def test_detail_log_cut_off(tmp_path: Path, share: float) -> None:
    """As on a full disk; the lines are in LoadGen's format."""
    lines = [f':::MLLOG {json.dumps({"key": key, "value": 0, "metadata": {"is_error": False}})}\n'
             for key in ("loadgen_version", "effective_accuracy_sample_count", "result_validity")]
    text = "".join(lines)
    (tmp_path / "detail.txt").write_text(text[:int(len(text) * share)])
    with pytest.raises(KitError, match="detail.txt: was cut off"):
        read_detail(tmp_path / "detail.txt", accuracy=False)


def test_padding_is_the_first_sample(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ran = load_engine(engine_file), []
    infer = engine.infer
    monkeypatch.setattr(engine, "infer", lambda crops: ran.append(crops.copy()) or infer(crops))
    crops = np.random.default_rng(0).standard_normal((2, 3, 256, 192), np.float32)
    answers = infer_on_host(engine, np.empty((4, 3, 256, 192), np.float32), crops)
    np.testing.assert_array_equal(ran[0], crops[[0, 1, 0, 0]])
    assert answers.shape == (2, 17, 3)


@pytest.mark.parametrize(("fault", "options", "message"), [
    ("no LoadGen", (), "Python 3.11 to 3.13 on x86-64"),
    ("no image", (), "can't be read (No such file"),
    ("", ("--perf_only", "--target_latency", 0.001), "--target_latency 0.001: a batch of 4 takes ")])
def test_a_run_that_cannot_start(engine_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str,
                                 options: tuple, message: str) -> None:
    draw_dataset(tmp_path / "people")
    if fault == "no LoadGen":
        monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)  # as import looks when there is none
    if fault == "no image":
        next((tmp_path / "people/images/val2017").iterdir()).unlink()
    assert message in refused("inference.py", "--engine", engine_file, "--datasets", tmp_path / "people", "--scenario",
                              "server", "--output", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_interrupt_ends_loadgen_at_once(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "inference.py", "--engine", engine_file, "--datasets", drawn, "--perf_only",
               "--scenario", "server", "--target_latency", "60000", "--output", tmp_path]
    detail = tmp_path / "loadgen/mlperf_log_detail.txt"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (detail.exists() and "Starting performance mode" in detail.read_text()):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT and "Traceback" not in message
