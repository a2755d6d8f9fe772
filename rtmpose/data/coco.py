"""A data set in COCO's format: the persons whose keypoints are predicted, in which image, in which box."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.annotations import ID, Annotations, check_number, check_numbers, expect, read_annotations
from rtmpose.errors import KitError
from rtmpose.files import read_json

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
GROUND_TRUTH = "ground-truth boxes"
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))


@dataclass(frozen=True, slots=True)
class Person:
    """One person whose keypoints are predicted."""

    index: int  # position in Annotations.annotations or in the detection file, the order of results
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
    persons: list[Person]  # in the order of their file


@dataclass(frozen=True)
class PersonSet:
    """The persons of an accuracy run; iterating over it yields them image by image."""

    images: tuple[Image, ...]  # those with persons, in the order of the annotation file
    annotations: Annotations
    limit: int | None  # evaluate these images only, at most so many, not all of the annotation file
    boxes: str  # source of the boxes, as text
    notes: dict[str, int]  # what was left out, was read otherwise than it is written, or looks wrong, and how often

    def __len__(self) -> int:
        return sum(len(image.persons) for image in self.images)

    def __iter__(self) -> Iterator[Person]:
        return (person for _, person in self.pairs)

    @property
    def pairs(self) -> list[tuple[Image, Person]]:
        """All persons in order, each with its image."""
        return [(image, person) for image in self.images for person in image.persons]


@dataclass(frozen=True)
class DataSet:
    """Annotation file and image folder of a data set in COCO's format."""

    annotations: Path
    images: Path

    def __str__(self) -> str:
        return f"{self.annotations} and {self.images}"


def regroup(pairs: Iterable[tuple[Image, Person]]) -> list[Image]:
    """The images of some of :attr:`PersonSet.pairs` in their order, each with those of its persons."""
    return [replace(image, persons=[person for _, person in group]) for image, group in groupby(pairs, itemgetter(0))]


def load_persons(data_set: DataSet | str | Path | None, detections: str | Path | None = None,
                 limit: int | None = None) -> PersonSet:
    """Read the persons of a data set, in the boxes of the ground truth or of ``detections``, a file in COCO result
    format; only those of the first ``limit`` images with persons, if that is given. Raises KitError if a file is
    missing, broken or contradictory."""
    files = find_data_set(data_set)
    annotations = read_annotations(files.annotations)
    if not files.images.is_dir():
        raise KitError(f"{files.images}: no such folder, expected the images of {files.annotations}")
    known = {record["id"]: Image(record["id"], files.images / record["file_name"], int(record["width"]),
                                 int(record["height"]), []) for record in annotations.images}
    notes = Counter(annotations.notes)
    if detections is None:
        boxes = GROUND_TRUTH
        _add_annotated(annotations, known, notes)
    else:
        boxes = f"boxes of {detections}"
        _add_detected(Path(detections), annotations.person_id, known, notes)
    images = tuple(image for image in known.values() if image.persons)
    folder = os.path.join(os.path.abspath(files.images), "")
    for image in images:
        if not os.path.abspath(image.path).startswith(folder):
            raise KitError(f"{files.annotations}: image {image.id!r:.60} is {str(image.path)!r:.200}, expected a file "
                           f"in {files.images}/; correct the annotations")
    return PersonSet(images[:limit], annotations, limit, boxes, dict(notes))


def find_data_set(folder: DataSet | str | Path | None) -> DataSet:
    """The files of a folder in COCO's layout, usually ``$DATASETS_DIR``. Raises KitError if one is missing.

    It holds ``annotations/person_keypoints_val2017.json``, and images in ``images/val2017/`` or ``val2017/``.
    """
    if isinstance(folder, DataSet):
        return folder
    layout = f"a folder with {ANNOTATIONS} and {IMAGE_FOLDERS[0]}/"
    if not folder:
        raise KitError(f"DATASETS_DIR is not set: give --datasets DIR or set DATASETS_DIR to {layout} "
                       "(scripts/download.sh fetches COCO val2017)")
    folder = Path(folder)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise KitError(f"{folder}: {found}, expected {layout}; check the option or DATASETS_DIR")
    annotations = folder / ANNOTATIONS
    if not annotations.exists():
        others = sorted(path.name for path in annotations.parent.glob("*.json"))
        advice = (f"found {', '.join(others[:5])} there; link one to that name, or give --annotations FILE "
                  "--images DIR where --help lists them"
                  if others else "expected COCO person keypoints; scripts/download.sh fetches them")
        raise KitError(f"{annotations}: no such file, {advice}")
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise KitError(f"{folder}: has neither {IMAGE_FOLDERS[0]}/ nor {IMAGE_FOLDERS[1]}/, expected the images there")
    return DataSet(annotations, images)


