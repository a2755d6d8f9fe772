"""Checkpoints: damage and weights of any other kind than the network's are found, each in one line."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from rtmpose.errors import KitError
from rtmpose.model.checkpoint import load_network, load_state_dict

KEY = "head.cls_x.weight"


def refusal(model_files: dict[str, Path], checkpoint: Path) -> str:
    with pytest.raises(KitError) as raised:
        load_network(model_files["config"], checkpoint)
    message = str(raised.value)
    assert message.startswith(f"{checkpoint}: ") and "\n" not in message and len(message) < 1500
    return message.removeprefix(f"{checkpoint}: ")


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
    assert load_state_dict(named).keys() == state.keys()
    invert(named, named.stat().st_size - 5000, named)
    assert f"its name says {digest}; fetch it again" in refusal(model_files, named)


@pytest.mark.parametrize("name", ["rtmpose-20230126.pth", "rtmpose-t-1234567.pth", "epoch_420.pth", "a-0123456789.pth"])
def test_names_without_a_digest_are_no_matter(model_files: dict[str, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(model_files["checkpoint"].read_bytes())
    assert load_state_dict(tmp_path / name)


def test_the_demos_checkpoint_has_the_digest_of_its_name() -> None:
    (checkpoint,) = (ROOT / "demo").glob("*.pth")
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:8] in checkpoint.name
    assert load_state_dict(checkpoint)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "message"), [
    (lambda weight: weight.to_sparse(), f"that are no plain arrays: {KEY}"),
    (lambda weight: weight.to_sparse_csr(), f"that are no plain arrays: {KEY}"),
    (lambda weight: weight.to("meta"), f"that are no plain arrays: {KEY}"),
    (lambda weight: torch.nested.nested_tensor([weight, weight[:2]]), ""),
    (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), ""),
    (lambda weight: weight.to(torch.int8), f"of another type: {KEY}"),
    (lambda weight: weight > 0, f"of another type: {KEY}"),
    (lambda weight: weight.to(torch.complex64), f"of another type: {KEY}"),
    (lambda weight: weight[:-1], f"of another shape: {KEY}"),
    (lambda weight: weight.new_zeros(()), f"of another shape: {KEY}"),
    (lambda weight: weight.new_zeros(1).expand(10**7, 10**7), f"of another shape: {KEY}"),
    (lambda weight: weight * float("nan"), f"holds NaN or infinity in 1 keys: {KEY}"),
    (lambda weight: weight.double() * 1e300, f"holds NaN or infinity in 1 keys: {KEY}"),
    (lambda weight: [weight], "holds no state_dict of tensors"),
    (lambda weight: None, "holds no state_dict of tensors"),
], ids=["sparse", "csr", "meta", "nested", "quantized", "int8", "bool", "complex", "shape", "scalar", "expanded", "nan",
        "huge", "list", "none"])
def test_weights_of_another_kind(state: dict, model_files: dict[str, Path], tmp_path: Path, change: Callable,
                                 message: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {**state, KEY: change(state[KEY])}}, tmp_path / "other.pth")
    capfd.readouterr()
    assert message in refusal(model_files, tmp_path / "other.pth")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("key", [3, None, ("a", "b"), b"bytes", 1.5, True])
def test_keys_that_are_no_text(state: dict, model_files: dict[str, Path], tmp_path: Path, key: object) -> None:
    torch.save({"state_dict": {**state, key: state[KEY]}}, tmp_path / "other.pth")
    assert "holds no state_dict of tensors" in refusal(model_files, tmp_path / "other.pth")


def test_keys_of_any_text(state: dict, model_files: dict[str, Path], tmp_path: Path) -> None:
    torch.save({"state_dict": {**state, "first\nsecond": state[KEY], "": state[KEY], "x" * 10**6: state[KEY]}},
               tmp_path / "other.pth")
    assert "3 keys unexpected: first, " in refusal(model_files, tmp_path / "other.pth")


@pytest.mark.parametrize("content", [3, [], "text", {}, {"state_dict": 3}, {"state_dict": {}}])
def test_no_weights_at_all(model_files: dict[str, Path], tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "holds no state_dict of tensors" in refusal(model_files, tmp_path / "other.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    refusal(model_files, tmp_path / "plain.pth")


def test_fp16_and_bf16_weights_are_loaded(state: dict, model_files: dict[str, Path], tmp_path: Path) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()},
                   tmp_path / "other.pth")
        module = load_network(model_files["config"], tmp_path / "other.pth").module
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
