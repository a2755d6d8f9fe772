"""Checkpoints: damage and weights of any other kind than the network's are found, each in one line."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rtmpose.errors import KitError
from rtmpose.model.checkpoint import load_network, load_state_dict

KEY = "head.cls_x.weight"
OTHER = f"1 keys of another shape or type: {KEY}"


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


@pytest.mark.parametrize(("content", "message"), [
    *[({"state_dict": {key: torch.zeros(1)}}, "holds no state_dict of tensors") for key in (3, None, ("a",), b"a")],
    *[(content, "holds no state_dict of tensors") for content in (3, [], "text", {}, {"state_dict": 3})],
    ({"first\nsecond": torch.zeros(1), "": torch.zeros(1), "x" * 10**6: torch.zeros(1)}, "3 keys unexpected: first, "),
], ids=lambda value: None)
def test_keys_and_contents_of_another_kind(model_files: dict[str, Path], tmp_path: Path, content: object, message: str
                                           ) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert message in refusal(model_files, tmp_path / "other.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    refusal(model_files, tmp_path / "plain.pth")


def test_fp16_and_bf16_weights_are_loaded(state: dict, model_files: dict[str, Path], tmp_path: Path) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()},
                   tmp_path / "other.pth")
        module = load_network(model_files["config"], tmp_path / "other.pth").module
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
