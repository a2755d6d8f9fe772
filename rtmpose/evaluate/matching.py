"""pycocotools' evaluation of keypoints: the same similarities and matches, to the bit, in a fraction of the time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from rtmpose.evaluate.oks import oks_exponents

Record = dict[str, Any]
# By prediction, from best to worst: whether a person counts (isn't ignored), the similarity, and the person's position.
Candidates = dict[int, list[tuple[bool, float, int]]]


class Evaluation(COCOeval):
    """``COCOeval`` for keypoints, where accumulating and summarizing are pycocotools' own code."""

    def _prepare(self) -> None:
        """Sort the predictions of each image, best first, and keep those that count."""
        super()._prepare()
        for predictions in self._dts.values():
            predictions.sort(key=lambda prediction: -prediction["score"])
            del predictions[self.params.maxDets[-1]:]

    def computeOks(self, imgId: int | str, catId: int | str) -> Any:
        """Similarity of an image's D predictions with its G persons, float64 (D, G), or an empty list.

        pycocotools does the same for one pair at a time.
        """
        persons, predictions = self._gts[imgId, catId], self._dts[imgId, catId]
        if not persons or not predictions:
            return []
        points = np.array([prediction["keypoints"] for prediction in predictions], np.float64)
        x, y = np.ascontiguousarray(points[:, 0::3]), np.ascontiguousarray(points[:, 1::3])
        similarities = np.empty((len(predictions), len(persons)))
        for column, person in enumerate(persons):
            person_x, person_y, visibility = np.reshape(person["keypoints"], (-1, 3)).T
            counted = np.flatnonzero(visibility > 0)
            if len(counted):
                dx, dy = x - person_x, y - person_y
            else:  # distance to a box of three times the size
                left, top, width, height = person["bbox"]
                dx = np.maximum(0, left - width - x) + np.maximum(0, x - (left + width * 2))
                dy = np.maximum(0, top - height - y) + np.maximum(0, y - (top + height * 2))
                counted = np.arange(len(visibility))
            # NumPy adds contiguous rows, which take returns and an index may not, as pycocotools' single ones.
            exponents = oks_exponents(dx, dy, person["area"]).take(counted, axis=1)
            similarities[:, column] = np.exp(exponents).sum(axis=1) / len(counted)
        return similarities

    def evaluateImg(self, imgId: int | str, catId: int | str, aRng: list[float], maxDet: int) -> Record | None:
        """Match an image's predictions with its persons, of whom those outside an area range are ignored."""
        persons, predictions = self._gts[imgId, catId], self._dts[imgId, catId]
        if not persons and not predictions:
            return None
        ignored = [int(person["ignore"] or person["area"] < aRng[0] or person["area"] > aRng[1]) for person in persons]
        order = sorted(range(len(persons)), key=ignored.__getitem__)
        persons, ignored = [persons[i] for i in order], [ignored[i] for i in order]
        crowds = [bool(person["iscrowd"]) for person in persons]
        thresholds, similarities = np.minimum(self.params.iouThrs, 1 - 1e-10).tolist(), self.ious[imgId, catId]
        candidates = _list_candidates(similarities[:, order], ignored, thresholds[0]) if len(similarities) else {}
        found = np.zeros((len(thresholds), len(persons)))
        matches = np.zeros((len(thresholds), len(predictions)))
        match_ignored = np.zeros(matches.shape, bool)
        for row, threshold in enumerate(thresholds if candidates else []):
            for column, match in _match(candidates, threshold, crowds):
                matches[row, column], match_ignored[row, column] = persons[match]["id"], ignored[match]
                found[row, match] = predictions[column]["id"]
        areas = np.array([prediction["area"] for prediction in predictions])
        outside = (areas < aRng[0]) | (areas > aRng[1])
        return {"image_id": imgId, "category_id": catId, "aRng": aRng, "maxDet": maxDet,
                "gtIds": [person["id"] for person in persons], "gtMatches": found, "gtIgnore": np.array(ignored),
                "dtIds": [prediction["id"] for prediction in predictions], "dtMatches": matches,
                "dtScores": [prediction["score"] for prediction in predictions],
                "dtIgnore": match_ignored | ((matches == 0) & outside)}


def _list_candidates(similarities: np.ndarray, ignored: list[int], threshold: float) -> Candidates:
    """Whom each prediction may match: the persons that count before the ignored ones, the most similar first, and of
    equally similar ones the last. Most predictions of a detector's boxes are alike to nobody."""
    candidates: Candidates = {}
    rows, columns = np.nonzero(similarities >= threshold)
    values = similarities[rows, columns].tolist()
    for row, column, similarity in zip(rows.tolist(), columns.tolist(), values, strict=True):
        candidates.setdefault(row, []).append((not ignored[column], similarity, column))
    for persons in candidates.values():
        persons.sort(reverse=True)
    return candidates


def _match(candidates: Candidates, threshold: float, crowds: list[bool]) -> Iterator[tuple[int, int]]:
    """Match each prediction with the first of its candidates that is free; a crowd stays free."""
    taken: set[int] = set()
    for prediction, persons in candidates.items():
        for _, similarity, person in persons:
            if similarity >= threshold and person not in taken:
                if not crowds[person]:
                    taken.add(person)
                yield prediction, person
                break
