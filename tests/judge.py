"""mmpose's own classes and pycocotools, run for real: what the tests hold the kit against."""

import contextlib
import copy
import importlib
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.data.coco import ANNOTATIONS
from rtmpose.model.config import build_estimator, import_mmpose, read_config

INPUT_SIZE = (192, 256)

NAMES = {"AP": "AP", "AP .5": "AP50", "AP .75": "AP75", "AP (M)": "APM", "AP (L)": "APL",
         "AR": "AR", "AR .5": "AR50", "AR .75": "AR75", "AR (M)": "ARM", "AR (L)": "ARL"}
"""What the kit calls the numbers that ``CocoMetric`` gives."""


def _xtcocotools_is_real() -> bool:
    """Whether xtcocotools is installed, and not one of the empty modules of rtmpose.checkpoint."""
    spec = importlib.util.find_spec("xtcocotools")
    return spec is not None and spec.origin is not None


needs_xtcocotools = pytest.mark.skipif(
    not _xtcocotools_is_real(),
    reason="needs xtcocotools, which scripts/test.sh builds: mmpose's CocoDataset and CocoMetric stand on it")


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The same values (NaN where NaN is) in the same type."""
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def mmpose(module: str) -> ModuleType:
    """A module of mmpose, e.g. ``codecs``."""
    import_mmpose()
    return importlib.import_module(f"mmpose.{module}")


def instance_data(**fields: np.ndarray) -> Any:
    """mmengine's ``InstanceData`` with these fields."""
    from mmengine.structures import InstanceData
    return InstanceData(**fields)


def coco_metainfo() -> Path:
    """The file in which mmpose describes COCO's keypoints."""
    return Path(mmpose("datasets").__file__).parents[1] / ".mim/configs/_base_/datasets/coco.py"


def coco_description() -> dict[str, Any]:
    """What mmpose makes of it."""
    return mmpose("datasets.datasets").utils.parse_pose_metainfo({"from_file": str(coco_metainfo())})


def coco_dataset(folder: Path, input_size: tuple[int, int] = INPUT_SIZE, detections: Path | None = None
                 ) -> Any:
    """mmpose's ``CocoDataset`` for testing, with the pipeline of the published RTMPose configs."""
    datasets = mmpose("datasets")
    transforms = datasets.transforms
    return datasets.CocoDataset(
        data_root=str(folder), ann_file=str(ANNOTATIONS), data_prefix={"img": "images/val2017/"},
        bbox_file=str(detections) if detections else None, data_mode="topdown", test_mode=True, serialize_data=False,
        metainfo={"from_file": str(coco_metainfo())},
        pipeline=[transforms.LoadImage(), transforms.GetBBoxCenterScale(),
                  transforms.TopdownAffine(input_size=input_size),
                  transforms.PackPoseInputs(pack_transformed=True)])


def preprocess(dataset: Any) -> tuple[np.ndarray, list[Any]]:
    """All persons through ``PoseDataPreprocessor``: float32 (N, 3, H, W), and their data samples."""
    preprocessor = mmpose("models.data_preprocessors").PoseDataPreprocessor(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    items = list(dataset)
    data = preprocessor({"inputs": [item["inputs"] for item in items],
                         "data_samples": [item["data_samples"] for item in items]})
    return data["inputs"].numpy(), data["data_samples"]


def codec(input_size: tuple[int, int] = INPUT_SIZE) -> Any:
    """The ``SimCCLabel`` of the published RTMPose-m config."""
    sigma = {(192, 256): (4.9, 5.66), (288, 384): (6.0, 6.93)}[input_size]
    return mmpose("codecs").SimCCLabel(input_size=input_size, sigma=sigma, simcc_split_ratio=2.0,
                                       normalize=False)


def estimator(config: Path, checkpoint: Path | None = None) -> Any:
    """mmpose's ``TopdownPoseEstimator`` of a config, ready to test, with what mmengine loads of a checkpoint."""
    from mmengine.runner.checkpoint import load_checkpoint
    built = build_estimator(read_config(config).model, config)
    if checkpoint:
        load_checkpoint(built, str(checkpoint), "cpu")
    return built.eval()


def predict(sample: Any, keypoints: np.ndarray, scores: np.ndarray) -> None:
    """Put keypoints (17, 2) in image pixels and scores (17,) into a data sample as its prediction."""
    sample.pred_instances = instance_data(
        keypoints=keypoints[None], keypoint_scores=scores[None], bboxes=sample.gt_instances.bboxes,
        bbox_scores=sample.gt_instances.bbox_scores)


def evaluate(dataset: Any, samples: list[Any], folder: Path) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """``CocoMetric`` on predicted data samples: the ten numbers, and the results that it writes as JSON into
    ``folder``, each with the ``id`` of its data sample."""
    kept = []

    class Metric(mmpose("evaluation.metrics").CocoMetric):
        def results2json(self, keypoints: dict[int, list], outfile_prefix: str) -> None:
            kept.extend(instance["id"] for group in keypoints.values() for instance in group)
            super().results2json(keypoints, outfile_prefix)

    metric = Metric(ann_file=dataset.ann_file, outfile_prefix=str(folder / "mmpose"))
    metric.dataset_meta = dataset.metainfo
    metric.process({}, [sample.to_dict() for sample in samples])
    numbers = metric.compute_metrics(metric.results)
    written = json.loads((folder / "mmpose.keypoints.json").read_text())
    return ({NAMES[name]: float(number) for name, number in numbers.items()},
            [{**result, "id": identity} for result, identity in zip(written, kept, strict=True)])


def coco_eval(content: dict, results: list[dict], kind: type[COCOeval] = COCOeval) -> COCOeval:
    """Plain pycocotools' evaluation, or another ``kind``, of results with the content of an annotation file."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = kind(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
