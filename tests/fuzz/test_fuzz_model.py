"""Damaged checkpoints, configs, ONNX files, records and engines: an error in one line, or the network
that mmpose, PyTorch and ONNX Runtime make of the same file."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fuzz.mutations import HOSTILE, mutated_bytes, mutated_json
from fuzz.runner import damaged, fuzz, run_safely
from hypothesis import given
from hypothesis import strategies as st

from rtmpose.data import preprocess
from rtmpose.engines import load_engine

pytestmark = pytest.mark.slow
OUTPUTS = ["simcc_x", "simcc_y"]
CROPS = preprocess.random_input(4, (192, 256))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, model_files: dict[str, Path], engine_file: Path) -> Path:
    """A folder with all files of the network; the tests damage one at a time."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name, path in (("config.py", model_files["config"]), ("model.pth", model_files["checkpoint"]),
                       ("model.onnx", model_files["onnx"]), ("model.engine", engine_file),
                       ("model.engine.json", f"{engine_file}.json")):
        shutil.copy(path, folder / name)
    return folder


def run_onnx(path: Path) -> list[np.ndarray]:
    """ONNX Runtime's outputs for :data:`CROPS`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(OUTPUTS, {"input": CROPS})


def assert_refused_or_network_of_mmpose(work: Path) -> None:
    """The files are refused, or the exported network computes what mmpose's does with the same two."""
    output = work / "exported.onnx"
    output.unlink(missing_ok=True)
    done = run_safely(work, output, "export", "--weight", work / "model.pth", "--cfg", work / "config.py", "--output",
                      output)
    assert output.exists() == (done.returncode == 0)
    if output.exists():
        network = judge.estimator(work / "config.py", work / "model.pth")
        with torch.no_grad():
            expected = network.head(network.backbone(torch.from_numpy(CROPS)))
        assert_close(run_onnx(output), [axis.numpy() for axis in expected])


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Equal up to a thousandth of the largest."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * max(1e-6, float(np.abs(theirs).max())))


@fuzz(0.04)
@given(data=st.data())
def test_bytes_of_the_checkpoint(work: Path, data: st.DataObject) -> None:
    with damaged(work / "model.pth", mutated_bytes(data.draw, (work / "model.pth").read_bytes())):
        assert_refused_or_network_of_mmpose(work)


HOSTILE_TENSORS = [
    torch.zeros(0), torch.full((3, 3), torch.nan), torch.zeros(8, 8, dtype=torch.int8),
    torch.zeros(4, dtype=torch.bool),
    torch.zeros(4, dtype=torch.complex64), torch.eye(4).to_sparse(), torch.zeros(4, device="meta"),
    torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), torch.zeros(2, 2, dtype=torch.float64)]


@fuzz(0.05)
@given(data=st.data())
def test_weights(work: Path, data: st.DataObject) -> None:
    draw, checkpoint = data.draw, torch.load(work / "model.pth", weights_only=True)
    weights = checkpoint["state_dict"]
    name = draw(st.sampled_from(sorted(weights)))
    tensor, action = weights.pop(name), draw(st.sampled_from(["replace", "type", "delete", "key", "content"]))
    if action == "replace":
        weights[name] = draw(st.one_of(st.sampled_from(HOSTILE_TENSORS), HOSTILE))
    elif action == "type":
        weights[name] = tensor.to(draw(st.sampled_from(
            [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64])))
    elif action == "key":
        weights[draw(st.sampled_from([1, None, "", "backbone", ("a",), b"a"]))] = tensor
    elif action == "content":
        weights[name] = tensor
        checkpoint = draw(st.sampled_from([weights, [weights], {"state_dict": list(weights)}, tensor, {}]))
    file = io.BytesIO()
    torch.save(checkpoint, file)
    with damaged(work / "model.pth", file.getvalue()):
        assert_refused_or_network_of_mmpose(work)


