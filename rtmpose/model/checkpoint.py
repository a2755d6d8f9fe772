"""mmpose config and .pth checkpoint -> torch module; a checkpoint is data, and nothing in it runs."""

import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rtmpose.errors import KitError, first_line
from rtmpose.files import sha256
from rtmpose.model.config import build_estimator, read_config
from rtmpose.model.graph import Skeleton

# Objects that mmengine writes into a checkpoint beside the weights: its log buffers and the NumPy values in them.
_METADATA_GLOBALS = (
    "mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "numpy.ndarray", "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "UInt8", "Bool")),
)

# The digest at the end of a name that mmpose gives, e.g. -63eb25f7_20230126.pth; eight digits alone are a date.
_NAMED_DIGEST = re.compile(r"-(?!\d{8}\.)([0-9a-f]{8})(_\d{8})?\.pth$")


@dataclass(frozen=True)
class Network:
    """A network ready to export."""

    module: torch.nn.Module  # in evaluation mode: float32 (N, 3, H, W) -> simcc_x (N, K, Wx), simcc_y (N, K, Wy)
    input_size: tuple[int, int]
    skeleton: Skeleton  # its K keypoints
    left_out: list[str]  # names in the checkpoint that are no part of it, e.g. ema_backbone


class _SimCC(torch.nn.Module):
    """The network from normalised crops to logits, without mmpose's data samples."""

    def __init__(self, estimator: torch.nn.Module) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.estimator(crops, None, mode="tensor")


def load_network(config: str | Path, weights: str | Path) -> Network:
    """Build any RTMPose from its mmpose config, which is Python and is run, and load a checkpoint without running code.

    Raises KitError if a file is missing or broken, is not RTMPose, or the two don't belong together.
    """
    read = read_config(config)
    estimator = build_estimator(read.model, config)
    left_out = _load_weights(estimator, load_state_dict(weights), weights, config)
    return Network(_SimCC(estimator).eval(), read.input_size, read.skeleton, left_out)


def load_state_dict(path: str | Path) -> dict[str, Any]:
    """Read what mmengine takes from a checkpoint, by name, without running code from the file.

    That is its ``state_dict`` or else all of it, names without DataParallel's ``module.``; counts of training batches
    are left out. Raises KitError if the file is missing, damaged, holds anything but data, or no tensors.
    """
    if not Path(path).is_file():
        raise KitError(f"{path}: no such checkpoint, expected an RTMPose .pth; scripts/download.sh fetches one")
    _check_intact(path)
    try:
        with (torch.serialization.safe_globals([(_Inert, name) for name in _METADATA_GLOBALS]),
              warnings.catch_warnings()):
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken archive fails in many ways
        raise KitError(f"{path}: {_reason(path, str(error))}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not any(isinstance(name, str) and isinstance(value, torch.Tensor)
                                              for name, value in state.items()):
        found = list_keys([str(key) for key in state]) if isinstance(state, dict) else type(state).__name__
        raise KitError(f"{path}: holds no state_dict of tensors but {found or 'nothing'}, expected an RTMPose "
                       "checkpoint; save it as mmengine does: {'state_dict': ...}")
    return {name.removeprefix("module."): value for name, value in state.items()
            if isinstance(name, str) and not name.endswith("num_batches_tracked")}


def _reason(path: str | Path, error: str) -> str:
    """What is wrong with a file that PyTorch refuses to load with this error, and what to do."""
    if refused := re.search(r"GLOBAL (\S+)|unrecognized function (\S+)", error):
        return (f"refused, it holds objects that could run code ({refused[1] or refused[2]}); expected weights only, "
                "as torch.save(model.state_dict(), ...) writes them")
    with open(path, "rb") as file:
        safetensors = file.read(9)[8:] == b"{"  # after the length of its header
    if safetensors or "TorchScript" in error:
        return (f"is {'a safetensors' if safetensors else 'a TorchScript'} file, expected a checkpoint of PyTorch; "
                "save its weights with torch.save({'state_dict': ...}, 'NAME.pth')")
    return "is no PyTorch checkpoint or was cut off; fetch it again"


def _check_intact(path: str | Path) -> None:
    """Raise KitError if the digest in a checkpoint's name or a checksum of its zip archive says that it is damaged."""
    named = _NAMED_DIGEST.search(Path(path).name)
    if named and not (found := sha256(path)).startswith(named[1]):
        raise KitError(f"{path}: is damaged or another file: its SHA-256 begins with {found[:8]}, its name says "
                       f"{named[1]}; fetch it again, or rename it")
    try:
        # Older checkpoints are no zip archives, and have no checksums.
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None
    except Exception as error:  # a broken archive fails in many ways
        damaged = first_line(error)
    if damaged:
        raise KitError(f"{path}: is no PyTorch checkpoint or was cut off: damaged at {damaged}; fetch it again")


class _Inert:
    """Stands for the metadata objects of a checkpoint, none of which the kit needs."""

    def __init__(self, *args: object) -> None:
        pass

    __setstate__ = __init__


def _load_weights(estimator: torch.nn.Module, given: dict[str, Any], weights: str | Path, config: str | Path
                  ) -> list[str]:
    """Copy weights into a network, and return the names that are no part of it, which mmengine leaves out as well.

    Raises KitError unless all weights of the network are given, no others of its parts, and each in its shape, of its
    type and finite: it would give other keypoints than the one that was trained.
    """
    wanted = {name: tensor for name, tensor in estimator.state_dict().items()
              if not name.endswith("num_batches_tracked")}
    others = [name for name in given if name not in wanted]
    parts = {name.split(".")[0] for name in wanted}
    missing = [name for name in wanted if name not in given]
    mismatches = {"missing": missing,
                  "unexpected": [name for name in others if missing or name.split(".")[0] in parts],
                  "of another shape or type": [name for name, tensor in wanted.items()
                                               if name in given and not _fits(given[name], tensor)]}
    if found := [f"{len(keys)} keys {kind}: {list_keys(keys)}" for kind, keys in mismatches.items() if keys]:
        raise KitError(f"{weights}: does not fit {config}: {'; '.join(found)}; give the config of this checkpoint")
    if broken := [name for name in wanted if not given[name].float().isfinite().all()]:
        raise KitError(f"{weights}: holds NaN or infinity in {len(broken)} keys: {list_keys(broken)}; train it again, "
                       "or take another checkpoint")
    estimator.load_state_dict({name: given[name] for name in wanted}, strict=False)
    return others


def _fits(given: Any, wanted: torch.Tensor) -> bool:
    """Whether PyTorch would copy every number of one tensor into the other; sparse and quantized ones it can't."""
    return (isinstance(given, torch.Tensor) and given.layout == torch.strided and given.device.type == "cpu"
            and not given.is_nested and not given.is_quantized and given.shape == wanted.shape
            and (given.dtype == wanted.dtype or given.is_floating_point() and wanted.is_floating_point()))


def list_keys(keys: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(first_line(key, 60) for key in keys[:3]) + more
