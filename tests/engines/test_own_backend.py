"""A backend in a user's file: the example of docs/, built and measured as any other; broken ones are one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, ran, refusal, refused

from rtmpose.engines import find_backend, load_engine
from rtmpose.engines.record import read_record

EXAMPLE = (ROOT / "docs/examples/opencv_backend.py").read_text()
SLOW_INT8 = """
import time
from rtmpose.engines import onnxruntime
from rtmpose.engines.onnxruntime import INT8_SCHEME, build, describe

def load(content, path, record):
    engine = onnxruntime.load(content, path, record)
    run = engine._run
    if record.precision == "int8":
        engine._run = lambda crops: time.sleep(0.1) or run(crops)
    return engine
"""


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    path = tmp_path / "my_backend.py"
    path.write_text(EXAMPLE)
    return path


def build(backend: Path, onnx: Path, *options: object) -> tuple[object, ...]:
    return ("build_engine.py", "--model_path", onnx, "--batch", 4, "--backend", backend, "--engine_path",
            backend.with_name("own.engine"), *options)


def test_documented_backend_gives_the_keypoints_of_onnxruntime(backend: Path, model_files: dict[str, Path],
                                                               dataset: Callable, engine_file: Path) -> None:
    ran(*build(backend, model_files["onnx"], "--precision", "fp32"))
    engine, output = backend.with_name("own.engine"), backend.with_name("output")
    ran("inference.py", "--engine", engine, "--datasets", dataset()[0], "--reference", engine_file, "--output", output)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["backend"] == "my_backend.py" and summary["agreement"]["within_bin"] == 1
    assert summary["engine"]["device"] == "cpu"
    printed = ran("inference.py", "--engine", engine, "--perf_only", "--duration", 0.1, "--iterations", 2)
    assert "persons a second" in printed
    assert "nothing to do" in ran(*build(backend, model_files["onnx"], "--precision", "fp32"))


@pytest.mark.slow
def test_int8_is_kept_beside_a_faster_fp32_whose_speed_is_told(backend: Path, model_files: dict[str, Path],
                                                               calibration_folder: Path) -> None:
    backend.write_text(SLOW_INT8)
    shown = ran(*build(backend, model_files["onnx"], "--precision", "int8", "--calibration", calibration_folder))
    record = read_record(backend.with_name("own.engine"))
    int8, fp32 = (record.measured_fps[f"{backend} {precision}"] for precision in ("int8", "fp32"))
    assert record.precision == "int8" and int8 < fp32
    assert f"  kept: {backend} int8, {int8:.1f} persons a second here; {backend} fp32 {fp32:.1f} (" in shown


def test_file_runs_once_in_a_process(backend: Path, model_files: dict[str, Path]) -> None:
    """So what describe keeps in the module is there for build and load."""
    counter = backend.with_name("runs")
    backend.write_text(f"with open({str(counter)!r}, 'a') as file:\n    file.write('.')\n{EXAMPLE}")
    ran(*build(backend, model_files["onnx"]))
    load_engine(backend.with_name("own.engine"))
    assert counter.read_text() == "."


def test_engine_of_a_backend_that_changed(backend: Path, model_files: dict[str, Path]) -> None:
    """It isn't run: another file could do anything."""
    ran(*build(backend, model_files["onnx"]))
    engine, marker = backend.with_name("own.engine"), backend.with_name("it ran")
    assert read_record(engine).backend == str(backend)
    backend.write_text(f"open({str(marker)!r}, 'w')\n{EXAMPLE}")
    assert f"was built with another version of {backend}; build it again" in refusal(load_engine, engine)
    assert not marker.exists()
    backend.unlink()
    assert f"{backend}: can't be read" in refusal(load_engine, engine)


@pytest.mark.parametrize(("text", "message"), [
    ("import no_such_runtime", "my_backend.py: can't be imported (ModuleNotFoundError: No module named 'no_such_run"),
    ("def load(): pass", "my_backend.py: is no backend, it lacks describe, build; docs/development.md shows one"),
    (EXAMPLE.replace("return [Target(", "raise OSError('no driver')\n    return [Target("),
     "my_backend.py: can't list its devices (OSError: no driver); check its installation"),
    (EXAMPLE.replace("content = model", "raise ValueError('Conv')\n    content = model"),
     " can't build it (ValueError: Conv); "),
    ("def describe(): return []\ndef build(): pass\ndef load(): pass", "my_backend.py: is not installed; "),
])
def test_broken_backends(backend: Path, model_files: dict[str, Path], text: str, message: str) -> None:
    backend.write_text(text)
    assert message in refused(*build(backend, model_files["onnx"], "--precision", "fp32"))


@pytest.mark.parametrize(("options", "message"), [
    (("--device", "npu"), "--device npu: opencv "),
    (("--hint", "throughput"), "--hint throughput: only OpenVINO has hints"),
    (("--optimization_level", 5), "--optimization_level 5: only TensorRT has levels"),
    (("--builds", 3), "--builds 3: opencv "),
    (("--precision", "int8"), "--precision int8 and --calibration DIR"),
])
def test_options_of_an_own_backend(backend: Path, model_files: dict[str, Path], options: tuple, message: str) -> None:
    assert message in refused(*build(backend, model_files["onnx"], *options))


@pytest.mark.parametrize("name", ["tensort", "./missing.py", "README.md"])
def test_a_name_of_no_backend(name: str) -> None:
    assert f"--backend {name}: is neither a Python file nor one of auto, tensorrt, " in refusal(find_backend, name)
