"""The persons of a COCO set: who is estimated, in which image, in which box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.errors import KitError
from rtmpose.files import read_json

NUM_KEYPOINTS = 17
ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))


@dataclass(frozen=True)
class Person:
    """One person to estimate.

    Attributes:
        index: position in the annotation (or detection) file; results are written in this order.
        image_id: COCO id of the image.
        bbox: float32 (4,), x1 y1 x2 y2 in image pixels.
        score: float32, the box's score; 1 for ground truth.
    """

    index: int
    image_id: int
    bbox: np.ndarray
    score: np.float32


@dataclass(frozen=True)
class Image:
    """One image with persons in it: COCO id, file, size in pixels, and the persons in the order of their file."""

    id: int
    path: Path
    width: int
    height: int
    persons: tuple[Person, ...]


@dataclass(frozen=True)
class PersonSet:
    """What an accuracy run goes over.

    Attributes:
        images: images with at least one person, in the order of the annotation file.
        annotations: the annotation file's content without ``segmentation``, for the evaluation.
        evaluated: ids of the images that the evaluation counts.
        skipped: annotated persons left out because their box is empty inside the image.
        boxes: whose boxes they are, for people.
    """

    images: tuple[Image, ...]
    annotations: dict[str, Any]
    evaluated: tuple[int, ...]
    skipped: int
    boxes: str

    @property
    def number(self) -> int:
        """How many persons there are."""
        return sum(len(image.persons) for image in self.images)


def load_persons(folder: str | Path | None, detections: str | Path | None = None, limit: int | None = None
                 ) -> PersonSet:
    """Read the persons of ``folder``, laid out as ``annotations/person_keypoints_val2017.json`` and images in
    ``images/val2017/`` or ``val2017/``.

    Args:
        folder: the data set, usually ``$DATASETS_DIR``.
        detections: a detector's boxes in COCO result format instead of the ground truth's.
        limit: only the first so many images that hold persons; only they are evaluated then.

    Raises:
        KitError: something is missing, broken or contradictory.
    """
    folder = check_folder(folder)
    path = folder / ANNOTATIONS
    annotations = _read_annotations(path)
    image_folder = _image_folder(folder)
    records = {record["id"]: record for record in annotations["images"]}
    skipped = 0
    if detections is None:
        persons, skipped = _annotated_persons(path, annotations["annotations"], records)
    else:
        persons = _detected_persons(Path(detections), records)
    by_image: dict[int, list[Person]] = {}
    for person in persons:
        by_image.setdefault(person.image_id, []).append(person)
    images = tuple(
        Image(image_id, image_folder / record["file_name"], record["width"], record["height"],
              tuple(by_image[image_id]))
        for image_id, record in records.items() if image_id in by_image
    )[:limit]
    evaluated = tuple(records) if limit is None else tuple(image.id for image in images)
    boxes = f"boxes of {detections}" if detections else "ground-truth boxes"
    return PersonSet(images, annotations, evaluated, skipped, boxes)


def check_folder(folder: str | Path | None) -> Path:
    """The data set's folder as a path.

    Raises:
        KitError: it is not given, or there is no such folder.
    """
    if not folder:
        raise KitError("DATASETS_DIR is not set: give --datasets DIR or set DATASETS_DIR to a folder with "
                       f"{ANNOTATIONS} and {IMAGE_FOLDERS[0]}/ (scripts/download.sh fetches COCO val2017)")
    if not Path(folder).is_dir():
        raise KitError(f"{folder}: no such folder, expected a data set with {ANNOTATIONS} and {IMAGE_FOLDERS[0]}/; "
                       "check --datasets or DATASETS_DIR")
    return Path(folder)


def _image_folder(folder: Path) -> Path:
    for candidate in IMAGE_FOLDERS:
        if (folder / candidate).is_dir():
            return folder / candidate
    raise KitError(f"{folder}: has neither {IMAGE_FOLDERS[0]}/ nor {IMAGE_FOLDERS[1]}/, expected the images there")


def _read_annotations(path: Path) -> dict[str, Any]:
    """The annotation file, with what the evaluation relies on checked."""
    if not path.is_file():
        raise KitError(f"{path}: no such file, expected COCO person keypoints; scripts/download.sh fetches them")
    # Outlines are most of the file, and keypoints are scored without them.
    content = read_json(path, "COCO person keypoints", leave_out="segmentation")
    if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person keypoints")
    try:
        for record in content["images"]:
            if not (isinstance(record["file_name"], str) and record["id"] is not None
                    and record["width"] > 0 and record["height"] > 0):
                raise ValueError(f"image {record['id']} has no name or no size")
        images = {record["id"] for record in content["images"]}
        for annotation in content["annotations"]:
            _check_annotation(annotation, images)
    except (KeyError, TypeError, ValueError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise KitError(f"{path}: broken record ({found}), expected COCO person keypoints; fetch it again") from error
    return content


def _check_annotation(annotation: dict[str, Any], images: set[int]) -> None:
    name = f"annotation {annotation['id']}"
    if annotation["image_id"] not in images:
        raise ValueError(f"{name} belongs to the unknown image {annotation['image_id']}")
    if "keypoints" not in annotation:
        return
    _check_numbers(f"{name}'s box", annotation["bbox"], 4)
    _check_numbers(f"{name}'s keypoints", annotation["keypoints"], 3 * NUM_KEYPOINTS)
    _check_numbers(f"{name}'s area", [annotation["area"]], 1)
    # pycocotools reads these two without asking.
    annotation.setdefault("iscrowd", 0)
    annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))


def _check_numbers(name: str, numbers: Sequence[float], length: int) -> None:
    if len(numbers) != length or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} is {str(numbers)[:60]}, not {length} finite numbers")


def _annotated_persons(path: Path, annotations: list[dict[str, Any]], records: dict[int, dict[str, Any]]
                       ) -> tuple[list[Person], int]:
    """Ground-truth persons as mmpose's ``BaseCocoStyleDataset`` chooses and clips them, and how many have an
    empty box."""
    persons, skipped = [], 0
    for index, annotation in enumerate(annotations):
        if annotation.get("iscrowd") or not annotation.get("num_keypoints") or max(annotation["keypoints"]) <= 0:
            continue
        record = records[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        corners = np.array([x, y, x + width, y + height])
        limits = np.array([record["width"], record["height"]] * 2) - 1
        bbox = np.clip(corners, 0, limits).astype(np.float32)
        if bbox[2] <= bbox[0] or bbox[3] <= bbox[1]:
            skipped += 1
            continue
        persons.append(Person(index, annotation["image_id"], bbox, np.float32(1)))
    if not persons:
        raise KitError(f"{path}: holds no person with keypoints and a box inside the image, expected COCO person "
                       "keypoints (person_keypoints_val2017.json, not instances_val2017.json)")
    return persons, skipped


def _detected_persons(path: Path, records: dict[int, dict[str, Any]]) -> list[Person]:
    """A detector's persons (category 1) as mmpose's ``BaseCocoStyleDataset._load_detection_results`` reads them."""
    detections = read_json(path, "detections in COCO result format")
    if not isinstance(detections, list):
        raise KitError(f"{path}: is no list, expected detections in COCO result format (a list of objects)")
    persons = []
    for index, detection in enumerate(detections):
        try:
            if detection["category_id"] != 1:
                continue
            persons.append(_detected_person(index, detection, records))
        except (KeyError, TypeError, ValueError) as error:
            found = f"no {error}" if isinstance(error, KeyError) else error
            raise KitError(f"{path}: detection {index}: {found}; expected image_id, category_id, "
                           "bbox [x, y, width, height] in pixels and score, for images of the annotations") from error
    if not persons:
        raise KitError(f"{path}: holds no detection of category 1, expected a detector's persons")
    return persons


def _detected_person(index: int, detection: dict[str, Any], records: dict[int, dict[str, Any]]) -> Person:
    if detection["image_id"] not in records:
        raise ValueError(f"unknown image {detection['image_id']}")
    record = records[detection["image_id"]]
    _check_numbers("bbox", detection["bbox"], 4)
    _check_numbers("score", [detection["score"]], 1)
    bbox = np.array(detection["bbox"], np.float32)
    bbox[2:] += bbox[:2]
    if bbox[2] <= bbox[0] or bbox[3] <= bbox[1]:
        raise ValueError(f"bbox {detection['bbox']} is empty")
    if bbox[0] >= record["width"] or bbox[1] >= record["height"] or bbox[2] <= 0 or bbox[3] <= 0:
        raise ValueError(f"bbox {detection['bbox']} lies outside its image of {record['width']}x{record['height']}")
    return Person(index, detection["image_id"], bbox, np.float32(detection["score"]))