@fuzz(0.06)
@given(data=st.data())
def test_config(work: Path, data: st.DataObject) -> None:
    """A value of the config's ``model`` is replaced, as somebody who edits the file would do."""
    text = (work / "config.py").read_text()
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
def test_onnx(work: Path, data: st.DataObject) -> None:
    """The engine of a damaged graph computes what ONNX Runtime makes of it."""
    path, engine = work / "model.onnx", work / "rebuilt.engine"
    for file in work.glob("rebuilt.engine*"):
        file.unlink()
    content = path.read_bytes()
    changed = (mutated_bytes(data.draw, content) if data.draw(st.booleans())
               else mutated_graph(data.draw, onnx.load_from_string(content)))
    with damaged(path, changed):
        done = run_safely(work, engine, "build_engine", "--model_path", path, "--input", "input:4,3,256,192",
                          "--precision", "fp32", "--backend", "onnxruntime", "--engine_path", engine)
        assert engine.exists() == (done.returncode == 0)
        if engine.exists():
            assert_close(load_engine(engine).infer(CROPS), run_onnx(path))


def mutated_graph(draw: st.DrawFn, model: onnx.ModelProto) -> bytes:
    """A graph with a changed node, weight, input, output or header."""
    graph = model.graph
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
    tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]

    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    def keep_outside() -> None:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", pick("model.pth", "../x", "/dev/zero", "")),
                           ("length", pick("1000000000000000", "-1", "x", "4"))):
            tensor.external_data.add(key=key, value=value)

    changes: list[Callable[[], object]] = [
        lambda: setattr(node, "op_type", pick("Relu", "Loop", "NoSuchOperator", "")),
        lambda: node.input and node.input.__setitem__(0, pick("", "input", "no_such_tensor", tensor.name,
                                                              node.output[0])),
        lambda: node.ClearField("attribute"),
        lambda: graph.node.remove(node),
        lambda: setattr(tensor, "data_type", draw(st.integers(0, 30))),
        lambda: tensor.dims.append(pick(0, -1, 2, 10**12)),
        lambda: setattr(tensor, "raw_data", tensor.raw_data[:draw(st.integers(0, 16))]),
        keep_outside,
        lambda: setattr(graph.input[0].type.tensor_type, "elem_type", onnx.TensorProto.FLOAT16),
        lambda: setattr(graph.output[0], "name", pick("simcc_y", "other", "")),
        lambda: [setattr(entry, "value", pick("", "{}", "[" * 10**5, "\0", "1")) for entry in model.metadata_props],
        lambda: setattr(model.opset_import[0], "version", pick(0, -1, 1, 10**6)),
        lambda: setattr(graph.input[0].type.tensor_type.shape.dim[3], "dim_value", pick(0, -1, 191, 10**9))]
    pick(*changes)()
    return model.SerializeToString()


def assert_only_this_works(work: Path, path: Path, changed: bytes | str, is_same: bool) -> None:
    """The folder's engine is timed if a changed file of it is the same as before, and else refused."""
    shutil.rmtree(work / "output", ignore_errors=True)
    with damaged(path, changed):
        done = run_safely(work, work / "output", "inference", "--engine", work / "model.engine", "--perf_only",
                          "--iterations", 1, "--warmup", 1, "--duration", 0, "--output", work / "output")
    assert done.returncode == (0 if is_same else 2)


@fuzz(0.1)
@given(data=st.data())
def test_record(work: Path, data: st.DataObject) -> None:
    path, is_same = work / "model.engine.json", False
    original = json.loads(path.read_text())
    changed = mutated_json(data.draw, original)
    with contextlib.suppress(ValueError, RecursionError):
        is_same = json.dumps(json.loads(changed)) == json.dumps(original)
    assert_only_this_works(work, path, changed, is_same)


@fuzz(0.03)
@given(data=st.data())
def test_engine(work: Path, data: st.DataObject) -> None:
    original = (work / "model.engine").read_bytes()
    changed = mutated_bytes(data.draw, original)
    assert_only_this_works(work, work / "model.engine", changed, changed == original)
