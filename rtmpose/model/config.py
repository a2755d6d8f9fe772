"""mmpose config -> the model to build, checked against what the kit does: the only file that knows mmpose.

A config is Python code that runs when it is read.

mmpose's import needs mmdet, xtcocotools and mmcv's compiled operators, for models and data sets other than RTMPose.
Each is hard to install: there are no wheels for current Python, NumPy or torch. So where one is missing, its imports
get empty modules, whose every attribute is an empty class. RTMPose uses nothing of them.
"""

import importlib
import importlib.util
import inspect
import sys
import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtmpose.data import preprocess
from rtmpose.errors import KitError, explained, first_line
from rtmpose.model.graph import Skeleton

# What the kit does, as mmpose's settings; a setting that a config leaves out has mmpose's default.
_SETTINGS: dict[str, dict[str, Any]] = {
    "data_preprocessor": {"type": "PoseDataPreprocessor", "mean": np.round(preprocess.MEAN.astype(float), 3).tolist(),
                          "std": np.round(preprocess.STD.astype(float), 3).tolist(), "bgr_to_rgb": True,
                          "rgb_to_bgr": False, "pad_size_divisor": 1},
    "head": {"type": "RTMCCHead", "simcc_split_ratio": 2.0},
    "decoder": {"type": "SimCCLabel", "input_size": "the head's", "simcc_split_ratio": 2.0, "normalize": False,
                "use_dark": False, "decode_visibility": False},
    # The pipeline:
    "LoadImage": {"type": "LoadImage", "to_float32": False, "color_type": "color", "imdecode_backend": "cv2"},
    "GetBBoxCenterScale": {"type": "GetBBoxCenterScale", "padding": preprocess.PADDING},
    "TopdownAffine": {"type": "TopdownAffine", "input_size": "the head's", "use_udp": False},
    "PackPoseInputs": {"type": "PackPoseInputs"},
}


@dataclass(frozen=True)
class ModelConfig:
    """An RTMPose config that does what the kit does."""

    model: dict[str, Any]  # for build_estimator
    input_size: tuple[int, int]  # width, height of the crop in pixels
    skeleton: Skeleton


def read_config(path: str | Path) -> ModelConfig:
    """Read an RTMPose config, so that it can be built without mmdet and without a process group.

    Raises KitError if the file is missing or broken, is not RTMPose, or crops, normalises or decodes in another way
    than the kit.
    """
    if not Path(path).is_file():
        raise KitError(f"{path}: no such config, expected an mmpose RTMPose config (.py)")
    import_mmpose()
    from mmengine.config import Config
    with (explained(f"{path}: can't be read as an mmengine config", "it is Python code, which must run without an "
                    "error and find its bases"), warnings.catch_warnings(action="ignore")):
        config = Config.fromfile(path).to_dict()
    model = config.get("model")
    head = _section(model, "head")
    if _kind(model) != "TopdownPoseEstimator" or _kind(head) != "RTMCCHead":
        found = f"{_kind(model) or 'no model'}, head {_kind(head) or 'none'},"
        raise KitError(f"{path}: {first_line(found)} is not supported; RTMPose's RTMCCHead is, in a "
                       "TopdownPoseEstimator")
    size = head.get("input_size")
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise KitError(f"{path}: head.input_size is {first_line(size, 80)}, expected width and height in pixels")
    dataset = _section(config.get("test_dataloader") or config.get("val_dataloader"), "dataset")
    _check_settings(path, model, dataset.get("pipeline"), size)
    with (explained(f"{path}: names no known keypoints in test_dataloader.dataset", "expected a data set of mmpose, or "
                    "metainfo"), warnings.catch_warnings(action="ignore")):
        skeleton = _read_skeleton(dataset)
    if head.get("out_channels") != len(skeleton.keypoints):
        raise KitError(f"{path}: head.out_channels is {first_line(head.get('out_channels'), 80)}, but its data set "
                       f"{skeleton.name} has {len(skeleton.keypoints)} keypoints; they must agree")
    return ModelConfig(_portable(model), (size[0], size[1]), skeleton)


def build_estimator(model: dict[str, Any], config: str | Path) -> torch.nn.Module:
    """Build mmpose's estimator, randomly initialised, from a config's model. Raises KitError if mmpose can't."""
    from mmengine.registry import DefaultScope
    from mmpose.registry import MODELS
    with (explained(f"{config}: mmpose can't build this model",
                    "check its sizes and names; classes of your own must be on PYTHONPATH"),
          warnings.catch_warnings(action="ignore"), DefaultScope.overwrite_default_scope("mmpose")):
        return MODELS.build(model)


