"""A data set in COCO's format: its annotation file, read once and checked, and the persons whose keypoints are
predicted, in which image, in which box."""

import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.errors import KitError
from rtmpose.files import read_json

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
GROUND_TRUTH = "ground-truth boxes"
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))
NUM_KEYPOINTS = 17
_LIMIT = 1e12
_ID_LIMIT = 2**63  # NumPy's integers, with which pycocotools sorts ids
_LONGEST_SIDE = 2**20  # pixels that OpenCV reads
gc.set_threshold(10**6)  # while records are read, the collector would walk through all of them again and again


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
    persons: list[Person]  # in the order of their file


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
    if detections is None:
        skipped, boxes = _add_annotated(annotations, known), GROUND_TRUTH
    else:
        skipped, boxes = 0, f"boxes of {detections}"
        _add_detected(Path(detections), annotations.person_id, known)
    images = tuple(image for image in known.values() if image.persons)
    folder = os.path.join(os.path.abspath(files.images), "")
    for image in images:
        if not os.path.abspath(image.path).startswith(folder):
            raise KitError(f"{files.annotations}: image {image.id!r:.60} is {str(image.path)!r:.200}, expected a file "
                           f"in {files.images}/; correct the annotations")
    return PersonSet(images[:limit], annotations, limit, skipped, boxes)


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
        raise KitError(f"{folder}: {found}, expected {layout}; check --datasets or DATASETS_DIR")
    annotations = folder / ANNOTATIONS
    if not annotations.exists():
        others = sorted(path.name for path in annotations.parent.glob("*.json"))
        advice = (f"found {', '.join(others[:5])} there; give one with inference.py --annotations FILE --images DIR"
                  if others else "expected COCO person keypoints; scripts/download.sh fetches them")
        raise KitError(f"{annotations}: no such file, {advice}")
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise KitError(f"{folder}: has neither {IMAGE_FOLDERS[0]}/ nor {IMAGE_FOLDERS[1]}/, expected the images there")
    return DataSet(annotations, images)


def _add_annotated(annotations: Annotations, images: dict[int | str, Image]) -> int:
    """Add the ground truth of mmpose's ``BaseCocoStyleDataset``, boxes clipped as there; return how many are empty."""
    skipped = 0
    for index, annotation in enumerate(annotations.annotations):
        if ("keypoints" not in annotation or annotation["category_id"] != annotations.person_id
                or annotation["iscrowd"] or not annotation["num_keypoints"] or max(annotation["keypoints"]) <= 0):
            continue
        image = images[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        limits = np.array([image.width, image.height] * 2) - 1
        bbox = np.clip(np.array([x, y, x + width, y + height]), 0, limits).astype(np.float32)
        if bbox[2] > bbox[0] and bbox[3] > bbox[1]:
            image.persons.append(Person(index, image.id, bbox, np.float32(1)))
        else:
            skipped += 1
    if not any(image.persons for image in images.values()):
        raise KitError(f"{annotations.path}: holds no person with keypoints and a box inside the image, expected COCO "
                       "person keypoints (person_keypoints_val2017.json, not instances_val2017.json)")
    return skipped


def _add_detected(path: Path, person_id: int | str, images: dict[int | str, Image]) -> None:
    """Add a detector's persons, as mmpose's ``BaseCocoStyleDataset._load_detection_results`` reads them."""
    detections = read_json(path, "detections in COCO result format")
    if not isinstance(detections, list):
        raise KitError(f"{path}: is no list, expected detections in COCO result format (a list of objects)")
    index = 0
    try:
        for index, detection in enumerate(detections):
            expect(isinstance(detection, dict) and "category_id" in detection, "it", detection,
                   "an object with category_id")
            if detection["category_id"] == person_id:
                identity, score = detection.get("image_id"), detection.get("score")
                expect(identity in images, "image_id", identity, "the id of an image of the annotations")
                image = images[identity]
                bbox = to_corners(detection.get("bbox"), (image.width, image.height))
                check_numbers("score", [score], 1)
                image.persons.append(Person(index, image.id, bbox, np.float32(score)))
    except (TypeError, ValueError, RecursionError) as error:
        raise KitError(f"{path}: detection {index}: {error}; expected image_id, category_id, bbox [x, y, width, "
                       "height] in pixels and score, for images of the annotations") from error
    if not any(image.persons for image in images.values()):
        raise KitError(f"{path}: holds no detection of category {person_id}, the annotations' persons; expected a "
                       "detector's boxes with that category_id")


def to_corners(given: Any, size: tuple[int, int]) -> np.ndarray:
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
    known: dict[str, set[int | str]] = {"images": set(), "categories": set(), "annotations": set()}  # ids so far
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in known):
        raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person keypoints")
    try:
        for name, ids in known.items():
            for record in content[name]:
                expect(isinstance(record, dict), "it", record, "an object")
                identity, kind = record.get("id"), str if isinstance(content[name][0].get("id"), str) else (int, float)
                expect(isinstance(identity, kind) and (isinstance(identity, str) or abs(identity) < _ID_LIMIT),
                       "id", identity, "a number below 2^63, or a string as the first one is")  # pycocotools sorts them
                expect(identity not in ids, "id", identity, "of this record only")
                if name == "images":
                    _check_image(record)
                elif name == "annotations":
                    _check_annotation(record, known["images"], known["categories"])
                ids.add(identity)
    except (TypeError, ValueError, RecursionError) as error:
        raise KitError(f"{path}: broken record ({name}[{len(ids)}]: {error}), expected COCO person keypoints; fetch it "
                       "again") from error
    names = [category.get("name") for category in content["categories"]]
    if names.count("person") != 1:  # mmpose takes it from the file as well
        raise KitError(f"{path}: {names.count('person')} categories are named person, expected one; the names are "
                       f"{names!r:.60}; give COCO person keypoints")
    person_id = content["categories"][names.index("person")]["id"]
    return Annotations(path, content["images"], content["annotations"], content["categories"], person_id)


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


def _check_image(image: dict[str, Any]) -> None:
    name, sides = image.get("file_name"), (image.get("width"), image.get("height"))
    expect(isinstance(name, str) and all(character >= " " for character in name), "file_name", name,
           "a name without control characters")
    os.fsencode(image["file_name"])  # raises a ValueError if no file can have that name
    expect(all(isinstance(side, (int, float)) and 0 < side <= _LONGEST_SIDE and side % 1 == 0 for side in sides),
           "size", sides, f"two whole numbers from 1 to {_LONGEST_SIDE}")


def _check_annotation(annotation: dict[str, Any], images: set[int | str], categories: set[int | str]) -> None:
    for key, ids in (("image_id", images), ("category_id", categories)):
        identity = annotation.get(key)
        expect(isinstance(identity, (int, float, str)) and identity in ids, key, identity, "in the file")
    if "keypoints" not in annotation:
        return
    check_numbers("bbox", annotation.get("bbox"), 4)
    check_numbers("area", [annotation.get("area")], 1)
    check_numbers("keypoints", annotation["keypoints"], 3 * NUM_KEYPOINTS)
    # pycocotools relies on these two.
    crowd = annotation.setdefault("iscrowd", 0)
    expect(crowd in (0, 1), "iscrowd", crowd, "0 or 1")
    number = annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))
    expect(isinstance(number, int) and 0 <= number <= NUM_KEYPOINTS, "num_keypoints", number,
           f"a whole number from 0 to {NUM_KEYPOINTS}")
