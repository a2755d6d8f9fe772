"""The benchmarks run, and the range instrument sees what is hidden inside an operator."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from fp16_ranges import measure
from helpers import build_engine, draw_people, run_script
from onnx import TensorProto, helper, numpy_helper

from rtmpose.engines import backend
from rtmpose.machine.gpu import find_gpu


def test_ranges_see_sums_inside_operators() -> None:
    """[1, -2] x [3, 4] is -5, but its terms add up to 11; the sum of squares of [-5, 0] is 25."""
    weights = numpy_helper.from_array(np.array([[3, 0], [4, 0]], np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["product"], "product_node"),
             helper.make_node("ReduceL2", ["product"], ["norm"], "norm_node", axes=[1])]
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 2])],
                              [helper.make_tensor_value_info("norm", TensorProto.FLOAT, [1, 1])], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    ranges = measure(model, [np.array([[1, -2]], np.float32), np.array([[0.5, 0]], np.float32)])
    assert ranges == {"product": (5, 1.5), "product_node: sum of magnitudes": (11, 1.5), "norm": (5, 1.5),
                      "norm_node: sum of squares": (25, 2.25)}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "rows"), [("fp16_ranges.py", 10), ("fp16_stress.py", 7)])
def test_a_benchmark_prints_its_table(script: str, rows: int, model_files: dict[str, Path], drawn: Path) -> None:
    done = run_script(f"benchmarks/{script}", "--model_path", model_files["onnx"], "--datasets", drawn, "--persons", 8)
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) >= rows


@pytest.mark.slow
def test_emulated_precision_prints_a_row_a_graph(demo_onnx: Path, tmp_path: Path) -> None:
    """On a few pictures; the FP32 row is the others' reference, and the demo's FP16 row hardly differs."""
    few = tmp_path / "few"
    draw_people(few, 8, seed=3)
    calibrating = tmp_path / "calibrating"
    draw_people(calibrating, 8, seed=4)
    done = run_script("benchmarks/emulated_precision.py", "--model_path", demo_onnx, "--datasets", few,
                      "--calibration", calibrating)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
            if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["FP32", "FP16, final convolution x 2^0", "FP16, final convolution x 2^8",
                                        "BF16", "INT8, the rest FP16"]
    assert rows[0][2:] == ["+0.0000", "100.000%", "100.000%", "0.0"] and 0.5 < float(rows[0][1]) < 1
    # Scaling by a power of two changes no FP16 result.
    assert rows[1][1:] == rows[2][1:]
    for row, within in zip(rows[1:], (98, 98, 97, 80), strict=True):
        assert abs(float(row[2])) < 0.05 and within < float(row[3].strip("%")) < 100 + (row[0] != "INT8, the rest FP16")


@pytest.mark.slow
@pytest.mark.skipif(backend("openvino").find_bf16_obstacle() is not None, reason="needs AVX512-BF16 or AMX")
def test_fewer_keypoints_move_with_more_of_the_network_in_fp32(demo_onnx: Path, people_folder: Path, tmp_path: Path
                                                               ) -> None:
    engine = build_engine(demo_onnx, tmp_path / "fp32.engine", 8, "fp32", "openvino")
    done = run_script("benchmarks/bf16_parts.py", "--model_path", demo_onnx, "--engine", engine, "--datasets",
                      people_folder, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    rows = {row[1].strip(): row for row in (line.split("|") for line in done.stdout.splitlines()) if len(row) == 8}
    logits, head, most = (float(rows[name][3].strip(" %")) for name in ("logits", "head (the kit)", "all but stem"))
    assert 97 < logits <= head + 0.2 and head < most <= 100


def test_too_few_persons_are_reported(model_files: dict[str, Path], drawn: Path) -> None:
    done = run_script("benchmarks/fp16_stress.py", "--model_path", model_files["onnx"], "--datasets", drawn,
                      "--persons", 3)
    assert done.returncode == 2
    assert "gives 3 persons, expected at least 8" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_the_gpu_table_needs_a_gpu(tmp_path: Path) -> None:
    done = run_script("benchmarks/gpu_table.py", "--model_path", tmp_path, "--cfg", tmp_path, "--weight", tmp_path,
                      "--datasets", tmp_path)
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr and "Traceback" not in done.stderr
