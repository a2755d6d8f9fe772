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


# The digest at the end of a name that mmpose gives, e.g. -63eb25f7_20230126.pth; eight digits alone may be a date.
_NAMED_DIGEST = re.compile(r"-(?!20\d{6}\b)([0-9a-f]{8})(_\d{8})?\.pth$")


@dataclass(frozen=True)
class Network:
    """A network ready to export."""

    module: torch.nn.Module  # in evaluation mode: float32 (N, 3, H, W) -> simcc_x (N, K, Wx), simcc_y (N, K, Wy)
    input_size: tuple[int, int]
    skeleton: Skeleton  # its K keypoints


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
    state = load_state_dict(weights)
    estimator = build_estimator(read.model, config)
    _check_weights(estimator.state_dict(), state, weights, config)
    estimator.load_state_dict(state)
    return Network(_SimCC(estimator).eval(), read.input_size, read.skeleton)


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, by name, without running code from the file.

    Raises KitError if the file is missing, damaged, holds anything but data, or no weights.
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
        refused = re.search(r"GLOBAL (\S+)|unrecognized function (\S+)", str(error))
        if refused:
            raise KitError(f"{path}: refused, it holds objects that could run code ({refused[1] or refused[2]}); "
                           "expected weights only") from error
        raise KitError(f"{path}: is no PyTorch checkpoint or was cut off; fetch it again") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not (isinstance(state, dict) and state and all(isinstance(name, str) and isinstance(tensor, torch.Tensor)
                                                      for name, tensor in state.items())):
        raise KitError(f"{path}: holds no state_dict of tensors, expected an RTMPose checkpoint")
    # The kit normalises crops itself.
    return {name: tensor for name, tensor in state.items() if not name.startswith("data_preprocessor.")}


def _check_intact(path: str | Path) -> None:
    """Raise KitError if the digest in a checkpoint's name or a checksum of its zip archive says that it is damaged."""
    named = _NAMED_DIGEST.search(Path(path).name)
    if named and not (found := sha256(path)).startswith(named[1]):
        raise KitError(f"{path}: is damaged or another file: its SHA-256 begins with {found[:8]}, its name says "
                       f"{named[1]}; fetch it again")
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


def _check_weights(wanted: dict[str, Any], given: dict[str, Any], weights: str | Path, config: str | Path) -> None:
    """Raise KitError unless the weights fit the network: names, shapes, types, and all of them finite numbers."""
    both = {key: tensor for key, tensor in given.items() if key in wanted}
    mismatches = {"missing": [key for key in wanted if key not in given],
                  "unexpected": [key for key in given if key not in wanted],
                  "of another shape or type": [key for key in both if not _fits(given[key], wanted[key])]}
    if found := [f"{len(keys)} keys {kind}: {_list(keys)}" for kind, keys in mismatches.items() if keys]:
        raise KitError(f"{weights}: does not fit {config}: {'; '.join(found)}; give the config of this checkpoint")
    if broken := [key for key, tensor in both.items() if not tensor.float().isfinite().all()]:
        raise KitError(f"{weights}: holds NaN or infinity in {len(broken)} keys: {_list(broken)}; train it again, or "
                       "take another checkpoint")


def _fits(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether PyTorch would copy every number of one tensor into the other; sparse and quantized ones it can't."""
    return (given.layout == torch.strided and given.device.type == "cpu" and not given.is_nested
            and not given.is_quantized and given.shape == wanted.shape
            and (given.dtype == wanted.dtype or given.is_floating_point() and wanted.is_floating_point()))


def _list(keys: list[str]) -> str:
    return ", ".join(first_line(key, 60) for key in keys[:8]) + (", ..." if len(keys) > 8 else "")
