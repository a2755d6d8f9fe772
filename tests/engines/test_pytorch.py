"""PyTorch: ONNX Runtime's keypoints, compiled by AOTInductor and, without a C++ compiler, eagerly."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import emulation
import numpy as np
import onnx
import pytest
from helpers import BASELINE, ROOT, build_engine, ran, refusal, refused

from rtmpose.data import postprocess
from rtmpose.data.agreement import describe_agreement
from rtmpose.engines import choose_targets, load_engine, open_engine, pytorch
from rtmpose.engines.build import build_engine as build_planned
from rtmpose.engines.build import keep_able, plan_build
from rtmpose.engines.record import read_record
from rtmpose.errors import KitError, explained
from rtmpose.model import graph
from rtmpose.model.int8 import calibrate
from rtmpose.model.mixed_precision import to_mixed_precision
from rtmpose.report.text import build_lines

COMPILER = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"AOTInductor needs {COMPILER}")
BATCH = 8


@pytest.fixture(scope="module")
def reference_path(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's RTMPose-t in FP32, by ONNX Runtime."""
    return build_engine(demo_onnx, tmp_path_factory.mktemp("onnxruntime") / "demo.engine", BATCH, "fp32", "onnxruntime")


@pytest.fixture(scope="module")
def compiled_path(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by PyTorch, compiled."""
    return build_engine(demo_onnx, tmp_path_factory.mktemp("pytorch") / "demo.engine", BATCH, "fp32", "pytorch")


@pytest.fixture(scope="module")
def eager(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same by PyTorch where there is no C++ compiler, and what build_engine.py printed."""
    path = tmp_path_factory.mktemp("eager") / "demo.engine"
    printed = ran("build_engine.py", "--model_path", demo_onnx, "--batch", BATCH, "--precision", "fp32", "--backend",
                  "pytorch", "--device", "cpu", "--engine_path", path, env={**os.environ, "CXX": "/no/such/compiler"})
    return path, printed


def keypoints(engine_path: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of drawn people, in pixels of the crop, and scores."""
    engine, crops = load_engine(engine_path), calibrate.load_calibration_set(folder, (192, 256)).batches[:6]
    logits = [np.concatenate(axis) for axis in zip(*map(engine.infer, crops), strict=True)]
    return postprocess.decode(*logits, (192, 256))


def within_bin(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of keypoints that are at most one bin off."""
    agreement = describe_agreement(np.abs(found[0].astype(np.float64) - expected[0]), expected[1], 0.5)
    assert agreement["counted"] > 500
    return agreement["within_bin"]


@needs_compiler
@pytest.mark.slow
def test_a_compiled_engine_gives_the_keypoints_of_onnx_runtime(compiled_path: Path, reference_path: Path,
                                                               people_folder: Path, tmp_path: Path) -> None:
    """Through inference.py, from files to AP."""
    record = read_record(compiled_path)
    assert record.precision == "fp32" and record.arithmetic == {"fp32": 45}
    assert record.executors == {"AOTInductor": record.layers["fp32"]} and record.driver is None
    assert compiled_path.read_bytes()[:2] == b"PK", "AOTInductor's package"
    printed = ran("inference.py", "--engine", compiled_path, "--datasets", people_folder, "--reference", reference_path,
                  "--output", tmp_path)
    assert "| pytorch | files to keypoints |" in re.sub(" +", " ", printed)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["agreement"]["counted"] > 500 and summary["agreement"]["within_bin"] >= 0.999
    assert summary["AP"] == pytest.approx(BASELINE["AP"], abs=0.002)
    assert summary["engine"]["executors"] == record.executors and summary["engine"]["device"] == "cpu"


@needs_compiler
@pytest.mark.slow
def test_a_run_changes_neither_crops_nor_earlier_results(compiled_path: Path) -> None:
    crops = np.random.default_rng(0).standard_normal((2, BATCH, 3, 256, 192), dtype=np.float32)
    engine, before = load_engine(compiled_path), crops.copy()
    first = engine.infer(crops[0])
    kept = [axis.copy() for axis in first]
    for one, copy, other in zip(first, kept, engine.infer(crops[1]), strict=True):
        assert np.array_equal(one, copy) and not np.array_equal(one, other) and one.dtype == np.float32
    assert np.array_equal(before, crops)
    ((name, timer),) = engine.timers(crops[0]).items()
    assert name == "wall clock of PyTorch on cpu, crops in memory" and timer() > 0


@needs_compiler
@pytest.mark.slow
def test_what_is_no_package_or_no_batch_is_refused_in_one_line(compiled_path: Path) -> None:
    record = read_record(compiled_path)
    assert "demo.engine: torch" in (message := refusal(open_engine, b"damaged", compiled_path, record))
    assert "can't load it (" in message
    message = refusal(load_engine(compiled_path).infer, np.zeros((BATCH, 3, 200, 192), np.float32))
    assert f"can't run it (ValueError: crops are of shape ({BATCH}, 3, 200, 192), expected ({BATCH}, 3, 256" in message


def test_without_a_compiler_the_graph_runs_eagerly_and_says_so(eager: tuple[Path, str], reference_path: Path,
                                                               people_folder: Path) -> None:
    path, printed = eager
    assert "Note: PyTorch runs this engine eagerly, which is slower: AOTInductor can't compile it for cpu (" in printed
    assert "/no/such/compiler" in printed and "nodes: 165 eager" in printed
    record = read_record(path)
    assert record.executors == {"eager": 165} and record.precision == "fp32"
    assert onnx.load_from_string(path.read_bytes()).graph.input[0].name == "input"
    assert within_bin(keypoints(path, people_folder), keypoints(reference_path, people_folder)) >= 0.999
    printed = ran("inference.py", "--engine", path, "--perf_only", "--duration", "0.2")
    assert "| pytorch (eager) | engine alone, random input |" in re.sub(" +", " ", printed)
    message = refusal(load_engine(path).infer, np.zeros((1, 3, 256, 192), np.float32))
    assert "can't run it (ValueError: crops are of shape (1, 3, 256, 192)" in message
    assert "can't load it (" in refusal(open_engine, b"damaged", path, record)


@needs_compiler
@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_16_bit_moves_no_more_keypoints_than_rounding_does(demo_onnx: Path, people_folder: Path, half: str,
                                                           reference_path: Path, tmp_path: Path) -> None:
    """Compiled, intermediate results of fused operators are not rounded, so it may be closer to FP32."""
    plan = plan_build(demo_onnx, tmp_path / "a.engine", BATCH, half, "pytorch")
    built = build_planned(plan)
    assert built.record.precision == half and set(built.record.arithmetic) == {half, "fp32"} and not built.note
    assert f"  nodes: {sum(built.record.layers.values())} AOTInductor" in build_lines(plan, built)
    crops = calibrate.load_calibration_set(people_folder, (192, 256)).batches[:6]
    fixed = graph.simplify(graph.load_model(demo_onnx), crops[0].shape)
    rounded = emulation.keypoints(emulation.round_like_gpu(to_mixed_precision(fixed, half)[0]), crops)
    exact, found = keypoints(reference_path, people_folder), keypoints(tmp_path / "a.engine", people_folder)
    assert not np.array_equal(found[0], exact[0]) or not np.array_equal(found[1], exact[1]), "nothing was rounded"
    assert within_bin(found, exact) >= within_bin(rounded, exact) - 0.005


def test_an_unknown_operator_and_other_devices_are_refused_in_one_line(demo_onnx: Path, tmp_path: Path,
                                                                       eager: tuple[Path, str]) -> None:
    model = onnx.load(demo_onnx)
    next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Erf"
    onnx.save(model, tmp_path / "erf.onnx")
    arguments = ("--batch", 1, "--precision", "fp32", "--backend", "pytorch", "--engine_path", tmp_path / "a.engine")
    message = refused("build_engine.py", "--model_path", tmp_path / "erf.onnx", *arguments)
    assert re.search(r"a.engine: torch .* can't build it \(the kit has no Erf for PyTorch, only Add, Sub, ", message)
    message = refused("build_engine.py", "--model_path", demo_onnx, "--device", "tpu", *arguments)
    assert re.search(r"--device tpu: torch \S+ has cpu\b.* here; choose one of them$", message)
    with pytest.raises(KitError, match="^--precision int8: pytorch takes no INT8 graphs; use --precision fp32$"):
        keep_able(choose_targets("pytorch", "cpu")[0], "int8")
    record = replace(read_record(eager[0]), version="2.5.0")
    assert "was built by torch 2.5.0, but " in refusal(open_engine, b"", eager[0], record)


def test_an_attribute_that_only_a_run_meets_fails_the_build(tmp_path: Path, eager: tuple[Path, str]) -> None:
    model = onnx.load_from_string(eager[0].read_bytes())
    next(node for node in model.graph.node if node.op_type == "Conv").attribute.append(
        onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    with (pytest.raises(KitError, match=r"can't build it \(TypeError: .*'auto_pad'\)"),
          explained("a.engine: can't build it", "check the graph")):
        pytorch.build(model, tmp_path / "a.engine", read_record(eager[0]))


def test_pytorch_is_imported_only_where_it_is_asked_for() -> None:
    """Its import takes seconds."""
    asked = ("import sys; from rtmpose.engines import choose_targets; choose_targets(sys.argv[1], None); "
             "sys.exit('torch' in sys.modules)")
    for backend, imported in (("onnxruntime", 0), ("pytorch", 1)):
        assert subprocess.run([sys.executable, "-c", asked, backend], cwd=ROOT, check=False).returncode == imported
