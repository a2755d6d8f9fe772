"""Checkpoints: damage and weights of any other kind than the network's are found, each in one line."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import helpers
import judge
import pytest
import torch

from rtmpose.model.checkpoint import load_network, load_state_dict

KEY = "head.cls_x.weight"
OTHER = f"1 keys of another shape or type: {KEY}"
NO_NUMBER = f"holds NaN or infinity in 1 keys: {KEY}"


def refusal(model_files: dict[str, Path], checkpoint: Path) -> str:
    message = helpers.refusal(load_network, model_files["config"], checkpoint)
    assert message.startswith(f"{checkpoint}: ")
    return message


@pytest.fixture
def state(model_files: dict[str, Path]) -> dict:
    return torch.load(model_files["checkpoint"], weights_only=True)["state_dict"]


def invert(path: Path, start: int, target: Path, length: int = 64) -> Path:
    content = bytearray(path.read_bytes())
    content[start:start + length] = bytes(255 - byte for byte in content[start:start + length])
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_damaged_bytes_are_found_by_the_archives_checksums(model_files: dict[str, Path], tmp_path: Path, share: float
                                                           ) -> None:
    source = model_files["checkpoint"]
    damaged = invert(source, int(source.stat().st_size * share), tmp_path / "damaged.pth")
    assert "is no PyTorch checkpoint or was cut off: damaged at " in refusal(model_files, damaged)


@pytest.mark.parametrize("suffix", ["", "_20230126"])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_digest_in_the_name_is_compared(state: dict, model_files: dict[str, Path], tmp_path: Path, suffix: str,
                                            zipped: bool) -> None:
    """mmpose publishes checkpoints in PyTorch's older format, too, which has no checksums."""
    torch.save({"state_dict": state}, tmp_path / "weights", _use_new_zipfile_serialization=zipped)
    digest = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()[:8]
    named = tmp_path / f"rtmpose-t-{digest}{suffix}.pth"
    (tmp_path / "weights").rename(named)
    assert load_state_dict(named)
    invert(named, named.stat().st_size - 5000, named)
    assert f"its name says {digest}; fetch it again" in refusal(model_files, named)