def _add_annotated(annotations: Annotations, images: dict[int | str, Image], notes: Counter[str]) -> None:
    """Add the ground truth of mmpose's ``BaseCocoStyleDataset``, boxes clipped as there."""
    given, has_area = [], False
    for index, annotation in enumerate(annotations.annotations):
        keypoints = annotation["keypoints"]
        if annotation["iscrowd"] or annotation.get("num_keypoints") == 0 or max(keypoints[::3] + keypoints[1::3]) <= 0:
            continue
        image = images[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        limits = np.array([image.width, image.height] * 2) - 1
        bbox = np.clip(np.array([x, y, x + width, y + height]), 0, limits).astype(np.float32)
        if bbox[2] > bbox[0] and bbox[3] > bbox[1]:
            image.persons.append(Person(index, image.id, bbox, np.float32(1)))
        else:
            notes["persons left out, whose box is empty or outside the image"] += 1
        given.append((x, y, width, height, image.width, image.height))
        has_area |= annotation["area"] != 0
    if not any(image.persons for image in images.values()):
        raise KitError(f"{annotations.path}: holds no person with keypoints and a box inside the image, expected COCO "
                       "person keypoints (person_keypoints_val2017.json, not instances_val2017.json)"
                       + "".join(f"; found {note}: {number}" for note, number in notes.items()))
    if not has_area:
        notes["persons of area 0, whose keypoints all count as wrong"] = len(given)
    _question_boxes(given, notes)


def _add_detected(path: Path, person_id: int | str, images: dict[int | str, Image], notes: Counter[str]) -> None:
    """Add a detector's persons, as mmpose's ``BaseCocoStyleDataset._load_detection_results`` reads them, without those
    whose box is empty or outside the image."""
    detections = read_json(path, "detections in COCO result format")
    if not isinstance(detections, list):
        raise KitError(f"{path}: is no list, expected detections in COCO result format (a list of objects)")
    index, given = 0, []
    try:
        for index, detection in enumerate(detections):
            expect(isinstance(detection, dict) and "category_id" in detection, "it", detection,
                   "an object with category_id")
            if detection["category_id"] != person_id:
                continue
            identity, bbox, score = detection.get("image_id"), detection.get("bbox"), detection.get("score")
            expect(isinstance(identity, ID) and identity in images, "image_id", identity,
                   "the id of an image of the annotations")
            if isinstance(bbox, list) and len(bbox) > 4:
                notes["detections of more than four numbers in bbox, of which the first four were used"] += 1
                bbox = bbox[:4]
            corners, image = to_corners(bbox), images[identity]
            check_number("score", score)
            if is_inside(corners, (image.width, image.height)):
                image.persons.append(Person(index, image.id, corners, np.float32(score)))
            else:
                notes["detections left out, whose box is empty or outside the image"] += 1
            given.append((*bbox, image.width, image.height))
    except (TypeError, ValueError, RecursionError) as error:
        raise KitError(f"{path}: detection {index}: {error}; expected image_id, category_id, bbox [x, y, width, "
                       "height] in pixels and score, for images of the annotations") from error
    if not any(image.persons for image in images.values()):
        raise KitError(f"{path}: holds no detection of category {person_id}, the annotations' persons, with a box "
                       "inside the image; expected a detector's boxes with that category_id")
    _question_boxes(given, notes)


def _question_boxes(given: Sequence[tuple[float, ...]], notes: Counter[str]) -> None:
    """Note boxes that look like another convention than COCO's; each is x, y, width, height and the image's size."""
    left, top, width, height, image_width, image_height = np.array(given, np.float64).T
    beyond = int(((left + width > image_width + 1) | (top + height > image_height + 1)).sum())
    if beyond > len(given) / 2:
        notes["boxes, most of them, reach beyond their image: are they x1 y1 x2 y2, not x y width height?"] = beyond
    if (left + width).max() <= 1 and (top + height).max() <= 1:
        notes["boxes, all of them, lie between 0 and 1: are they fractions of the image, not pixels?"] = len(given)


def to_corners(given: Any) -> np.ndarray:
    """A box, given as x, y, width and height in pixels: float32 (4,), x1 y1 x2 y2. Raises ValueError if it isn't four
    finite numbers."""
    check_numbers("bbox", given, 4)
    corners = np.array(given, np.float32)
    corners[2:] += corners[:2]
    return corners


def is_inside(corners: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a box, float32 (4,), x1 y1 x2 y2, isn't empty and has a part in an image of this width and height."""
    left, top, right, bottom = corners.tolist()
    return left < right and top < bottom and left < size[0] and top < size[1] and right > 0 and bottom > 0
