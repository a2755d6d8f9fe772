"""The persons of a COCO set: whose keypoints are predicted, in which image, in which box."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.annotations import Annotations, check_numbers, read_annotations
from rtmpose.errors import KitError
from rtmpose.files import read_json

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))


@dataclass(frozen=True, slots=True)
class Person:
    """One person whose keypoints are predicted."""

    index: int  # position in the annotation or detection file; results are written in this order
    image_id: int
    bbox: np.ndarray  # float32 (4,), x1 y1 x2 y2 in image pixels
    score: np.float32  # of the box; 1 for ground truth


@dataclass(frozen=True, slots=True)
class Image:
    """One image with persons in it."""

    id: int  # COCO's
    path: Path
    width: int
    height: int
    persons: tuple[Person, ...]  # in the order of their file


@dataclass(frozen=True)
class PersonSet:
    """The persons of an accuracy run; iterating over it yields them image by image."""

    images: tuple[Image, ...]  # those with persons, in the order of the annotation file
    annotations: Annotations
    limited: bool  # evaluate these images only, not all of the annotation file
    skipped: int  # annotated persons left out because their box is empty inside the image
    boxes: str  # source of the boxes, as text

    def __len__(self) -> int:
        return sum(len(image.persons) for image in self.images)

    def __iter__(self) -> Iterator[Person]:
        return (person for image in self.images for person in image.persons)


def load_persons(folder: str | Path | None, detections: str | Path | None = None, limit: int | None = None
                 ) -> PersonSet:
    """Read the persons of a data set in COCO's layout. Raises KitError if a file is missing, broken or contradictory.

    Args:
        folder: holds ``annotations/person_keypoints_val2017.json``, and images in ``images/val2017/`` or ``val2017/``;
            usually ``$DATASETS_DIR``.
        detections: a file with a detector's boxes, in COCO result format, to use instead of the ground truth's.
        limit: use only the first ``limit`` images with persons; only they are evaluated.
    """
    folder = _check_folder(folder)
    annotations = read_annotations(folder / ANNOTATIONS)
    image_folder = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if image_folder is None:
        raise KitError(f"{folder}: has neither {IMAGE_FOLDERS[0]}/ nor {IMAGE_FOLDERS[1]}/, expected the images there")
    records = {record["id"]: record for record in annotations.images}
    if detections is None:
        (persons, skipped), boxes = _annotated_persons(annotations, records), "ground-truth boxes"
    else:
        persons, skipped, boxes = _detected_persons(Path(detections), records), 0, f"boxes of {detections}"
    by_image: dict[int, list[Person]] = {}
    for person in persons:
        by_image.setdefault(person.image_id, []).append(person)
    images = tuple(Image(image_id, image_folder / record["file_name"], record["width"], record["height"],
                         tuple(by_image[image_id]))
                   for image_id, record in records.items() if image_id in by_image)
    return PersonSet(images[:limit], annotations, limit is not None, skipped, boxes)


def _check_folder(folder: str | Path | None) -> Path:
    if not folder:
        raise KitError("DATASETS_DIR is not set: give --datasets DIR or set DATASETS_DIR to a folder with "
                       f"{ANNOTATIONS} and {IMAGE_FOLDERS[0]}/ (scripts/download.sh fetches COCO val2017)")
    if not Path(folder).is_dir():
        found = "is a file, expected a folder" if Path(folder).exists() else "no such folder, expected a data set"
        raise KitError(f"{folder}: {found} with {ANNOTATIONS} and {IMAGE_FOLDERS[0]}/; "
                       "check --datasets or DATASETS_DIR")
    return Path(folder)


def _annotated_persons(annotations: Annotations, records: dict[int, dict[str, Any]]) -> tuple[list[Person], int]:
    """The ground truth of mmpose's ``BaseCocoStyleDataset``, boxes clipped as there, and the number of empty boxes."""
    persons, skipped = [], 0
    for index, annotation in enumerate(annotations.annotations):
        if ("keypoints" not in annotation or annotation["iscrowd"] or not annotation["num_keypoints"]
                or max(annotation["keypoints"]) <= 0):
            continue
        record = records[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        limits = np.array([record["width"], record["height"]] * 2) - 1
        bbox = np.clip(np.array([x, y, x + width, y + height]), 0, limits).astype(np.float32)
        if bbox[2] > bbox[0] and bbox[3] > bbox[1]:
            persons.append(Person(index, annotation["image_id"], bbox, np.float32(1)))
        else:
            skipped += 1
    if not persons:
        raise KitError(f"{annotations.path}: holds no person with keypoints and a box inside the image, expected COCO "
                       "person keypoints (person_keypoints_val2017.json, not instances_val2017.json)")
    return persons, skipped


def _detected_persons(path: Path, records: dict[int, dict[str, Any]]) -> list[Person]:
    """A detector's persons (category 1), as mmpose's ``BaseCocoStyleDataset._load_detection_results`` reads them."""
    detections = read_json(path, "detections in COCO result format")
    if not isinstance(detections, list):
        raise KitError(f"{path}: is no list, expected detections in COCO result format (a list of objects)")
    persons = []
    for index, detection in enumerate(detections):
        try:
            if detection["category_id"] == 1:
                persons.append(_detected_person(index, detection, records))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise KitError(f"{path}: detection {index}: {reason}; expected image_id, category_id, "
                           "bbox [x, y, width, height] in pixels and score, for images of the annotations") from error
    if not persons:
        raise KitError(f"{path}: holds no detection of category 1, expected a detector's persons")
    return persons


def _detected_person(index: int, detection: dict[str, Any], records: dict[int, dict[str, Any]]) -> Person:
    if detection["image_id"] not in records:
        raise ValueError(f"unknown image {detection['image_id']}")
    record = records[detection["image_id"]]
    check_numbers("bbox", detection["bbox"], 4)
    check_numbers("score", [detection["score"]], 1)
    bbox = np.array(detection["bbox"], np.float32)
    bbox[2:] += bbox[:2]
    if bbox[2] <= bbox[0] or bbox[3] <= bbox[1]:
        raise ValueError(f"bbox {detection['bbox']} is empty")
    if bbox[0] >= record["width"] or bbox[1] >= record["height"] or bbox[2] <= 0 or bbox[3] <= 0:
        raise ValueError(f"bbox {detection['bbox']} lies outside its image of {record['width']}x{record['height']}")
    return Person(index, detection["image_id"], bbox, np.float32(detection["score"]))
