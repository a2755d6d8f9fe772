"""The annotation file of a COCO set, read item by item and checked."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError
from rtmpose.json_lists import read_json_lists

NUM_KEYPOINTS = 17
_BEYOND_MEASURE = 1e12


def read_annotations(path: Path, keep: Callable[[dict[str, Any]], Any] = lambda annotation: annotation
                     ) -> dict[str, Any]:
    """Read an annotation file, with what the evaluation relies on checked and without ``segmentation``: outlines are
    most of the file, and keypoints are scored without them.

    Args:
        path: the file.
        keep: gives what is kept of an annotation: all of them as objects take much memory.

    Raises:
        KitError: it is missing, broken or contradictory.
    """
    if not path.is_file():
        raise KitError(f"{path}: no such file, expected COCO person keypoints; scripts/download.sh fetches them")
    owners = {}

    def take(key: str, item: dict[str, Any]) -> Any:
        if key == "images":
            _check_image(item)
        elif key == "categories":
            _check_id("category", item["id"])
        elif key == "annotations":
            _check_annotation(item)
            owners.setdefault(item["image_id"], item["id"])
            item.pop("segmentation", None)
            return keep(item)
        return item

    try:
        content = read_json_lists(path, "COCO person keypoints", take)
        if not isinstance(content, dict) or not all(
                isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
            raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person "
                           "keypoints")
        images = {record["id"] for record in content["images"]}
        for image, annotation in owners.items():
            if image not in images:
                raise ValueError(f"annotation {annotation} belongs to the unknown image {image}")
    except (KeyError, TypeError, ValueError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise KitError(f"{path}: broken record ({found}), expected COCO person keypoints; fetch it again") from error
    return content


def _check_image(record: dict[str, Any]) -> None:
    _check_id("image", record["id"])
    name = record["file_name"]
    if not (isinstance(name, str) and "\0" not in name and record["width"] > 0 and record["height"] > 0):
        raise ValueError(f"image {record['id']} has no name or no size")
    os.fsencode(name)  # a ValueError where no file can have that name


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
    # pycocotools reads these two without asking.
    if annotation.setdefault("iscrowd", 0) not in (0, 1):
        raise ValueError(f"{name} has iscrowd {annotation['iscrowd']!r}, not 0 or 1")
    annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))


def check_numbers(name: str, numbers: Sequence[float], length: int) -> None:
    """Raise a ValueError unless ``numbers`` are so many finite ones, and none is beyond all measure."""
    if len(numbers) != length or not all(isinstance(n, (int, float)) and abs(n) < _BEYOND_MEASURE for n in numbers):
        raise ValueError(f"{name} is {str(numbers)[:60]}, not {length} finite numbers below {_BEYOND_MEASURE:g}")
