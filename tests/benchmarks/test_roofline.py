"""FLOPs against PyTorch's own counter, bytes and times by hand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from roofline import Ceilings, Work, count_work, shortest_ms

from rtmpose.model import graph
from rtmpose.model.checkpoint import load_network


def test_flops_are_those_that_pytorch_counts(model_files: dict[str, Path]) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = load_network(model_files["config"], model_files["checkpoint"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.module(torch.zeros(2, 3, 256, 192))
    fixed = graph.simplify(graph.load_model(model_files["onnx"]), (2, 3, 256, 192))
    work = count_work(fixed)
    assert sum(one.flops for one in work) == counter.get_total_flops()
    assert {one.type for one in work} == {"fp32"} and all(one.bytes > 0 for one in work)


def test_a_convolution_by_hand() -> None:
    """8 channels to 4 in 2 groups, 3x3, on 5x6 pixels, which stay 5x6: 4 x 3 x 3 multiply-adds a value."""
    weights = numpy_helper.from_array(np.zeros((4, 4, 3, 3), np.float32), "weights")
    node = helper.make_node("Conv", ["input", "weights"], ["output"], pads=[1, 1, 1, 1], group=2)
    model = helper.make_model(helper.make_graph(
        [node], "test", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [2, 8, 5, 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [2, 4, 5, 6])], [weights]))
    onnx.checker.check_model(model)
    values = 2 * 4 * 5 * 6
    assert count_work(model) == [Work("fp32", 2 * 36 * values, 4 * (2 * 8 * 30 + 4 * 36 + values))]


def test_time_is_bound_by_arithmetic_or_memory() -> None:
    ceilings = Ceilings({"fp16": 1e12, "fp32": 1e11}, 1e9)
    assert shortest_ms([Work("fp16", 10**10, 10**6)], ceilings) == pytest.approx(10)
    assert shortest_ms([Work("fp32", 10**9, 10**6), Work("fp16", 10**6, 5 * 10**6)], ceilings) == pytest.approx(15)