def _section(node: Any, key: str) -> dict[str, Any]:
    """A part of a config, or an empty one if it isn't there or is no dict."""
    part = node.get(key) if isinstance(node, dict) else None
    return part if isinstance(part, dict) else {}


def _path(node: Any) -> str:
    """The ``type`` of a part of a config as text, e.g. mmpose.models.RTMCCHead for a class, or an empty text."""
    kind = node.get("type") if isinstance(node, dict) else None
    return f"{kind.__module__}.{kind.__name__}" if isinstance(kind, type) else str(kind or "")


def _kind(node: Any) -> str:
    """The ``type`` of a part of a config without the packages before it, or an empty text."""
    return _path(node).split(".")[-1]


def _check_settings(path: str | Path, model: dict[str, Any], pipeline: Any, size: Sequence[int]) -> None:
    """Raise KitError if a config crops, normalises or decodes in another way than the kit."""
    from mmpose import codecs, models
    from mmpose.datasets import transforms
    classes = {**vars(models), **vars(codecs), **vars(transforms)}
    head, steps = _section(model, "head"), pipeline if isinstance(pipeline, (list, tuple)) else []
    parts = [_section(model, "data_preprocessor"), head, _section(head, "decoder"), *steps]
    names = list(_SETTINGS)
    if [_kind(step) for step in steps] != names[3:]:
        found = first_line(", ".join(_kind(step) or "?" for step in steps) or "missing")
        raise KitError(f"{path}: the pipeline of test_dataloader.dataset is {found}, the kit's is "
                       f"{', '.join(names[3:])}")
    for name, part in zip(names, parts, strict=True):
        kind = classes[_SETTINGS[name]["type"]]
        defaults = {key: default.default for key, default in inspect.signature(kind).parameters.items()}
        given = {**defaults, **part, "type": _kind(part) or None}
        for key, wanted in _SETTINGS[name].items():
            wanted = size if key == "input_size" else wanted
            if not np.array_equal(given[key], wanted):
                raise KitError(f"{path}: {name}.{key} is {first_line(given[key], 80)}, the kit's is {wanted}; it would "
                               "crop or decode in another way than mmpose")
    if (kept := _section(model, "test_cfg").get("output_keypoint_indices")) is not None:
        raise KitError(f"{path}: test_cfg.output_keypoint_indices is {first_line(kept, 80)}, the kit gives all")


def _read_skeleton(dataset: dict[str, Any]) -> Skeleton:
    """The keypoints of a config's test set: of its ``metainfo``, or else of mmpose's class for the set."""
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.registry import DATASETS
    parsed = parse_pose_metainfo(dict(dataset.get("metainfo") or DATASETS.get(_kind(dataset)).METAINFO))
    names = [str(parsed["keypoint_id2name"][i]) for i in range(parsed["num_keypoints"])]
    return Skeleton(str(parsed["dataset_name"]), tuple(names))


def _portable(node: Any) -> Any:
    """Replace what needs mmdet (its CSPNeXt takes the same keys as mmpose's), a process group or a download."""
    if isinstance(node, dict):
        changed = {key: _portable(value) for key, value in node.items() if key not in ("init_cfg", "_scope_")}
        if _kind(changed) in ("SyncBN", "SyncBatchNorm"):
            changed["type"] = "BN"
        elif _path(changed).startswith(("mmdet.", "mmpose.")):
            changed["type"] = _kind(changed)
        return changed
    return [_portable(value) for value in node] if isinstance(node, list) else node


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
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module("mmpose.models")
    except ImportError as error:
        raise KitError(f"mmpose can't be imported ({error}); export.py needs mmpose, mmengine and mmcv: "
                       "run scripts/setup.sh") from error


class _EmptyModules(MetaPathFinder, Loader):
    """Answers imports of the given packages with empty modules."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        answered = any(f"{fullname}.".startswith(f"{package}.") for package in self.packages)
        return ModuleSpec(fullname, self, is_package=True) if answered else None

    def exec_module(self, module: types.ModuleType) -> None:
        def empty_class(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__module__": module.__name__})

        vars(module)["__getattr__"] = empty_class
