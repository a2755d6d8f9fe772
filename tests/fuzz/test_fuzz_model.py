"""Damaged checkpoints, configs, ONNX files, records, engines and calibrations: an error in one line, or the network
that mmpose, PyTorch and ONNX Runtime make of the same file."""

import contextlib
import copy
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import judge
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fuzz.mutations import HOSTILE, mutated_bytes, mutated_json
from fuzz.runner import fuzz, run_safely
from hypothesis import given
from hypothesis import strategies as st

from rtmpose.data import preprocess
from rtmpose.engines import load_engine
from rtmpose.files import write_sealed
from rtmpose.model.int8 import calibrate
from rtmpose.model.int8.quantize import Block

pytestmark = pytest.mark.slow
OUTPUTS = ["simcc_x", "simcc_y"]
CROPS = preprocess.random_input(4, (192, 256))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, small_model: Path, small_engine: Path) -> Path:
    """A folder with all files of the small network; the tests damage one at a time."""
    return Path(shutil.copytree(small_model, tmp_path_factory.mktemp("fuzz") / "model"))


@contextlib.contextmanager
def damaged(path: Path, content: bytes | str) -> Iterator[None]:
    """A file with other content, which it loses at the end."""
    original = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        yield
    finally:
        path.write_bytes(original)


def run_onnx(path: Path) -> list[np.ndarray]:
    """ONNX Runtime's outputs for :data:`CROPS`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(OUTPUTS, {"input": CROPS})


def export(work: Path) -> Path | None:
    """Export the damaged files; None if they are refused."""
    output = work / "exported.onnx"
    output.unlink(missing_ok=True)
    outcome = run_safely(work, output, "export", "--weight", work / "model.pth", "--cfg", work / "config.py",
                         "--output", output)
    assert output.exists() == (outcome.code == 0)
    return output if outcome.code == 0 else None


def assert_refused_or_network_of_mmpose(work: Path) -> None:
    """The files are refused, or the exported network computes what mmpose's does with the same two."""
    exported = export(work)
    if exported is None:
        return
    network = judge.estimator(work / "config.py", work / "model.pth")
    with torch.no_grad():
        expected = network.head(network.backbone(torch.from_numpy(CROPS)))
    for found, wanted in zip(run_onnx(exported), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))


@fuzz(0.04)
@given(data=st.data())
def test_bytes_of_the_checkpoint(work: Path, small_model: Path, data: st.DataObject) -> None:
    with damaged(work / "model.pth", mutated_bytes(data.draw, (small_model / "model.pth").read_bytes())):
        assert_refused_or_network_of_mmpose(work)


HOSTILE_TENSORS = [
    torch.zeros(0), torch.full((3, 3), torch.nan), torch.zeros(8, 8, dtype=torch.int8),
    torch.zeros(4, dtype=torch.bool),
    torch.zeros(4, dtype=torch.complex64), torch.eye(4).to_sparse(), torch.zeros(4, device="meta"),
    torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), torch.zeros(2, 2, dtype=torch.float64)]


@fuzz(0.05)
@given(data=st.data())
def test_weights(work: Path, small_model: Path, data: st.DataObject) -> None:
    checkpoint = torch.load(small_model / "model.pth", weights_only=True)
    weights = checkpoint["state_dict"]
    name = data.draw(st.sampled_from(sorted(weights)))
    action = data.draw(st.sampled_from(["replace", "type", "delete", "key", "content"]))
    if action == "replace":
        weights[name] = data.draw(st.one_of(st.sampled_from(HOSTILE_TENSORS), HOSTILE))
    elif action == "type":
        weights[name] = weights[name].to(data.draw(st.sampled_from(
            [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64])))
    elif action == "key":
        weights[data.draw(st.sampled_from([1, None, "", "backbone", ("a",), b"a"]))] = weights.pop(name)
    elif action == "content":
        checkpoint = data.draw(st.sampled_from([weights, [weights], {"state_dict": list(weights)}, weights[name], {}]))
    else:
        del weights[name]
    file = io.BytesIO()
    torch.save(checkpoint, file)
    with damaged(work / "model.pth", file.getvalue()):
        assert_refused_or_network_of_mmpose(work)


@fuzz(0.06)
@given(data=st.data())
def test_config(work: Path, small_model: Path, data: st.DataObject) -> None:
    """A value of the config's ``model`` is replaced, as somebody who edits the file would do."""
    text = (small_model / "config.py").read_text()
    path = data.draw(st.sampled_from([
        "['data_preprocessor']['mean']", "['data_preprocessor']['bgr_to_rgb']", "['data_preprocessor']",
        "['backbone']['type']", "['backbone']['widen_factor']", "['backbone']", "['head']['type']", "['head']",
        "['head']['out_channels']", "['head']['input_size']", "['head']['decoder']", "['head']['decoder']['use_dark']",
        "['head']['simcc_split_ratio']", "['head']['decoder']['simcc_split_ratio']", "['head']['gau_cfg']['act_fn']",
        "['type']", "['test_cfg']", ""]))
    value = data.draw(st.one_of(HOSTILE, st.sampled_from([(192, 256), [1.0, 2.0, 3.0], "nan", 2.0, "RTMCCHead"])))
    changed = f"{text}\nnan, inf = float('nan'), float('inf')\nmodel{path} = {value!r}\n"
    with damaged(work / "config.py", changed):
        assert_refused_or_network_of_mmpose(work)


