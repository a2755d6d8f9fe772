"""From keypoints to the ten COCO numbers, as mmpose's ``CocoMetric`` computes them.

Rescoring, OKS-NMS and what takes part follow ``CocoMetric``; the numbers are pycocotools'.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.annotations import NUM_KEYPOINTS, read_annotations
from rtmpose.coco import Person, PersonSet

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")

KEYPOINT_SCORE_THRESHOLD = 0.2
OKS_NMS_THRESHOLD = 0.9

SIGMAS = np.array([.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107,
                   .087, .087, .089, .089], np.float32)
"""Standard deviation of each COCO keypoint, relative to the person's size; float32, as mmpose's OKS-NMS has it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the network said of one person.

    Attributes:
        person: whom.
        keypoints: float32 (17, 2), x and y in image pixels.
        scores: float32 (17,).
        scale: float32 (2,), width and height in image pixels of the region that was cropped.
    """

    person: Person
    keypoints: np.ndarray
    scores: np.ndarray
    scale: np.ndarray


class Estimates(Sequence[Estimate]):
    """Estimates of all persons of a set, in their order; as objects they are made when they are asked for.

    Attributes:
        keypoints, scores, scales: float32 (N, 17, 2), (N, 17) and (N, 2), as :class:`Estimate` has them.
    """

    def __init__(self, persons: PersonSet) -> None:
        self._images, self._number = persons.images, 0
        self.keypoints = np.empty((persons.number, NUM_KEYPOINTS, 2), np.float32)
        self.scores = np.empty((persons.number, NUM_KEYPOINTS), np.float32)
        self.scales = np.empty((persons.number, 2), np.float32)

    def extend(self, estimates: Iterable[Estimate]) -> None:
        """Put down those of the next persons."""
        for one in estimates:
            row = self._number
            self.keypoints[row], self.scores[row], self.scales[row] = one.keypoints, one.scores, one.scale
            self._number += 1

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Estimate:
        index = range(len(self))[index]
        return Estimate(self._images.person(index), self.keypoints[index], self.scores[index], self.scales[index])


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


def to_results(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Rescored, non-maximum-suppressed results in COCO's format: image by image, and the persons of an image in the
    order in which ``CocoMetric`` hands them to the evaluation, best first.

    Each has ``image_id``, ``category_id``, ``keypoints`` (x, y, score of 17, float64), ``score``, ``bbox`` (x, y,
    width, height) and ``index`` (:attr:`Person.index`). A person without a single positive keypoint score is left out,
    as CocoMetric's evaluator leaves it out.
    """
    by_image: dict[int, list[Estimate]] = {}
    for estimate in sorted(estimates, key=lambda e: e.person.index):
        by_image.setdefault(estimate.person.image_id, []).append(estimate)
    results = []
    for group in by_image.values():
        keypoints = np.stack([e.keypoints for e in group])
        scores = rescore(np.stack([e.scores for e in group]), np.array([e.person.score for e in group]))
        areas = np.array([e.scale[0] * e.scale[1] for e in group])
        results += [_result(group[i], scores[i]) for i in oks_nms(keypoints, scores, areas)
                    if (group[i].scores > 0).any()]
    return results


def _result(estimate: Estimate, score: np.float32) -> dict[str, Any]:
    x1, y1, x2, y2 = estimate.person.bbox
    return {
        "image_id": estimate.person.image_id,
        "category_id": 1,
        "keypoints": np.concatenate([estimate.keypoints, estimate.scores[:, None]], axis=1, dtype=np.float64).ravel(),
        "score": float(score),
        "bbox": np.stack([x1, y1, x2 - x1, y2 - y1]).tolist(),
        "index": estimate.person.index,
    }


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
        truth = _truth(persons)
        # loadRes writes into the records that it is given, and can't take none of them.
        found = truth.loadRes([dict(result) for result in results]) if results else _to_coco(truth.dataset, [])
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.imgIds = sorted(persons.images.ids if persons.limited else truth.imgs)
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(0)
        printed.seek(0)
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), printed.getvalue().rstrip()


def _truth(persons: PersonSet) -> COCO:
    """The annotations, such that pycocotools counts as CocoMetric's evaluator does."""
    content = read_annotations(persons.path, _counted)
    return _to_coco(content, [{**annotation, "id": identity}
                              for identity, annotation in enumerate(content["annotations"], 1) if annotation])


def _counted(annotation: dict[str, Any]) -> dict[str, Any]:
    """What pycocotools reads of an annotation; nothing of one without keypoints.

    It believes ``num_keypoints`` where CocoMetric's evaluator counts, and takes an annotation with id 0 for none, so
    that ids are given anew.
    """
    if "keypoints" not in annotation:
        return {}
    kept = {key: annotation[key] for key in ("image_id", "category_id", "iscrowd", "area", "bbox")}
    return {**kept, "keypoints": np.array(annotation["keypoints"]),
            "num_keypoints": sum(v > 0 for v in annotation["keypoints"][2::3])}


def _to_coco(content: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    found = COCO()
    found.dataset = {"images": content["images"], "categories": content["categories"], "annotations": annotations}
    found.createIndex()
    return found
