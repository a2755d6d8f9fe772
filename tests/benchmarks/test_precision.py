"""The range instrument sees what is hidden inside an operator; benchmarks that can't run say so in one line."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fp16_ranges import measure
from gpu_table import torch_timer
from helpers import ran, refused
from onnx import TensorProto, helper, numpy_helper

from rtmpose.machine.gpu import find_gpu
from rtmpose.timing import finish


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
def test_ranges_of_a_network(model_files: dict[str, Path], drawn: Path) -> None:
    """docs/precision.md's commands, which tests/docs runs, run the other precision benchmarks."""
    shown = ran("benchmarks/fp16_ranges.py", "--model_path", model_files["onnx"], "--datasets", drawn, "--persons", 8)
    assert sum(line.startswith("| ") for line in shown.splitlines()) >= 10


def test_too_few_persons_are_reported(model_files: dict[str, Path], drawn: Path) -> None:
    message = refused("benchmarks/fp16_stress.py", "--model_path", model_files["onnx"], "--datasets", drawn,
                      "--persons", 3)
    assert "gives 3 persons, expected at least 8" in message


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_the_gpu_table_needs_a_gpu(tmp_path: Path) -> None:
    message = refused("benchmarks/gpu_table.py", "--model_path", tmp_path, "--cfg", tmp_path, "--weight", tmp_path,
                      "--datasets", tmp_path)
    assert "needs an NVIDIA GPU" in message


def test_the_gpu_table_keeps_two_runs_of_pytorch_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a made-up PyTorch: an event knows how many runs stand before it."""
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.elapsed_time = lambda end: end.runs - self.runs

        def record(self) -> None:
            self.runs = calls.count("run")

        def synchronize(self) -> None:
            calls.append(f"wait for {self.runs}")

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: calls.append("wait for all"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    timer = torch_timer(lambda: calls.append("run"))
    assert [timer(), timer()] == [1, 1]
    assert calls == ["wait for all", "run", "run", "wait for 1", "run", "wait for 2", "run", "wait for 3"]
    assert finish(timer)["request_latency_ms"] == [1, 1]