@fuzz(0.1)
@given(data=st.data())
def test_onnx(work: Path, small_model: Path, data: st.DataObject) -> None:
    """The engine of a damaged graph computes what ONNX Runtime makes of it."""
    path, engine = work / "model.onnx", work / "rebuilt.engine"
    for file in work.glob("rebuilt.engine*"):
        file.unlink()
    content = (small_model / "model.onnx").read_bytes()
    changed = (mutated_bytes(data.draw, content) if data.draw(st.booleans())
               else mutated_graph(data.draw, onnx.load_from_string(content)))
    with damaged(path, changed):
        outcome = run_safely(work, engine, "build_engine", "--model_path", path, "--input", "input:4,3,256,192",
                             "--precision", "fp32", "--backend", "onnxruntime", "--engine_path", engine)
        assert engine.exists() == (outcome.code == 0)
        if outcome.code == 0:
            for found, expected in zip(load_engine(engine).infer(CROPS), run_onnx(path), strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-3 * max(1e-6, float(np.abs(expected).max())))


def mutated_graph(draw: st.DrawFn, model: onnx.ModelProto) -> bytes:
    """A graph with a changed node, weight, input, output or header."""
    graph = copy.deepcopy(model)
    node = graph.graph.node[draw(st.integers(0, len(graph.graph.node) - 1))]
    tensor = graph.graph.initializer[draw(st.integers(0, len(graph.graph.initializer) - 1))]
    action = draw(st.sampled_from([
        "operator", "input", "attributes", "delete", "type", "dims", "data", "external", "float16", "outputs",
        "metadata", "opset", "shape"]))
    if action == "operator":
        node.op_type = draw(st.sampled_from(["Relu", "Loop", "NoSuchOperator", ""]))
    elif action == "input" and node.input:
        node.input[0] = draw(st.sampled_from(["", "input", "no_such_tensor", tensor.name, node.output[0]]))
    elif action == "attributes":
        del node.attribute[:]
    elif action == "delete":
        graph.graph.node.remove(node)
    elif action == "type":
        tensor.data_type = draw(st.integers(0, 30))
    elif action == "dims":
        tensor.dims.append(draw(st.sampled_from([0, -1, 2, 10**12])))
    elif action == "data":
        tensor.raw_data = tensor.raw_data[:draw(st.integers(0, 16))]
    elif action == "external":
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", draw(st.sampled_from(["model.pth", "../x", "/dev/zero", ""]))),
                           ("length", draw(st.sampled_from(["1000000000000000", "-1", "x", "4"])))):
            tensor.external_data.add(key=key, value=value)
    elif action == "float16":
        graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    elif action == "outputs":
        graph.graph.output[0].name = draw(st.sampled_from(["simcc_y", "other", ""]))
    elif action == "metadata":
        for entry in graph.metadata_props:
            entry.value = draw(st.sampled_from(["", "{}", "[" * 10**5, "\0", "1"]))
    elif action == "opset":
        graph.opset_import[0].version = draw(st.sampled_from([0, -1, 1, 10**6]))
    else:
        graph.graph.input[0].type.tensor_type.shape.dim[3].dim_value = draw(st.sampled_from([0, -1, 191, 10**9]))
    return graph.SerializeToString()


def time_engine(work: Path) -> int:
    """Exit code of a short throughput run of the folder's engine."""
    shutil.rmtree(work / "output", ignore_errors=True)
    outcome = run_safely(work, work / "output", "inference", "--engine", work / "model.engine", "--perf_only",
                         "--iterations", 1, "--warmup", 1, "--duration", 0, "--output", work / "output")
    return outcome.code


@fuzz(0.1)
@given(data=st.data())
def test_record(work: Path, small_model: Path, data: st.DataObject) -> None:
    """Only an unchanged record is accepted."""
    original = json.loads((small_model / "model.engine.json").read_text())
    changed, unchanged = mutated_json(data.draw, original), False
    with contextlib.suppress(ValueError, RecursionError):
        unchanged = json.dumps(json.loads(changed)) == json.dumps(original)
    with damaged(work / "model.engine.json", changed):
        assert time_engine(work) == (0 if unchanged else 2)


@fuzz(0.03)
@given(data=st.data())
def test_engine(work: Path, small_model: Path, data: st.DataObject) -> None:
    original = (small_model / "model.engine").read_bytes()
    changed = mutated_bytes(data.draw, original)
    with damaged(work / "model.engine", changed):
        assert time_engine(work) == (0 if changed == original else 2)


@fuzz(0.12)
@given(data=st.data())
def test_calibration_cache(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A cache is used if nothing in it has changed, and else ignored."""
    facts = {"onnx_sha256": "0" * 64, "recipe": 1, "persons": 8}
    factors, ranges = {"conv": [1.0, 0.25]}, {"input": (-2.0, 2.5), "conv": (-0.25, 8.0)}
    blocks = [Block("stem", 3, 0.1, 0.98, 0.99, True), Block("stage1", 7, 0.9, 0.5, 0.6, False)]
    cache = tmp_path_factory.getbasetemp() / "fuzz.calibration.json"
    write_sealed(cache, {"facts": facts, "factors": factors, "ranges": ranges,
                         "blocks": [asdict(block) for block in blocks]})
    original = json.loads(cache.read_text())
    cache.write_text(changed := mutated_json(data.draw, original))
    kept = calibrate.read_cache(cache, facts)
    if kept is not None:
        assert json.dumps(json.loads(changed), sort_keys=True) == json.dumps(original, sort_keys=True)
        assert (kept.factors, kept.ranges) == (factors, ranges)
        assert [asdict(block) for block in kept.blocks] == [asdict(block) for block in blocks]
