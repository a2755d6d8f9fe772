"""AP of the keypoints in a file, and the interval of a difference of two APs: a paired bootstrap over images."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.annotations import NUM_KEYPOINTS, Annotations, check_number, check_numbers
from rtmpose.errors import KitError
from rtmpose.evaluate.coco_eval import prepare
from rtmpose.files import read_json

RESAMPLES, SEED = 1000, 0
_EXPECTED = "expected the keypoints.json of an accuracy run (COCO result format)"


@dataclass(frozen=True)
class Matches:
    """pycocotools' matches of N predictions with the ground truth of I images, for T OKS thresholds.

    The predictions are sorted by score, best first. Ignored ones are neither hits nor misses.
    """

    hits: list[np.ndarray]  # for each threshold the positions of its hits, int
    ignored: np.ndarray  # bool (T, N)
    images: np.ndarray  # int (N,), position of each prediction's image
    persons: np.ndarray  # int (I,), ground truth that counts, by image
    recalls: np.ndarray  # float64 (101,), where precision is read


def read_keypoints(path: Path) -> list[dict[str, Any]]:
    """Read a ``keypoints.json``. Raises KitError if it can't be read or is no list of COCO keypoint results."""
    results = read_json(path, "keypoints in COCO result format")
    try:
        for number, result in enumerate(results):
            check_numbers(f"result {number}: keypoints", result["keypoints"], 3 * NUM_KEYPOINTS)
            check_numbers(f"result {number}: bbox", result["bbox"], 4)
            check_number(f"result {number}: score", result["score"])
            hash((result["image_id"], result["category_id"]))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise KitError(f"{path}: {reason}; {_EXPECTED}") from error
    return results


def match_images(annotations: Annotations, results: Sequence[dict[str, Any]], image_ids: Sequence[int | str]
                 ) -> Matches:
    """Let pycocotools match results with the ground truth of images, once. Raises KitError for unknown images."""
    image_ids = sorted(set(image_ids))
    for what, key, known in (("image", "image_id", {image["id"] for image in annotations.images}),
                             ("category of persons", "category_id", {annotations.person_id})):
        unknown = {result[key] for result in results} - known
        if unknown:
            raise KitError(f"{annotations.path}: has no {what} {min(unknown)}, whose keypoints are to be scored; give "
                           "the annotations that they were measured on")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = prepare(annotations, results)
        parameters = evaluation.params
        parameters.imgIds, parameters.areaRng, parameters.areaRngLbl = image_ids, parameters.areaRng[:1], ["all"]
        evaluation.evaluate()
    # One area and one category: an entry by image, None where there is neither ground truth nor a prediction.
    nothing = np.empty((len(parameters.iouThrs), 0))
    images = [image or {"gtIgnore": np.empty(0), "dtScores": [], "dtMatches": nothing, "dtIgnore": nothing}
              for image in evaluation.evalImgs]
    order = np.argsort(-np.concatenate([image["dtScores"] for image in images]), kind="mergesort")
    matched, ignored = (np.concatenate([image[key] for image in images], axis=1)[:, order].astype(bool)
                        for key in ("dtMatches", "dtIgnore"))
    return Matches(hits=[np.flatnonzero(row) for row in matched & ~ignored], ignored=ignored,
                   images=np.repeat(np.arange(len(images)), [len(image["dtScores"]) for image in images])[order],
                   persons=np.array([np.count_nonzero(image["gtIgnore"] == 0) for image in images]),
                   recalls=parameters.recThrs)


def average_precision(matches: Matches, counts: np.ndarray) -> float:
    """AP@0.5:0.95 of a set that holds each image ``counts`` times, int (I,); -1 if no ground truth is left.

    The arithmetic of ``COCOeval.accumulate``, at hits only: between two of them precision falls and recall stays. A
    prediction in an image that is there n times counts n times.
    """
    persons, weights = counts @ matches.persons, counts[matches.images]
    if not persons:
        return -1.0
    total, all_seen = 0.0, np.cumsum(weights)
    for positions, ignored in zip(matches.hits, matches.ignored, strict=True):
        seen = np.cumsum(weights * ~ignored) if ignored.any() else all_seen
        hits = np.cumsum(weights[positions])
        precision = hits / (seen[positions] + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(hits / persons, matches.recalls)
        total += best[reached[reached < len(best)]].sum()
    return float(total / len(matches.hits) / len(matches.recalls))


def full_ap(matches: Matches) -> float:
    """AP@0.5:0.95 of the set itself."""
    return average_precision(matches, np.ones(len(matches.persons), np.int64))


def resample(images: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each image is in a resample of the set, int (images,); the same ones every time."""
    random = np.random.default_rng(SEED)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, images, images), minlength=images)


def bootstrap_difference(base: Matches, other: Matches, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of other's AP minus base's, over resamples of the images that both scored.

    Percentiles of the differences (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Pairing
    removes what both share: an image that is hard for one is hard for the other.
    """
    differences = [average_precision(other, counts) - average_precision(base, counts)
                   for counts in resample(len(base.persons), resamples)]
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)
