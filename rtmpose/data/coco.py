"""A data set in COCO's format: its annotation file, read once and checked, and the persons whose keypoints are
predicted, in which image, in which box."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.errors import KitError
from rtmpose.files import read_json

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
GROUND_TRUTH = "ground-truth boxes"
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))
NUM_KEYPOINTS = 17
PERSON = "person"
_BROKEN = (KeyError, TypeError, ValueError, OverflowError, RecursionError)  # what reading a broken record raises
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
    if not files.images.is_dir():
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
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise KitError(f"{folder}: {found}, expected a folder with {ANNOTATIONS} and {IMAGE_FOLDERS[0]}/; check "
                       "--datasets or DATASETS_DIR")
    if not (folder / ANNOTATIONS).exists():
        raise KitError(f"{folder / ANNOTATIONS}: no such file, {_other_annotations(folder)}")
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
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
    persons: list[Person] = []

    def add(index: int, detection: dict[str, Any]) -> None:
        if detection["category_id"] == person_id:
            image, score = detection["image_id"], detection["score"]
            expect(image in records, "image_id", image, "the id of an image of the annotations")
            bbox = to_corners(detection["bbox"], (records[image]["width"], records[image]["height"]))
            check_numbers("score", [score], 1)
            persons.append(Person(index, image, bbox, np.float32(score)))

    try:
        for_each("detection {}", detections, add)
    except ValueError as error:
        raise KitError(f"{path}: {error}; expected image_id, category_id, bbox [x, y, width, height] in pixels and "
                       "score, for images of the annotations") from error
    if not persons:
        raise KitError(f"{path}: holds no detection of category {person_id}, the annotations' persons; expected a "
                       "detector's boxes with that category_id")
    return persons


def to_corners(given: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """A box, given as x, y, width, height in pixels of an image of width and height: float32 (4,), x1 y1 x2 y2.

    Raises ValueError if it isn't four finite numbers, is empty, or lies outside the image.
    """
    check_numbers("bbox", given, 4)
    bbox = np.array(given, np.float32)
    bbox[2:] += bbox[:2]
    left, top, right, bottom = bbox.tolist()
    if right <= left or bottom <= top:
        raise ValueError(f"bbox {given} is empty")
    if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0:
        raise ValueError(f"bbox {given} lies outside its image of {size[0]}x{size[1]}")
    return bbox


def read_annotations(path: Path) -> Annotations:
    """Read and check an annotation file. Raises KitError if it is missing, broken or contradictory."""
    content = read_json(path, "COCO person keypoints", object_hook=_drop_segmentation)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person keypoints")
    images, annotations, categories = (content[key] for key in _LISTS)
    try:
        known = {"image_id": _check_records("images", images, _check_image),
                 "category_id": _check_records("categories", categories, lambda category: None)}
        person_id = _find_person(categories)
        _check_records("annotations", annotations, partial(_check_annotation, known))
    except ValueError as error:
        raise KitError(f"{path}: broken record ({error}), expected COCO person keypoints; fetch it again") from error
    return Annotations(path, images, annotations, categories, person_id)


def for_each(name: str, records: Sequence[Any], work: Callable[[int, Any], None]) -> None:
    """Work on each record, given its index. Raises ValueError, which names the record, if it is broken."""
    for index, record in enumerate(records):
        try:
            work(index, record)
        except _BROKEN as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{name.format(index)}: {reason}") from error


def expect(is_right: object, name: str, found: Any, expected: str) -> None:
    """Raise ValueError, which says what was found and expected, unless that is right."""
    if not is_right:
        raise ValueError(f"{name} is {found!r:.60}, not {expected}")


def check_numbers(name: str, numbers: Any, length: int) -> None:
    """Raise ValueError unless ``numbers`` are ``length`` finite numbers below 10^12."""
    expect(isinstance(numbers, (list, tuple)) and len(numbers) == length
           and all(isinstance(number, (int, float)) and abs(number) < _LIMIT for number in numbers),
           name, numbers, f"{length} finite numbers below {_LIMIT:g}")


def _drop_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file, and keypoints are scored without them."""
    record.pop("segmentation", None)
    return record


def _check_records(name: str, records: list[dict[str, Any]], check: Callable[[dict[str, Any]], None]
                   ) -> set[int | str]:
    """Check records, and their ids: all numbers or all strings, which pycocotools can sort, and all different. Returns
    the ids; raises ValueError, which names the record that is broken."""
    ids: set[int | str] = set()

    def check_one(_: int, record: dict[str, Any]) -> None:
        identity, kind = record["id"], str if isinstance(records[0]["id"], str) else (int, float)
        expect(isinstance(identity, kind) and (isinstance(identity, str) or abs(identity) < _ID_LIMIT), "id", identity,
               "a number below 2^63, or a string as the first one is")
        expect(identity not in ids, "id", identity, "of this record only")
        ids.add(identity)
        check(record)

    for_each(f"{name}[{{}}]", records, check_one)
    return ids


def _check_image(image: dict[str, Any]) -> None:
    name, sides = image["file_name"], (image["width"], image["height"])
    expect(isinstance(name, str) and all(character >= " " for character in name), "file_name", name,
           "a name without control characters")
    os.fsencode(name)  # raises a ValueError if no file can have that name
    expect(all(0 < side <= _LONGEST_SIDE and side == int(side) for side in sides), "size", sides,
           f"two whole numbers from 1 to {_LONGEST_SIDE}")


def _find_person(categories: list[dict[str, Any]]) -> int | str:
    """The id of the person category, which mmpose takes from the file as well."""
    names = [category.get("name") for category in categories]
    if names.count(PERSON) != 1:
        raise ValueError(f"{names.count(PERSON)} categories are named {PERSON}, expected one; the names are "
                         f"{names!r:.60}")
    return categories[names.index(PERSON)]["id"]


def _check_annotation(known: dict[str, set[int | str]], annotation: dict[str, Any]) -> None:
    for key, ids in known.items():
        identity = annotation.get(key)
        expect(isinstance(identity, (int, float, str)) and identity in ids, key, identity, "in the file")
    if "keypoints" not in annotation:
        return
    for key, numbers, length in (("bbox", annotation["bbox"], 4), ("area", [annotation["area"]], 1),
                                 ("keypoints", annotation["keypoints"], 3 * NUM_KEYPOINTS)):
        check_numbers(key, numbers, length)
    # pycocotools relies on these two.
    crowd = annotation.setdefault("iscrowd", 0)
    expect(crowd in (0, 1), "iscrowd", crowd, "0 or 1")
    number = annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))
    expect(isinstance(number, int) and 0 <= number <= NUM_KEYPOINTS, "num_keypoints", number,
           f"a whole number from 0 to {NUM_KEYPOINTS}")
