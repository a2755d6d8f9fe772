"""What TensorRT-RTX's compiler makes of RTMPose, without a GPU: kernels, what is fused in them, types and traffic.

Figures are exact, and of the version in requirements/. A change of the network that breaks a fusion changes them.
"""

import importlib
import importlib.util
from typing import NamedTuple

import pytest
from helpers import ROOT, build_facts, ran, save_random_checkpoint
from onnx import ModelProto

from rtmpose.engines import tensorrt
from rtmpose.engines.runtime import Compiled
from rtmpose.engines.tensorrt.layers import Kernel, read_kernels, summarize
from rtmpose.model import graph
from rtmpose.model.mixed_precision import to_mixed_precision

# TensorRT 10's form, from logs of trtexec: sentences for types, weights apart, operators in the layer's name.
CASK = """Layers:
Name: conv.weight + /conv/Q + /conv/Conv, LayerType: CaskConvolution, Inputs: [ { Name: in, Location: Device, \
Dimensions: [1,3,64,96], Format/Datatype: Row major Int8 format }], Outputs: [ { Name: out, Location: Device, \
Dimensions: [1,32,32,48], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], \
ParameterType: Convolution, Kernel: [3,3], Weights: {"Type": "Int8", "Count": 864}, Bias: {"Type": "Float", \
"Count": 32}, HasBias: 1, TacticName: ampere_first_layer_filter3x3_imma_fwd
Name: /head/MatMul_myl9_4, LayerType: gemm, Inputs: [ { Name: out, Dimensions: [32,1536], Format/Datatype: Half }, \
{ Name: __mye595_dconst, Dimensions: [1536,8], Format/Datatype: Half }], Outputs: [ { Name: x, Dimensions: [32,8], \
Format/Datatype: Half }], TacticName: sm80_xmma_gemm, StreamId: 0, Metadata: [ONNX Layer: /head/MatMul]
Name: __mye9571_myl0_5, LayerType: wait, Inputs: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1, Metadata:

Bindings:
in
x
"""


class Built(NamedTuple):
    """An engine, and the graph that it was built from."""

    graph: ModelProto
    compiled: Compiled
    kernels: list[Kernel]


@pytest.fixture(scope="module", params=["t", pytest.param("m", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """RTMPose-t or -m with random weights in FP16, batch 32."""
    trt, folder = pytest.importorskip("tensorrt_rtx"), tmp_path_factory.mktemp("layers")
    if tensorrt.describe()[0].package != "tensorrt_rtx":
        pytest.skip("TensorRT is installed, and comes first")
    onnx = folder / "m.onnx"
    if request.param == "t":
        onnx = request.getfixturevalue("model_files")["onnx"]
    else:
        config = ROOT / "rtmpose-m_8xb256-420e_coco-256x192.py"
        ran("export.py", "--weight", save_random_checkpoint(config, folder / "m.pth"), "--cfg", config, "--output",
            onnx, "--simplify")
    half, _ = to_mixed_precision(graph.simplify(graph.load_model(onnx), (32, 3, 256, 192)), "fp16")
    (compiled,) = tensorrt.build(half, folder / "rtmpose.engine", build_facts("tensorrt"))
    build = importlib.import_module("rtmpose.engines.tensorrt.build")
    return Built(half, compiled, read_kernels(build.get_logger(trt).layers))


def test_kernels_types_and_traffic(built: Built) -> None:
    expected = {38: ({"number": 66, "fused": 49, "bytes": 421_185_864}, {"fp16": 60, "fp32": 6}),
                62: ({"number": 91, "fused": 74, "bytes": 1_015_754_846}, {"fp16": 85, "fp32": 6})}
    convolutions = sum(node.op_type == "Conv" for node in built.graph.graph.node)
    assert (built.compiled.kernels, built.compiled.layers) == expected[convolutions]
    assert built.compiled.arithmetic == {"fp16": convolutions + 3, "fp32": 4}


def test_convolutions_are_fused_with_silu_and_add(built: Built) -> None:
    """All but the first of the pyramid pooling, whose output is concatenated in place."""
    nodes = built.graph.graph.node
    sigmoids = {node.input[0] for node in nodes if node.op_type == "Sigmoid"}
    activated = [node.name for node in nodes if node.op_type == "Conv" and node.output[0] in sigmoids]
    sums = [node for node in nodes if node.op_type == "Add" and "/blocks/" in node.name]
    names = {operator: kernel.name for kernel in built.kernels for operator in kernel.operators}
    assert [name for name in activated if "Silu" not in names[name]] in (
        [], ["/estimator/backbone/stage4/stage4.1/conv1/conv/Conv"])
    assert len(activated) > 30 and sum("SiluAdd" in kernel.name for kernel in built.kernels) == len(sums) > 2


def test_each_scale_norm_is_one_kernel(built: Built) -> None:
    norms = [node.name.removesuffix("ReduceL2") for node in built.graph.graph.node if node.op_type == "ReduceL2"]
    assert len(norms) == 2
    for norm in norms:
        (kernel,) = [kernel for kernel in built.kernels if f"{norm}ReduceL2" in kernel.operators]
        assert {f"{norm}{operator}" for operator in ("Mul", "Clip", "Div")} < {*kernel.operators}


def test_the_form_of_tensorrt_10() -> None:
    kernels = read_kernels(CASK)
    sizes = [(sum(size for _, size in kernel.reads), sum(size for _, size in kernel.writes)) for kernel in kernels]
    assert sizes == [(3 * 64 * 96 + 864 + 4 * 32, 32 * 32 * 48), (2 * 1536 * 40, 2 * 32 * 8)]
    assert summarize(kernels, {"/conv/Conv": "int8", "/head/MatMul": "fp16", "/not/named": "fp32"}) == (
        {"int8": 1, "fp16": 1, "fp32": 1}, {"int8": 1, "fp16": 1},
        {"number": 2, "fused": 1, "bytes": sum(map(sum, sizes))})


def test_int8_that_was_dequantized_first_is_not_int8() -> None:
    kernels = read_kernels(CASK.replace("Row major Int8", "Row major FP16").replace('"Int8"', '"Half"'))
    assert summarize(kernels, {"/conv/Conv": "int8"})[0] == {"fp16": 1}


@pytest.mark.parametrize("text", [
    "", "Layers:\n/conv/Conv\n/head/MatMul", CASK.replace("Half", "Complex"), CASK.replace("[1,3,", "[-1,3,"),
    CASK.replace("Datatype", "Type")], ids=["nothing", "names", "type", "shape", "form"])
def test_an_unknown_form_is_not_told(text: str) -> None:
    assert summarize(read_kernels(text), {"/conv/Conv": "int8"}) == ({"int8": 1}, {}, {})
