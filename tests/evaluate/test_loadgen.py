"""inference.py --scenario: MLPerf's own LoadGen drives a real engine."""

import common

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, run_script

import inference
from rtmpose.data.coco import ANNOTATIONS
from rtmpose.engines import BACKENDS, load_engine
from rtmpose.engines.build import build_engine, plan_build
from rtmpose.errors import EXIT_INVALID, KitError
from rtmpose.evaluate.coco_eval import METRICS
from rtmpose.evaluate.loadgen import (
    SCENARIOS,
    LoadGenConfig,
    QueueRunner,
    check_server,
    infer_on_host,
)
from rtmpose.evaluate.loadgen_logs import read_detail

pytest.importorskip("mlperf_loadgen")

LOGS = {f"mlperf_log_{name}" for name in ("accuracy.json", "detail.txt", "summary.txt", "trace.json")}


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def plain(engine_file: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an accuracy run without LoadGen."""
    folder = tmp_path_factory.mktemp("plain")
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accuracy_is_that_of_inference_alone(engine_file: Path, drawn: Path, plain: Path, tmp_path: Path,
                                             scenario: str) -> None:
    data_set = ("--datasets", drawn) if scenario != "offline" else (
        "--annotations", drawn / ANNOTATIONS, "--images", drawn / "images/val2017")
    done = run_script("inference.py", "--engine", engine_file, *data_set, "--scenario", scenario,
                      "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "keypoints.json").read_bytes() == (plain / "keypoints.json").read_bytes()
    found, expected = summary_of(tmp_path), summary_of(plain)
    assert [found[name] for name in METRICS] == [expected[name] for name in METRICS]
    assert found["mode"] == expected["mode"] == "accuracy" and found["loadgen"]["mode"] == "AccuracyOnly"
    assert {path.name for path in (tmp_path / "loadgen").iterdir()} == LOGS
    logged = json.loads((tmp_path / "loadgen/mlperf_log_accuracy.json").read_text())
    assert len(logged) == found["persons"] == found["loadgen"]["samples"]


def run_performance(engine_file: Path, scenario: str, output: Path, *options: object
                    ) -> subprocess.CompletedProcess[str]:
    return run_script("inference.py", "--engine", engine_file, "--scenario", scenario, "--perf_only",
                      "--min_duration", 0.001, "--output", output, *options)


def test_offline_is_valid(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    done = run_performance(engine_file, "offline", tmp_path, "--datasets", drawn)
    summary = check_valid(done, "offline", tmp_path)
    assert (summary["queries"], summary["samples_per_query"]) == (1, summary["loadgen"]["samples"])


def test_singlestream_is_valid_and_needs_no_data_set(engine_file: Path, tmp_path: Path) -> None:
    done = run_performance(engine_file, "singlestream", tmp_path, "--datasets")
    summary = check_valid(done, "singlestream", tmp_path)
    assert summary["queries"] >= 100 and summary["samples_per_query"] == 1
    assert "padded to 4" in done.stdout and "input: random pixels" in done.stdout


def test_server_is_valid(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    done = run_performance(engine_file, "server", tmp_path, "--datasets", drawn, "--target_qps", 500,
                           "--target_latency", 60000)
    summary = check_valid(done, "server", tmp_path)
    assert (summary["target_qps"], summary["target_latency_ms"], summary["late_queries"]) == (500, 60000, 0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_reduced_precision_is_valid_in_all_scenarios(demo_onnx: Path, calibration_folder: Path, drawn: Path,
                                                     tmp_path: Path, precision: str) -> None:
    if obstacle := BACKENDS["openvino"].find_bf16_obstacle():
        pytest.skip(f"BF16: {obstacle}")
    plan = plan_build(demo_onnx, tmp_path / "demo.engine", 4, precision, "openvino",
                      calibration_folder if precision == "int8" else None)
    record = build_engine(plan).record
    assert record.precision.startswith(precision)
    for scenario in SCENARIOS:
        options = ("--target_qps", 50, "--target_latency", 60000) if scenario == "server" else ()
        done = run_performance(plan.engine_path, scenario, tmp_path / scenario, "--datasets", drawn, *options)
        assert check_valid(done, scenario, tmp_path / scenario)["precision"] == record.precision


def check_valid(done: subprocess.CompletedProcess[str], scenario: str, output: Path) -> dict:
    """Compare what was printed and the summary with LoadGen's own logs, and return the summary."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Result is : VALID" in done.stdout and f"{scenario}: VALID" in done.stdout
    assert {path.name for path in (output / "loadgen").iterdir()} == LOGS
    verdict = (output / "loadgen/mlperf_log_summary.txt").read_text()
    assert f"Scenario : {SCENARIOS[scenario]}" in verdict and "Mode     : PerformanceOnly" in verdict
    assert "No errors encountered" in verdict
    summary = summary_of(output)
    assert summary["valid"] is True and summary["scenario"] == scenario and summary["min_duration_s"] == 0.001
    for name, message in {"median": "50.00", "p90": "90.00", "p99": "99.00"}.items():
        assert f"{message} percentile latency (ns)   : {round(summary['latency_ms'][name] * 1e6)}\n" in verdict
    assert summary["loadgen"]["version"].startswith("6.0.17") and summary["loadgen"]["errors"] == []
    assert not set(METRICS) & set(summary)
    assert f"Conditions: {summary['conditions']['verdict']}" in done.stdout and summary["cores_per_1000_fps"] >= 0
    return summary


def test_offline_takes_as_many_samples_as_expected(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    """A tenth more than --target_qps times --min_duration, says LoadGen; and earlier logs are gone."""
    (tmp_path / "loadgen").mkdir()
    (tmp_path / "loadgen/mlperf_log_old.txt").touch()
    done = run_performance(engine_file, "offline", tmp_path, "--datasets", drawn, "--min_duration", 0.1,
                           "--target_qps", 400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary_of(tmp_path)["samples_per_query"] == 44
    assert {path.name for path in (tmp_path / "loadgen").iterdir()} == LOGS


def test_invalid_run_prints_its_reason(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    """All samples are answered long before --min_duration, because so few were expected."""
    done = run_performance(engine_file, "offline", tmp_path, "--datasets", drawn, "--target_qps", 0.1,
                           "--min_duration", 60, "--fps_target", 0.001)
    assert done.returncode == EXIT_INVALID, done.stderr
    assert "Min duration satisfied : NO" in done.stdout and "Increase expected QPS" in done.stdout
    assert summary_of(tmp_path)["valid"] is False


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


@pytest.fixture
def refused(engine_file: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
            ) -> Callable[..., str]:
    """Run inference.py, which must fail; returns its one line of error."""
    def refused(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["inference.py", "--engine", str(engine_file), "--datasets", str(drawn),
                                          *map(str, arguments)])
        try:
            code = common.exit_code(inference.main)
        except SystemExit as left:  # argparse exits by itself
            code = left.code
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert code == 2 and line.startswith("inference.py: error: ")
        return line

    return refused


@pytest.mark.parametrize(("options", "message"), [
    (("--scenario", "multistream"), "invalid choice: 'multistream'"),
    (("--scenario", "offline"), "--scenario: needs --output DIR"),
    (("--scenario", "offline", "--output", "o", "--flip_test"), "--flip_test: has no effect on accuracy with"),
    (("--scenario", "offline", "--output", "o", "--visualize", 1), "--visualize: has no effect on accuracy with"),
    (("--scenario", "offline", "--output", "o", "--reference", "e"), "--reference: has no effect on accuracy with"),
    (("--scenario", "singlestream", "--output", "o", "--target_qps", 5), "--target_qps: singlestream has no rate"),
    (("--scenario", "offline", "--min_duration", 0), "--min_duration: 0 is not above zero"),
    (("--scenario", "server", "--target_qps", "nan"), "--target_qps: nan is not above zero"),
    (("--scenario", "server", "--target_latency", "fast"), "--target_latency: invalid amount value: 'fast'"),
    (("--scenario", "offline", "--output", "/dev/null"), "/dev/null/summary.json: can't be written (Not a directory)"),
])
def test_contradictions(refused: Callable, options: tuple, message: str) -> None:
    assert message in refused(*options)


def test_loadgen_not_installed(refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)  # as import looks when there is none
    message = refused("--scenario", "offline", "--output", tmp_path / "out")
    assert "LoadGen is not installed" in message and "Python 3.11 to 3.13 on x86-64" in message
    assert not (tmp_path / "out").exists()


def test_server_stops_at_once(refused: Callable, tmp_path: Path) -> None:
    start = time.perf_counter()
    message = refused("--scenario", "server", "--perf_only", "--output", tmp_path / "out", "--target_latency", 0.001)
    assert "--target_latency 0.001: a batch of 4 takes " in message
    assert time.perf_counter() - start < 60 and not (tmp_path / "out").exists()


def test_image_missing(refused: Callable, dataset: Callable, tmp_path: Path) -> None:
    folder, _ = dataset()
    next((folder / "images/val2017").iterdir()).unlink()
    assert "can't be read (No such file" in refused("--datasets", folder, "--scenario", "offline", "--output",
                                                    tmp_path / "out")


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
