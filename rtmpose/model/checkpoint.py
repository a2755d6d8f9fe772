"""mmpose config and .pth checkpoint -> torch module: the only file that knows mmpose.

mmpose's import needs mmdet, xtcocotools and mmcv's compiled operators, for models and data sets other than RTMPose.
Each is hard to install: there are no wheels for current Python, NumPy or torch. So where one is missing, its imports
get empty modules, whose every attribute is an empty class. RTMPose uses nothing of them.
"""

import importlib
import importlib.util
import re
import sys
import types
import warnings
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtmpose.data import preprocess
from rtmpose.errors import KitError

# Objects that mmengine writes into a checkpoint beside the weights: its log buffers and the NumPy values in them.
_METADATA_GLOBALS = (
    "mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "numpy.ndarray", "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "UInt8", "Bool")),
)


@dataclass(frozen=True)
class Network:
    """A network ready to export."""

    module: torch.nn.Module  # in evaluation mode: float32 (N, 3, H, W) -> simcc_x (N, K, Wx), simcc_y (N, K, Wy)
    input_size: tuple[int, int]
    num_keypoints: int  # K


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
    model = read_config(config)
    state = load_state_dict(weights)
    estimator = build_estimator(model, config)
    _check_keys(estimator.state_dict(), state, weights, config)
    estimator.load_state_dict(state)
    head = model["head"]
    return Network(_SimCC(estimator).eval(), tuple(head["input_size"]), head["out_channels"])


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the ``model`` of an RTMPose config, so that it can be built without mmdet and without a process group.

    Raises KitError if the file is missing or broken, is not RTMPose, or normalises crops in another way.
    """
    if not Path(path).is_file():
        raise KitError(f"{path}: no such config, expected an mmpose RTMPose config (.py)")
    import_mmpose()
    from mmengine.config import Config
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is Python: it can raise anything
        raise KitError(f"{path}: can't be read as an mmengine config ({_first_line(error)})") from error
    model = config.get("model")
    head = model.get("head") if isinstance(model, dict) else None
    if not isinstance(head, dict) or str(head.get("type")).split(".")[-1] != "RTMCCHead":
        raise KitError(f"{path}: is no RTMPose config, expected a model whose head is an RTMCCHead")
    found = model.get("data_preprocessor", {})
    for key, expected in (("mean", preprocess.MEAN), ("std", preprocess.STD), ("bgr_to_rgb", np.array(True))):
        if not np.array_equal(np.array(found.get(key), expected.dtype), expected):
            raise KitError(f"{path}: data_preprocessor.{key} is {found.get(key)}, the kit's is {expected.tolist()}")
    return _portable(model.to_dict())


def _portable(node: Any) -> Any:
    """Replace what needs mmdet (its CSPNeXt takes the same keys as mmpose's), a process group or a download."""
    if isinstance(node, dict):
        changed = {key: _portable(value) for key, value in node.items() if key not in ("init_cfg", "_scope_")}
        if isinstance(changed.get("type"), str):
            kind = changed["type"].removeprefix("mmdet.").removeprefix("mmpose.")
            changed["type"] = "BN" if kind == "SyncBN" else kind
        return changed
    return [_portable(value) for value in node] if isinstance(node, list) else node


def build_estimator(model: dict[str, Any], config: str | Path) -> torch.nn.Module:
    """Build mmpose's estimator, randomly initialised, from a config's model. Raises KitError if mmpose can't."""
    from mmengine.registry import DefaultScope
    from mmpose.registry import MODELS
    try:
        with DefaultScope.overwrite_default_scope("mmpose"):
            return MODELS.build(model)
    except Exception as error:  # mmengine re-raises whatever a layer's constructor raised
        raise KitError(f"{config}: mmpose can't build this model ({_first_line(error)})") from error


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, by name, without running code from the file.

    Raises KitError if the file is missing, truncated, holds anything but data, or no weights.
    """
    if not Path(path).is_file():
        raise KitError(f"{path}: no such checkpoint, expected an RTMPose .pth; scripts/download.sh fetches one")
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _METADATA_GLOBALS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken archive fails in many ways
        refused = re.search(r"GLOBAL (\S+)|unrecognized function (\S+)", str(error))
        if refused:
            raise KitError(f"{path}: refused, it holds objects that could run code ({refused[1] or refused[2]}); "
                           "expected weights only") from error
        raise KitError(f"{path}: is no PyTorch checkpoint or was cut off; fetch it again") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise KitError(f"{path}: holds no state_dict of tensors, expected an RTMPose checkpoint")
    # The kit normalises crops itself.
    return {name: tensor for name, tensor in state.items() if not name.startswith("data_preprocessor.")}


class _Inert:
    """Stands for the metadata objects of a checkpoint, none of which the kit needs."""

    def __init__(self, *args: object) -> None:
        pass

    __setstate__ = __init__


def _check_keys(wanted: dict[str, Any], given: dict[str, Any], weights: str | Path, config: str | Path) -> None:
    mismatches = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [key for key in given if key in wanted and given[key].shape != wanted[key].shape],
    }
    found = [f"{len(keys)} keys {kind}: {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
             for kind, keys in mismatches.items() if keys]
    if found:
        raise KitError(f"{weights}: does not fit {config}: {'; '.join(found)}; give the config of this checkpoint")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def import_mmpose() -> None:
    """Import what builds RTMPose. Raises KitError if mmpose, mmengine or mmcv is not installed."""
    if "mmpose.models" in sys.modules:
        return
    try:
        probes = {"mmcv.ops": "mmcv._ext", "mmdet": "mmdet", "xtcocotools": "xtcocotools"}
        missing = [name for name, probe in probes.items() if importlib.util.find_spec(probe) is None]
        sys.meta_path.insert(0, _EmptyModules(missing))
        # mmpose was written for older versions of torch, which warns at every call.
        warnings.filterwarnings("ignore", category=FutureWarning, module="mmpose")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("mmpose.models")
    except ImportError as error:
        raise KitError(f"mmpose can't be imported ({error}); export.py needs mmpose, mmengine and mmcv: "
                       "run scripts/setup.sh") from error


class _EmptyModules(MetaPathFinder, Loader):
    """Answers imports of the given packages with empty modules."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if any(f"{fullname}.".startswith(f"{package}.") for package in self.packages):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__getattr__"] = _empty_class


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
