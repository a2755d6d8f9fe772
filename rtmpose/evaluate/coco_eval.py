"""Predictions -> the ten COCO numbers, as mmpose's ``CocoMetric`` computes them.

Rescoring, OKS-NMS and the choice of annotations follow ``CocoMetric``; the numbers are pycocotools'.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.data.annotations import Annotations
from rtmpose.data.dataset import PersonSet
from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import write_bytes

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
OKS_NMS_THRESHOLD = 0.9
SIGMAS = np.array([.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107,
                   .087, .087, .089, .089], np.float32)
"""Standard deviation of each COCO keypoint, relative to the person's size; float32 as in mmpose's OKS-NMS."""


def rescore(scores: np.ndarray, box_scores: np.ndarray) -> np.ndarray:
    """Box score times the mean of the keypoint scores above 0.2 (``CocoMetric``, ``bbox_keypoint``).

    Takes float32 (N, K) and (N,); returns float32 (N,), 0 where no keypoint is above the threshold.
    """
    counted = scores > KEYPOINT_SCORE_THRESHOLD
    # cumsum adds in order, as CocoMetric's loop does; sum adds pairwise and rounds differently.
    totals = np.cumsum(np.where(counted, scores, np.float32(0)), axis=1, dtype=np.float32)[:, -1]
    return box_scores * (totals / np.maximum(counted.sum(axis=1), 1).astype(np.float32))


def oks(keypoints: np.ndarray, area: np.float32, others: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity of one person with N others (mmpose ``oks_iou``), float32 (N,), from 0 to 1.

    Takes keypoints as float32 (17, 2) and (N, 17, 2), areas in square pixels as float32 and float32 (N,).
    """
    variances = (SIGMAS * 2) ** 2
    squared = ((others - keypoints) ** 2).sum(axis=-1)
    mean_areas = (area + areas) / 2 + np.spacing(1)
    return np.exp(-(squared / variances / mean_areas[:, None] / 2)).mean(axis=-1).astype(np.float32)


def oks_nms(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> list[int]:
    """Indices of the persons that non-maximum suppression keeps, best first (mmpose ``oks_nms`` at 0.9).

    Takes float32 (N, 17, 2), (N,) and (N,).
    """
    order = scores.argsort()[::-1]
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        order = rest[oks(keypoints[best], areas[best], keypoints[rest], areas[rest]) <= OKS_NMS_THRESHOLD]
    return keep


def to_results(predictions: Predictions, category_id: int | str = 1) -> list[dict[str, Any]]:
    """Rescore, apply OKS-NMS, and convert to COCO's result format.

    The results are in the order in which ``CocoMetric`` evaluates them: image by image, best person first. Each has
    ``image_id``, ``category_id``, ``keypoints`` (x, y, score of 17, float64 (51,)), ``score``, ``bbox`` (x, y, width,
    height) and ``index`` (:attr:`Person.index`). A person without a positive keypoint score is left out, as by
    CocoMetric's evaluator. ``category_id`` is the annotations' person.
    """
    persons = predictions.persons
    scores = rescore(predictions.scores, np.array([person.score for person in persons], np.float32))
    areas = predictions.scales[:, 0] * predictions.scales[:, 1]
    by_image: dict[int, list[int]] = {}
    for row in sorted(range(len(persons)), key=lambda row: persons[row].index):
        by_image.setdefault(persons[row].image_id, []).append(row)
    results = []
    for rows in by_image.values():
        kept = [rows[i] for i in oks_nms(predictions.keypoints[rows], scores[rows], areas[rows])]
        results += [_result(predictions, row, scores[row], category_id) for row in kept
                    if (predictions.scores[row] > 0).any()]
    return results


def _result(predictions: Predictions, row: int, score: np.float32, category_id: int | str) -> dict[str, Any]:
    person = predictions.persons[row]
    x1, y1, x2, y2 = person.bbox
    keypoints = np.column_stack([predictions.keypoints[row], predictions.scores[row]])
    return {
        "image_id": person.image_id,
        "category_id": category_id,
        "keypoints": keypoints.astype(np.float64).ravel(),
        "score": float(score),
        "bbox": np.stack([x1, y1, x2 - x1, y2 - y1]).tolist(),
        "index": person.index,
    }


def write_keypoints(path: Path, results: list[dict[str, Any]]) -> None:
    """Write results in COCO result format, in the order of the annotations."""
    lines = []
    for result in sorted(results, key=lambda result: result["index"]):
        written = {**result, "keypoints": result["keypoints"].tolist()}
        del written["index"]
        lines.append(json.dumps(written, allow_nan=False))
    write_bytes(path, ("[" + ",\n ".join(lines) + "]\n").encode())


def evaluate(results: list[dict[str, Any]], persons: PersonSet) -> tuple[dict[str, float], str]:
    """Compute COCO's ten keypoint numbers of results that :func:`to_results` returned.

    Returns the numbers by name (:data:`METRICS`), from 0 to 1 (-1 where nothing could be counted), and pycocotools'
    ten lines of text.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        evaluation = prepare(persons.annotations, results)
        if persons.limit is not None:
            evaluation.params.imgIds = sorted(image.id for image in persons.images)
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(0)
        printed.seek(0)
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), printed.getvalue().rstrip()


def prepare(annotations: Annotations, results: Sequence[dict[str, Any]]) -> COCOeval:
    """pycocotools' evaluation of results, not run yet. pycocotools prints."""
    ground_truth = _ground_truth(annotations)
    # loadRes writes into the records and can't take an empty list.
    detected = ground_truth.loadRes([dict(result) for result in results]) if results else _to_coco(annotations, [])
    return COCOeval(ground_truth, detected, "keypoints")


def _ground_truth(annotations: Annotations) -> COCO:
    """Correct what pycocotools trusts: CocoMetric's evaluator counts visible keypoints itself, and pycocotools takes
    an annotation with id 0 for none."""
    return _to_coco(annotations, [
        {**annotation, "id": number, "num_keypoints": sum(v > 0 for v in annotation["keypoints"][2::3])}
        for number, annotation in enumerate(annotations.annotations, 1) if "keypoints" in annotation])


def _to_coco(annotations: Annotations, records: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": annotations.images, "categories": annotations.categories, "annotations": records}
    coco.createIndex()
    return coco
