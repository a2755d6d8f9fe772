"""Predictions -> the ten COCO numbers, as mmpose's ``CocoMetric`` computes them.

Rescoring, OKS-NMS and the choice of annotations follow ``CocoMetric``; the numbers are pycocotools'.
"""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.data.annotations import Annotations
from rtmpose.data.dataset import PersonSet
from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import atomic_write

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")

OKS_NMS_THRESHOLD = 0.9

SIGMAS = np.array([.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107,
                   .087, .087, .089, .089], np.float32)
"""Standard deviation of each COCO keypoint, relative to the person's size; float32, as mmpose's OKS-NMS has it."""


def rescore(scores: np.ndarray, box_scores: np.ndarray) -> np.ndarray:
    """Box score times the mean of the keypoint scores above 0.2 (``CocoMetric``, ``bbox_keypoint``).

    Args:
        scores: float32 (N, K).
        box_scores: float32 (N,).

    Returns:
        float32 (N,); 0 where no keypoint is above the threshold.
    """
    counted = scores > KEYPOINT_SCORE_THRESHOLD
    # cumsum adds one after the other, as CocoMetric's loop does; sum adds pairwise and rounds otherwise.
    totals = np.cumsum(np.where(counted, scores, np.float32(0)), axis=1, dtype=np.float32)[:, -1]
    return box_scores * (totals / np.maximum(counted.sum(axis=1), 1).astype(np.float32))


def oks(keypoints: np.ndarray, area: np.float32, others: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity of one person with others (mmpose ``oks_iou``).

    Args:
        keypoints: float32 (17, 2).
        area: float32, in square pixels.
        others: float32 (N, 17, 2).
        areas: float32 (N,).

    Returns:
        float32 (N,), from 0 to 1.
    """
    variances = (SIGMAS * 2) ** 2
    squared = ((others - keypoints) ** 2).sum(axis=-1)
    mean_areas = (area + areas) / 2 + np.spacing(1)
    return np.exp(-(squared / variances / mean_areas[:, None] / 2)).mean(axis=-1).astype(np.float32)


def oks_nms(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> list[int]:
    """Keep the best of persons that lie on each other (mmpose ``oks_nms`` at 0.9).

    Args:
        keypoints: float32 (N, 17, 2).
        scores: float32 (N,).
        areas: float32 (N,).

    Returns:
        Indices of those kept, best first.
    """
    order = scores.argsort()[::-1]
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        order = rest[oks(keypoints[best], areas[best], keypoints[rest], areas[rest]) <= OKS_NMS_THRESHOLD]
    return keep


def to_results(predictions: Predictions) -> list[dict[str, Any]]:
    """Rescored, non-maximum-suppressed results in COCO's format: image by image, and the persons of an image in the
    order in which ``CocoMetric`` hands them to the evaluation, best first.

    Each has ``image_id``, ``category_id``, ``keypoints`` (x, y, score of 17, float64), ``score``, ``bbox`` (x, y,
    width, height) and ``index`` (:attr:`Person.index`). A person without a single positive keypoint score is left out,
    as CocoMetric's evaluator leaves it out.
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
        results += [_result(predictions, row, scores[row]) for row in kept if (predictions.scores[row] > 0).any()]
    return results


def _result(predictions: Predictions, row: int, score: np.float32) -> dict[str, Any]:
    person = predictions.persons[row]
    x1, y1, x2, y2 = person.bbox
    keypoints = np.column_stack([predictions.keypoints[row], predictions.scores[row]])
    return {
        "image_id": person.image_id,
        "category_id": 1,
        "keypoints": keypoints.astype(np.float64).ravel(),
        "score": float(score),
        "bbox": np.stack([x1, y1, x2 - x1, y2 - y1]).tolist(),
        "index": person.index,
    }


def write_keypoints(path: Path, results: list[dict[str, Any]]) -> None:
    """Write results in COCO result format, in the order of the annotations."""
    ordered = sorted(results, key=lambda result: result["index"])
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, result in enumerate(ordered):
            kept = {**result, "keypoints": result["keypoints"].tolist()}
            del kept["index"]
            file.write(("[" if number == 0 else ",\n ") + json.dumps(kept, allow_nan=False))
        file.write("]\n" if ordered else "[]\n")


def evaluate(results: list[dict[str, Any]], persons: PersonSet) -> tuple[dict[str, float], str]:
    """COCO's ten keypoint numbers.

    Args:
        results: as :func:`to_results` gives them.
        persons: ground truth and the images that count.

    Returns:
        The numbers by name (:data:`METRICS`), from 0 to 1 (-1 where nothing could be counted), and pycocotools'
        ten lines of text.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ground_truth = _ground_truth(persons.annotations)
        # loadRes writes into the records that it is given, and can't take an empty list.
        detected = (ground_truth.loadRes([dict(result) for result in results]) if results
                    else _to_coco(persons.annotations, []))
        evaluation = COCOeval(ground_truth, detected, "keypoints")
        evaluation.params.imgIds = sorted([image.id for image in persons.images] if persons.limited
                                          else ground_truth.imgs)
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(0)
        printed.seek(0)
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), printed.getvalue().rstrip()


def _ground_truth(annotations: Annotations) -> COCO:
    """The annotations, such that pycocotools counts as CocoMetric's evaluator does.

    It believes ``num_keypoints`` where CocoMetric's evaluator counts, and takes an annotation with id 0 for none, so
    that ids are given anew.
    """
    return _to_coco(annotations, [
        {**annotation, "id": number, "num_keypoints": sum(v > 0 for v in annotation["keypoints"][2::3])}
        for number, annotation in enumerate(annotations.annotations, 1) if "keypoints" in annotation])


def _to_coco(annotations: Annotations, records: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": annotations.images, "categories": annotations.categories, "annotations": records}
    coco.createIndex()
    return coco
