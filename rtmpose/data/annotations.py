"""The annotation file of a COCO set, read once and checked."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.errors import KitError
from rtmpose.files import read_json

NUM_KEYPOINTS = 17
PERSON = "person"
BROKEN = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What reading a broken record raises."""

_LISTS = ("images", "annotations", "categories")
_LIMIT = 1e12
_ID_LIMIT = 2**63  # NumPy's integers, with which pycocotools sorts ids
_LONGEST_SIDE = 2**20  # pixels that OpenCV reads


@dataclass(frozen=True)
class Annotations:
    """Content of an annotation file in COCO's format, without ``segmentation``."""

    path: Path
    images: list[dict[str, Any]]  # id, file_name, width, height, ...
    annotations: list[dict[str, Any]]  # in the file's order; all with keypoints have iscrowd and num_keypoints
    categories: list[dict[str, Any]]  # id, name, ...
    person_id: int | str  # id of the category "person"


def read_annotations(path: Path) -> Annotations:
    """Read and check an annotation file. Raises KitError if it is missing, broken or contradictory."""
    content = read_json(path, "COCO person keypoints", object_hook=_drop_segmentation)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person keypoints")
    images, annotations, categories = (content[key] for key in _LISTS)
    try:
        _check_images(images)
        person_id = _find_person(categories)
        _check_annotations(annotations, images, categories)
    except BROKEN as error:
        raise KitError(f"{path}: broken record ({reason(error)}), expected COCO person keypoints; fetch it again"
                       ) from error
    return Annotations(path, images, annotations, categories, person_id)


def reason(error: Exception) -> str:
    """What is wrong with a record, from one of :data:`BROKEN`."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _drop_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file, and keypoints are scored without them."""
    record.pop("segmentation", None)
    return record


def _check_images(images: list[dict[str, Any]]) -> None:
    _check_ids("image", [image["id"] for image in images])
    for image in images:
        name, sides = image["file_name"], (image["width"], image["height"])
        if not isinstance(name, str) or any(character < " " for character in name):
            raise ValueError(f"image {image['id']!r:.60} has no name or one with control characters")
        os.fsencode(name)  # raises a ValueError if no file can have that name
        if not all(0 < side <= _LONGEST_SIDE and side == int(side) for side in sides):
            raise ValueError(f"image {image['id']!r:.60} has the size {sides!r:.60}, not two whole numbers from 1 to "
                             f"{_LONGEST_SIDE}")


def _find_person(categories: list[dict[str, Any]]) -> int | str:
    """The id of the person category, which mmpose takes from the file as well."""
    _check_ids("category", [category["id"] for category in categories])
    names = [category.get("name") for category in categories]
    if names.count(PERSON) != 1:
        raise ValueError(f"{names.count(PERSON)} categories are named {PERSON}, expected one; the names are "
                         f"{names!r:.60}")
    return categories[names.index(PERSON)]["id"]


def _check_annotations(annotations: list[dict[str, Any]], images: list[dict[str, Any]],
                       categories: list[dict[str, Any]]) -> None:
    _check_ids("annotation", [annotation["id"] for annotation in annotations])
    for annotation in annotations:
        if "keypoints" in annotation:
            _check_keypoints(f"annotation {annotation['id']!r:.60}", annotation)
    for name, records in (("image", images), ("category", categories)):
        known = {record["id"] for record in records}
        for annotation in annotations:
            identity = annotation.get(f"{name}_id")
            if isinstance(identity, (list, dict)) or identity not in known:
                raise ValueError(f"annotation {annotation['id']!r:.60} belongs to the unknown {name} {identity!r:.60}")


def _check_keypoints(name: str, annotation: dict[str, Any]) -> None:
    check_numbers(f"{name}'s box", annotation["bbox"], 4)
    check_numbers(f"{name}'s keypoints", annotation["keypoints"], 3 * NUM_KEYPOINTS)
    check_numbers(f"{name}'s area", [annotation["area"]], 1)
    # pycocotools relies on these two.
    if annotation.setdefault("iscrowd", 0) not in (0, 1):
        raise ValueError(f"{name} has iscrowd {annotation['iscrowd']!r:.60}, not 0 or 1")
    number = annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))
    if not isinstance(number, int) or not 0 <= number <= NUM_KEYPOINTS:
        raise ValueError(f"{name} has num_keypoints {number!r:.60}, not a whole number from 0 to {NUM_KEYPOINTS}")


def _check_ids(name: str, ids: list[Any]) -> None:
    """Raise ValueError unless ids are all numbers or all strings, which pycocotools can sort, and all different."""
    for identity in ids:
        if not isinstance(identity, str) and not (isinstance(identity, (int, float)) and abs(identity) < _ID_LIMIT):
            raise ValueError(f"{name} has the id {identity!r:.60}, not a number below 2^63 or a string")
    if len({isinstance(identity, str) for identity in ids}) > 1:
        raise ValueError(f"some {name} ids are numbers and some are strings, expected one kind")
    if len(set(ids)) < len(ids):
        raise ValueError(f"the {name} {Counter(ids).most_common(1)[0][0]!r:.60} is listed twice")


def check_numbers(name: str, numbers: Sequence[float], length: int) -> None:
    """Raise ValueError unless ``numbers`` are ``length`` finite numbers below 10^12."""
    if len(numbers) != length or not all(isinstance(n, (int, float)) and abs(n) < _LIMIT for n in numbers):
        raise ValueError(f"{name} is {numbers!r:.60}, not {length} finite numbers below {_LIMIT:g}")


def to_array(name: str, rows: Sequence[Sequence[float]], length: int) -> np.ndarray:
    """float32 (N, length). Raise ValueError, as :func:`check_numbers` does of one row, if any is no such numbers."""
    array = np.array(rows)
    if (array.shape != (len(rows), length) or array.dtype.kind not in "bif"
            or not (np.abs(array, dtype=np.float64) < _LIMIT).all()):
        raise ValueError(f"{name} is {rows[0]!r:.60}, not {length} finite numbers below {_LIMIT:g}")
    return array.astype(np.float32)
