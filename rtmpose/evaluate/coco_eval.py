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

from rtmpose.data.annotations import Annotations
from rtmpose.data.coco import PersonSet
from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD
from rtmpose.evaluate.matching import Evaluation
from rtmpose.evaluate.oks import oks_nms
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import write_bytes

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def rescore(scores: np.ndarray, box_scores: np.ndarray) -> np.ndarray:
    """Box score times the mean of the keypoint scores above 0.2 (``CocoMetric``, ``bbox_keypoint``).

    Takes float32 (N, K) and (N,); returns float32 (N,), 0 where no keypoint is above the threshold.
    """
    counted = scores > KEYPOINT_SCORE_THRESHOLD
    # cumsum adds in order, as CocoMetric's loop does; sum adds pairwise and rounds differently.
    totals = np.cumsum(np.where(counted, scores, np.float32(0)), axis=1, dtype=np.float32)[:, -1]
    return box_scores * (totals / np.maximum(counted.sum(axis=1), 1).astype(np.float32))


def score(predictions: Predictions, persons: PersonSet) -> tuple[list[dict[str, Any]], dict[str, float], str]:
    """The results of predictions, as :func:`to_results` returns them, and their score, as :func:`evaluate` does."""
    results = to_results(predictions, persons.annotations.person_id)
    return results, *evaluate(results, persons)


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
    positive = predictions.scores.max(axis=1) > 0
    kept = [rows[i] for rows in by_image.values()
            for i in oks_nms(predictions.keypoints[rows], scores[rows], areas[rows]) if positive[rows[i]]]
    keypoints = np.concatenate([predictions.keypoints, predictions.scores[..., None]], axis=2, dtype=np.float64)
    boxes = np.array([persons[row].bbox for row in kept], np.float32).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return [{"image_id": persons[row].image_id, "category_id": category_id, "keypoints": points, "score": score,
             "bbox": bbox, "index": persons[row].index}
            for row, points, score, bbox in zip(kept, keypoints.reshape(len(persons), -1)[kept],
                                                scores[kept].tolist(), boxes.tolist(), strict=True)]


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
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = prepare(persons.annotations, results)
        if persons.limit is not None:
            evaluation.params.imgIds = sorted(image.id for image in persons.images)
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), printed.getvalue().rstrip()


def prepare(annotations: Annotations, results: Sequence[dict[str, Any]]) -> Evaluation:
    """pycocotools' evaluation of results, not run yet. pycocotools prints."""
    detected = [{**result, "id": number, "area": result["bbox"][2] * result["bbox"][3]}
                for number, result in enumerate(results, 1)]
    return Evaluation(_ground_truth(annotations), _to_coco(annotations, detected), "keypoints")


def _ground_truth(annotations: Annotations) -> COCO:
    """Correct what pycocotools trusts: CocoMetric's evaluator counts visible keypoints itself, and pycocotools takes
    an annotation with id 0 for none."""
    return _to_coco(annotations, [
        {**annotation, "id": number, "num_keypoints": sum(v > 0 for v in annotation["keypoints"][2::3])}
        for number, annotation in enumerate(annotations.annotations, 1)])


def _to_coco(annotations: Annotations, records: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": annotations.images, "categories": [{"id": annotations.person_id}],
                    "annotations": records}
    coco.createIndex()
    return coco
