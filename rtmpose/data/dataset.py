"""The persons of a COCO set: whose keypoints are predicted, in which image, in which box."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.annotations import BROKEN, Annotations, read_annotations, reason, to_array
from rtmpose.environment import paused_gc
from rtmpose.errors import KitError
from rtmpose.files import file_mode, is_folder, read_json

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
GROUND_TRUTH = "ground-truth boxes"
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
    limit: int | None  # evaluate these images only, at most so many, not all of the annotation file
    skipped: int  # annotated persons left out because their box is empty inside the image
    boxes: str  # source of the boxes, as text

    def __len__(self) -> int:
        return sum(len(image.persons) for image in self.images)

    def __iter__(self) -> Iterator[Person]:
        return (person for image in self.images for person in image.persons)


@dataclass(frozen=True)
class DataSet:
    """Annotation file and image folder of a data set in COCO's format."""

    annotations: Path
    images: Path

    def __str__(self) -> str:
        return f"{self.annotations} and {self.images}"


@paused_gc()
def load_persons(data_set: DataSet | str | Path | None, detections: str | Path | None = None,
                 limit: int | None = None) -> PersonSet:
    """Read the persons of a data set. Raises KitError if a file is missing, broken or contradictory.

    Args:
        data_set: its files, or a folder as :func:`find_data_set` takes it.
        detections: a file with a detector's boxes, in COCO result format, to use instead of the ground truth's.
        limit: use only the first ``limit`` images with persons; only they are evaluated.
    """
    files = find_data_set(data_set)
    annotations = read_annotations(files.annotations)
    if not is_folder(files.images):
        raise KitError(f"{files.images}: no such folder, expected the images of {files.annotations}")
    records = {record["id"]: record for record in annotations.images}
    if detections is None:
        (persons, skipped), boxes = _annotated_persons(annotations, records), GROUND_TRUTH
    else:
        persons, skipped = _detected_persons(Path(detections), records, annotations.person_id), 0
        boxes = f"boxes of {detections}"
    by_image: dict[int, list[Person]] = {}
    for person in persons:
        by_image.setdefault(person.image_id, []).append(person)
    images = tuple(Image(image_id, _image_path(files, record), int(record["width"]), int(record["height"]),
                         tuple(by_image[image_id]))
                   for image_id, record in records.items() if image_id in by_image)
    return PersonSet(images[:limit], annotations, limit, skipped, boxes)


def find_data_set(folder: DataSet | str | Path | None) -> DataSet:
    """The files of a folder in COCO's layout, usually ``$DATASETS_DIR``. Raises KitError if one is missing.

    It holds ``annotations/person_keypoints_val2017.json``, and images in ``images/val2017/`` or ``val2017/``.
    """
    if isinstance(folder, DataSet):
        return folder
    if not folder:
        raise KitError("DATASETS_DIR is not set: give --datasets DIR or set DATASETS_DIR to a folder with "
                       f"{ANNOTATIONS} and {IMAGE_FOLDERS[0]}/ (scripts/download.sh fetches COCO val2017)")
    folder = Path(folder)
    if not is_folder(folder):
        found = "is a file" if file_mode(folder) else "no such folder"
        raise KitError(f"{folder}: {found}, expected a folder with {ANNOTATIONS} and {IMAGE_FOLDERS[0]}/; check "
                       "--datasets or DATASETS_DIR")
    if not file_mode(folder / ANNOTATIONS):
        raise KitError(f"{folder / ANNOTATIONS}: no such file, {_other_annotations(folder)}")
    images = next((folder / name for name in IMAGE_FOLDERS if is_folder(folder / name)), None)
    if images is None:
        raise KitError(f"{folder}: has neither {IMAGE_FOLDERS[0]}/ nor {IMAGE_FOLDERS[1]}/, expected the images there")
    return DataSet(folder / ANNOTATIONS, images)


