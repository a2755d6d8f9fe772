"""An annotation file in COCO's format, read once and checked."""

import gc
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError
from rtmpose.files import read_json

NUM_KEYPOINTS = 17
ID = (int, float, str)
_LIMIT = 1e12
_ID_LIMIT = 2**63  # NumPy's integers, with which pycocotools sorts ids
_LONGEST_SIDE = 2**20  # pixels that OpenCV reads
gc.set_threshold(10**6)  # while records are read, the collector would walk through all of them again and again


@dataclass(frozen=True)
class Annotations:
    """Content of an annotation file in COCO's format, as far as it concerns the keypoints of persons."""

    path: Path
    images: list[dict[str, Any]]  # id, file_name, width, height, ...
    annotations: list[dict[str, Any]]  # persons with keypoints in these images, in the file's order; all have iscrowd
    person_id: int | str  # id of their category
    notes: dict[str, int]  # what was left out or read otherwise than it is written, and how often


def read_annotations(path: Path) -> Annotations:
    """Read and check an annotation file. Raises KitError if it is missing, broken or contradictory."""
    content = read_json(path, "COCO person keypoints", object_hook=_drop_segmentation)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list)
                                                for name in ("images", "annotations", "categories")):
        raise KitError(f"{path}: lacks the lists images, annotations and categories, expected COCO person keypoints")
    notes: Counter[str] = Counter()
    categories = _read_records(path, "categories", content, notes, lambda category: category)
    person_id = _find_persons(path, list(categories.values()))
    images = _read_records(path, "images", content, notes, _check_image)

    def find_person(annotation: dict[str, Any]) -> dict[str, Any] | None:
        category, image = annotation.get("category_id"), annotation.get("image_id")
        expect(isinstance(category, ID), "category_id", category, "the id of a category")
        expect(isinstance(image, ID), "image_id", image, "the id of an image")
        if category not in categories:
            notes["annotations left out, whose category the file doesn't list"] += 1
        elif image not in images:
            notes["annotations left out, whose image the file doesn't list"] += 1
        elif category == person_id and "keypoints" in annotation:
            return _check_person(annotation)
        return None

    persons = _read_records(path, "annotations", content, notes, find_person)
    return Annotations(path, list(images.values()), list(persons.values()), person_id, dict(notes))


def _read_records(path: Path, name: str, content: dict[str, list[Any]], notes: Counter[str],
                  use: Callable[[dict[str, Any]], dict[str, Any] | None]) -> dict[int | str, dict[str, Any]]:
    """What ``use`` makes of the records of one of a file's lists, by id, where it isn't None. Raises KitError, which
    names the first broken record."""
    known: dict[Any, tuple[dict[str, Any], dict[str, Any] | None]] = {}  # as it is written, and as it is used
    for index, record in enumerate(content[name]):
        identity = record.get("id") if isinstance(record, dict) else None
        try:
            expect(isinstance(record, dict), "it", record, "an object")
            kind = str if isinstance(next(iter(known), identity), str) else (int, float)  # pycocotools sorts them
            expect(isinstance(identity, kind) and (isinstance(identity, str) or abs(identity) < _ID_LIMIT),
                   "id", identity, "a number below 2^63, or a string as the first one is")
            if identity in known:
                expect(record == known[identity][0], "id", identity, "of this record only")
                notes[f"{name} listed twice, the same, used once"] += 1
            else:
                known[identity] = record, use(record)
        except (TypeError, ValueError, RecursionError) as error:
            place = f"{name}[{index}]" + (f", id {identity!r:.60}" if isinstance(identity, ID) else "")
            raise KitError(f"{path}: {place}: {error}, expected COCO person keypoints; correct the file") from error
    return {identity: used for identity, (_, used) in known.items() if used}


def _find_persons(path: Path, categories: list[dict[str, Any]]) -> int | str:
    """Id of the only category, or of the only one that is named person."""
    named = [category for category in categories if str(category.get("name")).lower() == "person"]
    found = categories if len(categories) == 1 else named
    if len(found) != 1:
        names = ", ".join(f"{category.get('name')!r:.40} (id {category['id']!r:.40})"
                          for category in named or categories)
        raise KitError(f"{path}: {len(named)} of {len(categories)} categories are named person, expected one: "
                       f"{names:.200}; rename the others")
    return found[0]["id"]


def expect(is_right: object, name: str, found: Any, expected: str) -> None:
    """Raise ValueError, which says what was found and expected, unless that is right."""
    if not is_right:
        raise ValueError(f"{name} is {found!r:.60}, not {expected}")


def check_number(name: str, number: Any) -> None:
    """Raise ValueError unless ``number`` is a finite number below 10^12."""
    expect(_is_number(number), name, number, f"a finite number below {_LIMIT:g}")


def check_numbers(name: str, numbers: Any, length: int) -> None:
    """Raise ValueError unless ``numbers`` are ``length`` finite numbers below 10^12."""
    expect(isinstance(numbers, (list, tuple)) and len(numbers) == length and all(map(_is_number, numbers)),
           name, numbers, f"{length} finite numbers below {_LIMIT:g}")


def _is_number(found: Any) -> bool:
    return isinstance(found, (int, float)) and abs(found) < _LIMIT


def _drop_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file, and keypoints are scored without them."""
    record.pop("segmentation", None)
    return record


def _check_image(image: dict[str, Any]) -> dict[str, Any]:
    name, sides = image.get("file_name"), (image.get("width"), image.get("height"))
    expect(isinstance(name, str) and all(character >= " " for character in name), "file_name", name,
           "a name without control characters")
    os.fsencode(image["file_name"])  # raises a ValueError if no file can have that name
    expect(all(isinstance(side, (int, float)) and 0 < side <= _LONGEST_SIDE and side % 1 == 0 for side in sides),
           "size", sides, f"two whole numbers from 1 to {_LONGEST_SIDE}")
    return image


def _check_person(annotation: dict[str, Any]) -> dict[str, Any]:
    check_numbers("bbox", annotation.get("bbox"), 4)
    check_number("area", annotation.get("area"))
    keypoints, crowd = annotation["keypoints"], annotation.get("iscrowd") or 0
    if keypoints == []:  # of a person without labels
        keypoints = [0] * 3 * NUM_KEYPOINTS
    check_numbers("keypoints", keypoints, 3 * NUM_KEYPOINTS)
    expect(crowd in (0, 1), "iscrowd", crowd, "0 or 1")
    return {**annotation, "keypoints": keypoints, "iscrowd": crowd}  # pycocotools relies on both
