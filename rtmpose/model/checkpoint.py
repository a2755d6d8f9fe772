"""mmpose config and .pth checkpoint to a torch module: the only file that knows mmpose.

mmpose imports mmdet, xtcocotools and mmcv's compiled operators when it is imported, for models and data sets other
than RTMPose. None of them is needed here, and each is hard to install (no wheels for current Python, NumPy or
torch). So where one is missing, an import of it is answered with an empty module, whose every attribute is an empty
class: enough for mmpose to import, and nothing of it is called by RTMPose.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rtmpose.data import preprocess
from rtmpose.errors import KitError

_HEAD = "RTMCCHead"


class _EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of the given packages with empty modules."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)

    def find_spec(self, fullname: str, path: object = None, target: object = None
                  ) -> importlib.machinery.ModuleSpec | None:
        if any(fullname == package or fullname.startswith(f"{package}.") for package in self.packages):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = _empty_class
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def import_mmpose() -> None:
    """Import what of mmpose builds RTMPose.

    Raises:
        KitError: mmpose, mmengine or mmcv is not installed.
    """
    if "mmpose.models" in sys.modules:
        return
    try:
        missing = [name for name, probe in
                   (("mmcv.ops", "mmcv._ext"), ("mmdet", "mmdet"), ("xtcocotools", "xtcocotools"))
                   if importlib.util.find_spec(probe) is None]
        sys.meta_path.insert(0, _EmptyModules(missing))
        # mmpose was written for older versions of torch, which tells so at every call.
        warnings.filterwarnings("ignore", category=FutureWarning, module="mmpose")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("mmpose.models")
    except ImportError as error:
        raise KitError(f"mmpose can't be imported ({error}); export.py needs mmpose, mmengine and mmcv: "
                       "run scripts/setup.sh") from error


@dataclass(frozen=True)
class Network:
    """A network ready to export.

    Attributes:
        module: float32, in evaluation mode; float32 (N, 3, H, W) to ``simcc_x`` (N, K, Wx), ``simcc_y`` (N, K, Wy).
        input_size: width and height of the crop in pixels.
        num_keypoints: K.
    """

    module: torch.nn.Module
    input_size: tuple[int, int]
    num_keypoints: int


class _SimCC(torch.nn.Module):
    """The network from normalised crops to logits, without mmpose's data samples."""

    def __init__(self, estimator: torch.nn.Module) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.estimator(crops, None, mode="tensor")


def load_network(config: str | Path, weights: str | Path) -> Network:
    """Build RTMPose from a config and fill it from a checkpoint.

    Args:
        config: an mmpose config of any RTMPose (mmengine's form). It is Python, and reading it runs it.
        weights: a checkpoint in mmengine's form; loaded without running code, and strictly.

    Raises:
        KitError: a file is missing or broken, is not RTMPose, or the two don't belong together.
    """
    model = read_config(config)
    state = load_state_dict(weights)
    estimator = build_estimator(model, config)
    _fill(estimator, state, weights, config)
    head = model["head"]
    return Network(_SimCC(estimator).eval(), tuple(head["input_size"]), head["out_channels"])


def build_estimator(model: dict[str, Any], config: str | Path) -> torch.nn.Module:
    """mmpose's own estimator, randomly initialised, from what :func:`read_config` gave.

    Raises:
        KitError: mmpose can't build it.
    """
    from mmengine.registry import DefaultScope
    from mmpose.registry import MODELS
    try:
        with DefaultScope.overwrite_default_scope("mmpose"):
            return MODELS.build(model)
    except Exception as error:  # mmengine re-raises whatever a layer's constructor raised
        raise KitError(f"{config}: mmpose can't build this model ({_first_line(error)})") from error


def read_config(path: str | Path) -> dict[str, Any]:
    """The ``model`` of an RTMPose config, made buildable without mmdet and without a process group.

    Raises:
        KitError: the file is missing or broken, or describes no RTMPose with the kit's contract.
    """
    path = Path(path)
    if not path.is_file():
        raise KitError(f"{path}: no such config, expected an mmpose RTMPose config (.py)")
    import_mmpose()
    from mmengine.config import Config
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is Python: it can raise anything
        raise KitError(f"{path}: can't be read as an mmengine config ({_first_line(error)})") from error
    model = config.get("model")
    head = model.get("head") if isinstance(model, dict) else None
    if not isinstance(head, dict) or str(head.get("type")).split(".")[-1] != _HEAD:
        raise KitError(f"{path}: is no RTMPose config, expected a model whose head is an {_HEAD}")
    _check_contract(path, model)
    return _portable(model.to_dict() if hasattr(model, "to_dict") else model)


def _check_contract(path: Path, model: dict[str, Any]) -> None:
    """The crop's arithmetic is fixed (see rtmpose/crop.py): refuse a model that wants another."""
    found = model.get("data_preprocessor", {})
    expected = {"mean": preprocess.MEAN, "std": preprocess.STD, "bgr_to_rgb": True}
    for key, value in expected.items():
        given = found.get(key)
        same = given is True if value is True else (
            given is not None and len(given) == 3 and torch.tensor(given).allclose(torch.from_numpy(value)))
        if not same:
            raise KitError(f"{path}: data_preprocessor.{key} is {given}, the kit's crops have "
                           f"{value if value is True else value.tolist()}")


def _portable(node: Any) -> Any:
    """Take mmdet's CSPNeXt (the same keys as mmpose's), SyncBN and pretrained backbones out of a model."""
    if isinstance(node, dict):
        changed = {key: _portable(value) for key, value in node.items() if key not in ("init_cfg", "_scope_")}
        kind = changed.get("type")
        if isinstance(kind, str):
            kind = kind.removeprefix("mmdet.").removeprefix("mmpose.")
            changed["type"] = "BN" if kind == "SyncBN" else kind
        return changed
    return [_portable(value) for value in node] if isinstance(node, list) else node


class _Inert:
    """Stands for metadata objects of a checkpoint, of which the kit needs nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What mmengine writes into a checkpoint beside the weights: its log buffers and the NumPy values in them.
_METADATA_GLOBALS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "UInt8", "Bool")),
)


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, by name; no code in the file is run.

    mmengine's and NumPy's objects in the metadata are allowed by name and replaced with inert ones.

    Raises:
        KitError: the file is missing, truncated, holds anything else than data, or no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise KitError(f"{path}: no such checkpoint, expected an RTMPose .pth; scripts/download.sh fetches the "
                       "official one")
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
    return state


def _fill(estimator: torch.nn.Module, state: dict[str, torch.Tensor], weights: str | Path, config: str | Path) -> None:
    """Load weights strictly, or list what doesn't fit."""
    wanted = estimator.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith("data_preprocessor.")}
    problems = {
        "missing": [key for key in wanted if key not in given and not key.startswith("data_preprocessor.")],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [key for key in given if key in wanted and given[key].shape != wanted[key].shape],
    }
    told = [f"{len(keys)} keys {what}: {_some(keys)}" for what, keys in problems.items() if keys]
    if told:
        raise KitError(f"{weights}: does not fit {config}: {'; '.join(told)}; give the config of this checkpoint")
    estimator.load_state_dict(given, strict=True)


def _some(keys: list[str], number: int = 8) -> str:
    return ", ".join(keys[:number]) + (f", and {len(keys) - number} more" if len(keys) > number else "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