def _other_annotations(folder: Path) -> str:
    """What to do where the usual annotation file is missing."""
    found = sorted(path.name for path in (folder / ANNOTATIONS.parent).glob("*.json"))
    if not found:
        return "expected COCO person keypoints; scripts/download.sh fetches them"
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"found {', '.join(found[:5])}{more} there; give one with inference.py --annotations FILE --images DIR"


def _image_path(files: DataSet, record: dict[str, Any]) -> Path:
    name = record["file_name"]
    if os.path.isabs(name) or ".." in name:
        folder = os.path.abspath(files.images)
        if os.path.commonpath([folder, os.path.abspath(files.images / name)]) != folder:
            raise KitError(f"{files.annotations}: image {record['id']!r:.60} has the file name {name!r:.200}, expected "
                           f"one in {files.images}/; correct the annotations")
    return files.images / name


def _annotated_persons(annotations: Annotations, records: dict[int, dict[str, Any]]) -> tuple[list[Person], int]:
    """The ground truth of mmpose's ``BaseCocoStyleDataset``, boxes clipped as there, and the number of empty boxes."""
    persons, skipped = [], 0
    for index, annotation in enumerate(annotations.annotations):
        if ("keypoints" not in annotation or annotation["category_id"] != annotations.person_id
                or annotation["iscrowd"] or not annotation["num_keypoints"] or max(annotation["keypoints"]) <= 0):
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


def _detected_persons(path: Path, records: dict[int, dict[str, Any]], person_id: int | str) -> list[Person]:
    """A detector's persons, as mmpose's ``BaseCocoStyleDataset._load_detection_results`` reads them."""
    detections = read_json(path, "detections in COCO result format")
    if not isinstance(detections, list):
        raise KitError(f"{path}: is no list, expected detections in COCO result format (a list of objects)")
    try:
        persons = _to_persons(detections, records, person_id)
    except BROKEN:
        for index, detection in enumerate(detections):
            try:
                _to_persons([detection], records, person_id)
            except BROKEN as error:
                raise KitError(f"{path}: detection {index}: {reason(error)}; expected image_id, category_id, "
                               "bbox [x, y, width, height] in pixels and score, for images of the annotations"
                               ) from error
        raise
    if not persons:
        raise KitError(f"{path}: holds no detection of category {person_id}, the annotations' persons; expected a "
                       "detector's boxes with that category_id")
    return persons


def _to_persons(detections: list[dict[str, Any]], records: dict[int, dict[str, Any]], person_id: int | str
                ) -> list[Person]:
    """The persons among detections. Raises one of :data:`BROKEN`, which says why if there is one detection only."""
    rows = [row for row, detection in enumerate(detections) if detection["category_id"] == person_id]
    if not rows:
        return []
    images, given, scores = ([detections[row][key] for row in rows] for key in ("image_id", "bbox", "score"))
    if not all(image in records for image in images):
        raise ValueError(f"unknown image {images[0]!r:.60}")
    bboxes = to_corners(given, [(records[image]["width"], records[image]["height"]) for image in images])
    return list(map(Person, rows, images, bboxes, to_array("score", [scores], len(rows))[0]))


def to_corners(given: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Boxes given as x, y, width, height in pixels, one in each image of width and height: float32 (N, 4), x1 y1 x2 y2.

    Raises ValueError, which names the first box, if any isn't four finite numbers, is empty, or lies outside its image.
    """
    bboxes = to_array("bbox", given, 4)
    bboxes[:, 2:] += bboxes[:, :2]
    if (bboxes[:, 2:] <= bboxes[:, :2]).any():
        raise ValueError(f"bbox {given[0]} is empty")
    if (bboxes[:, :2] >= np.array(sizes)).any() or (bboxes[:, 2:] <= 0).any():
        raise ValueError(f"bbox {given[0]} lies outside its image of {'x'.join(map(str, sizes[0]))}")
    return bboxes
