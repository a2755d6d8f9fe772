"""The annotation file of a COCO set, read once and checked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError
from rtmpose.files import read_json

NUM_KEYPOINTS = 17
_LISTS = ("images", "annotations", "categories")
_LIMIT = 1e12


@dataclass(frozen=True)
class Annotations:
    """Content of an annotation file in COCO's format, without ``segmentation``."""

    path: Path
    images: list[dict[str, Any]]  # id, file_name, width, height, ...
    annotations: list[dict[str, Any]]  # in the file's order; all with keypoints have iscrowd and num_keypoints
    categories: list[dict[str, Any]]  # id, name, ...


def read_annotations(path: Path) -> Annotations:
    """Read and check an annotation file. Raises KitError if it is missing, broken or contradictory."""
    if not path.is_file():
        raise KitError(f"{path}: no such file, expected COCO person keypoints; scripts/download.sh fetches them")
    content = read_json(path, "COCO person keypoints", object_hook=_drop_segmentation)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person keypoints")
    annotations = Annotations(path, *(content[key] for key in _LISTS))
    try:
        _check(annotations)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise KitError(f"{path}: broken record ({reason}), expected COCO person keypoints; fetch it again") from error
    return annotations


def _drop_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file, and keypoints are scored without them."""
    record.pop("segmentation", None)
    return record


def _check(content: Annotations) -> None:
    for image in content.images:
        _check_id("image", image["id"])
        name = image["file_name"]
        if not (isinstance(name, str) and "\0" not in name and image["width"] > 0 and image["height"] > 0):
            raise ValueError(f"image {image['id']} has no name or no size")
        os.fsencode(name)  # raises a ValueError if no file can have that name
    for category in content.categories:
        _check_id("category", category["id"])
    image_ids = {image["id"] for image in content.images}
    for annotation in content.annotations:
        _check_annotation(annotation)
        if annotation["image_id"] not in image_ids:
            raise ValueError(f"annotation {annotation['id']} belongs to the unknown image {annotation['image_id']}")


def _check_id(name: str, identity: int | str) -> None:
    if not isinstance(identity, (int, float, str)):
        raise ValueError(f"{name} has the id {str(identity)[:60]}, not a number or a string")


def _check_annotation(annotation: dict[str, Any]) -> None:
    name = f"annotation {annotation['id']}"
    if "keypoints" not in annotation:
        return
    check_numbers(f"{name}'s box", annotation["bbox"], 4)
    check_numbers(f"{name}'s keypoints", annotation["keypoints"], 3 * NUM_KEYPOINTS)
    check_numbers(f"{name}'s area", [annotation["area"]], 1)
    _check_id(f"{name}'s category", annotation["category_id"])
    # pycocotools relies on these two.
    if annotation.setdefault("iscrowd", 0) not in (0, 1):
        raise ValueError(f"{name} has iscrowd {annotation['iscrowd']!r}, not 0 or 1")
    annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))


def check_numbers(name: str, numbers: Sequence[float], length: int) -> None:
    """Raise ValueError unless ``numbers`` are ``length`` finite numbers below 10^12."""
    if len(numbers) != length or not all(isinstance(n, (int, float)) and abs(n) < _LIMIT for n in numbers):
        raise ValueError(f"{name} is {str(numbers)[:60]}, not {length} finite numbers below {_LIMIT:g}")
