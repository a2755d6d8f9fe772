"""A data set in COCO's format: its annotation file, read once and checked, and the persons whose keypoints are
predicted, in which image, in which box."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.errors import KitError
from rtmpose.files import file_mode, is_folder, read_json
from rtmpose.machine.versions import paused_gc

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
GROUND_TRUTH = "ground-truth boxes"
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))
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