def test_a_digest_of_digits_alone_is_one_before_a_date(model_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rtmpose-t-12345678_20230126.pth").write_bytes(model_files["checkpoint"].read_bytes())
    assert "its name says 12345678; fetch" in refusal(model_files, tmp_path / "rtmpose-t-12345678_20230126.pth")


@pytest.mark.parametrize("name", ["rtmpose-20230126.pth", "best-15032024.pth", "best-03152024.pth", "iter-00090000.pth",
                                  "rtmpose-t-1234567.pth", "epoch_420.pth", "a-0123456789.pth", "deadbeef.pth"])
def test_names_without_a_digest_are_no_matter(model_files: dict[str, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(model_files["checkpoint"].read_bytes())
    assert load_state_dict(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "message"), [
    (lambda weight: weight.to_sparse(), OTHER),
    (lambda weight: weight.to_sparse_csr(), OTHER),
    (lambda weight: weight.to("meta"), OTHER),
    (lambda weight: torch.nested.nested_tensor([weight, weight[:2]]), OTHER),
    (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), OTHER),
    (lambda weight: weight.to(torch.int8), OTHER),
    (lambda weight: weight > 0, OTHER),
    (lambda weight: weight.to(torch.complex64), OTHER),
    (lambda weight: weight[:-1], OTHER),
    (lambda weight: weight.new_zeros(()), OTHER),
    (lambda weight: weight.new_zeros(1).expand(10**7, 10**7), OTHER),
    (lambda weight: torch.where(weight < weight.max(), weight, float("nan")), NO_NUMBER),
    (lambda weight: weight.double() * 1e300, NO_NUMBER),
    (lambda weight: [weight], OTHER),
    (lambda weight: None, OTHER),
], ids=["sparse", "csr", "meta", "nested", "quantized", "int8", "bool", "complex", "shape", "scalar", "expanded", "nan",
        "huge", "list", "none"])
def test_weights_of_another_kind(state: dict, model_files: dict[str, Path], tmp_path: Path, change: Callable,
                                 message: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {**state, KEY: change(state[KEY])}}, tmp_path / "other.pth")
    capfd.readouterr()
    assert message in refusal(model_files, tmp_path / "other.pth")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("content", "message"), [
    *[({"state_dict": {key: torch.zeros(1)}}, "holds no state_dict of tensors") for key in (3, None, ("a",), b"a")],
    (3, "holds no state_dict of tensors but int, expected an RTMPose checkpoint"),
    ([], "holds no state_dict of tensors but list"),
    ({}, "holds no state_dict of tensors but nothing"),
    ({"state_dict": "text"}, "holds no state_dict of tensors but str"),
    ({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}, "of tensors but model, ema, expected"),
    (dict.fromkeys(range(9), 3), "of tensors but 0, 1, 2 and 6 more, expected"),
    ({"first\nsecond": torch.zeros(1), "": torch.zeros(1), "x" * 10**6: torch.zeros(1)},
     "185 keys missing: backbone.stem.0.conv.weight, backbone.stem.0.bn.weight, backbone.stem.0.bn.bias and 182 more; "
     "3 keys unexpected: first, str, xxx"),
    ({"backbone.stem.0.conv.weight": torch.zeros(1), "backbone.first\nsecond": 3, f"head.{'x' * 10**6}": 3},
     "; 2 keys unexpected: backbone.first, head.xxx"),
], ids=lambda value: None)
def test_keys_and_contents_of_another_kind(model_files: dict[str, Path], tmp_path: Path, content: object, message: str
                                           ) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert message in refusal(model_files, tmp_path / "other.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    refusal(model_files, tmp_path / "plain.pth")


def prefixed(state: dict) -> dict:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def untracked(state: dict) -> dict:
    return {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}


def averaged(state: dict) -> dict:
    """What mmengine's EMAHook saves: the average as the weights, and beside it the model's own in a wrapper."""
    other = prefixed({name: tensor * 2 for name, tensor in state.items()})
    return {"state_dict": state, "ema_state_dict": {"steps": torch.tensor(7), **other}}


@pytest.mark.parametrize(("change", "left_out"), [
    (lambda state: state, []),
    (lambda state: {"state_dict": prefixed(state), "meta": {}}, []),
    (prefixed, []),
    (averaged, []),
    (lambda state: {"steps": torch.tensor(7), **prefixed(state)}, ["steps"]),  # ema_state_dict, saved alone
    (lambda state: {"epoch": 3, "meta": {}, **state}, ["epoch", "meta"]),
    (untracked, []),
    (lambda state: {name: tensor.half() for name, tensor in state.items()}, []),
    (lambda state: {**state, "ema_backbone_stem": torch.zeros(1), "loss.weight": torch.zeros(2)},
     ["ema_backbone_stem", "loss.weight"]),
    (lambda state: {**state, "data_preprocessor.mean": torch.zeros(3)}, ["data_preprocessor.mean"]),
], ids=["official", "DataParallel", "DataParallel without state_dict", "EMAHook", "EMA alone", "other entries",
        "untracked", "half", "other keys", "data_preprocessor"])
def test_what_mmengine_loads_is_loaded(state: dict, model_files: dict[str, Path], tmp_path: Path, change: Callable,
                                       left_out: list[str]) -> None:
    torch.save(change(state), tmp_path / "other.pth")
    found = load_network(model_files["config"], tmp_path / "other.pth")
    assert found.left_out == left_out
    expected = judge.estimator(model_files["config"], tmp_path / "other.pth").state_dict()
    found_state = found.module.estimator.state_dict()
    assert len(untracked(found_state)) == len(untracked(state))
    for name, tensor in untracked(found_state).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("name", ["head.cls_x.weight", "backbone.stem.0.bn.running_mean", "head.mlp.0.g"])
def test_weights_without_which_mmengine_would_give_other_keypoints(state: dict, model_files: dict[str, Path],
                                                                   tmp_path: Path, name: str) -> None:
    """It would leave them as they were initialized; and leave out a layer that the config lacks."""
    torch.save({key: tensor for key, tensor in state.items() if key != name}, tmp_path / "other.pth")
    assert f"1 keys missing: {name}; give" in refusal(model_files, tmp_path / "other.pth")
    torch.save({**state, f"{name}_too": state[name]}, tmp_path / "other.pth")
    assert f"1 keys unexpected: {name}_too; give" in refusal(model_files, tmp_path / "other.pth")


@pytest.mark.filterwarnings("ignore")
def test_files_of_other_kinds_are_named(model_files: dict[str, Path], tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "other.pth").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "is a safetensors file, expected a checkpoint of PyTorch" in refusal(model_files, tmp_path / "other.pth")
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "other.pth")
    assert "is a TorchScript file, expected a checkpoint of PyTorch" in refusal(model_files, tmp_path / "other.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "other.pth")
    assert "refused, it holds objects that could run code (torch.nn.mod" in refusal(model_files, tmp_path / "other.pth")
