"""The persons of a COCO set: who is estimated, in which image, in which box."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from rtmpose.annotations import check_numbers, read_annotations
from rtmpose.errors import KitError
from rtmpose.files import read_json

ANNOTATIONS = Path("annotations/person_keypoints_val2017.json")
IMAGE_FOLDERS = (Path("images/val2017"), Path("val2017"))


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Image:
    """One image with persons in it: COCO id, file, size in pixels, and the persons in the order of their file."""

    id: int
    path: Path
    width: int
    height: int
    persons: tuple[Person, ...]


_ROW = np.dtype([("image", np.int64), ("index", np.int64), ("bbox", np.float32, 4), ("score", np.float32)])


class Images(Sequence[Image]):
    """Images with their persons, made when they are asked for: kept as arrays, a person takes 36 bytes, not 400."""

    def __init__(self, folder: Path, records: Sequence[dict[str, Any]], persons: np.ndarray, limit: int | None) -> None:
        """Pack images.

        Args:
            folder: where they lie.
            records: all images, as COCO has them.
            persons: rows with the place of their image among the records, in the order of their file.
            limit: only the first so many images that hold persons.
        """
        places, numbers = np.unique(persons["image"], return_counts=True)
        chosen = [records[place] for place in places[:limit]]
        self.ids = [record["id"] for record in chosen]
        self._folder = folder
        self._names = [record["file_name"] for record in chosen]
        self._sizes = [(record["width"], record["height"]) for record in chosen]
        self._ends = np.cumsum(numbers[:limit])
        self._persons = persons[np.argsort(persons["image"], kind="stable")[:self._ends[-1]]]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Image: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...

    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        start, end = self._ends[index - 1] if index else 0, self._ends[index]
        return Image(self.ids[index], self._folder / self._names[index], *self._sizes[index],
                     tuple(map(self.person, range(start, end))))

    @property
    def persons(self) -> int:
        """How many persons there are in all images."""
        return len(self._persons)

    def person(self, number: int) -> Person:
        """A person by its number, counted over all images in their order."""
        image = np.searchsorted(self._ends, number, side="right")
        _, index, bbox, score = self._persons[number]
        return Person(int(index), self.ids[image], bbox, score)


@dataclass(frozen=True)
class PersonSet:
    """What an accuracy run goes over.

    Attributes:
        images: images with at least one person, in the order of the annotation file.
        path: the annotation file.
        limited: whether the evaluation counts only these images, not all of the annotation file.
        skipped: annotated persons left out because their box is empty inside the image.
        boxes: whose boxes they are, for people.
    """

    images: Images
    path: Path
    limited: bool
    skipped: int
    boxes: str

    @property
    def number(self) -> int:
        """How many persons there are."""
        return self.images.persons


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
    content = read_annotations(path, _counted_box)
    image_folder = _image_folder(folder)
    records = {record["id"]: record for record in content["images"]}
    if detections is None:
        persons = _annotated_persons(path, content["annotations"], records)
    else:
        persons = _detected_persons(Path(detections), records)
    places = {image_id: place for place, image_id in enumerate(records)}
    rows = np.fromiter(((places[one.image_id], one.index, one.bbox, one.score) for one in persons), _ROW)
    skipped = 0 if detections else sum(box is not None for box in content["annotations"]) - len(rows)
    boxes = f"boxes of {detections}" if detections else "ground-truth boxes"
    return PersonSet(Images(image_folder, list(records.values()), rows, limit), path, limit is not None, skipped, boxes)


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


def _counted_box(annotation: dict[str, Any]) -> tuple[Any, ...] | None:
    """Image and box (x, y, width, height) of an annotation that mmpose's ``BaseCocoStyleDataset`` takes."""
    if annotation.get("iscrowd") or not annotation.get("num_keypoints") or max(annotation["keypoints"]) <= 0:
        return None
    return annotation["image_id"], *annotation["bbox"]


def _annotated_persons(path: Path, boxes: list[tuple[Any, ...] | None], records: dict[int, dict[str, Any]]
                       ) -> Iterator[Person]:
    """Ground-truth persons, clipped as mmpose's ``BaseCocoStyleDataset`` clips them, without those whose box is empty
    then."""
    found = False
    for index, (image_id, x, y, width, height) in ((i, box) for i, box in enumerate(boxes) if box):
        corners = np.array([x, y, x + width, y + height])
        limits = np.array([records[image_id]["width"], records[image_id]["height"]] * 2) - 1
        bbox = np.clip(corners, 0, limits).astype(np.float32)
        if bbox[2] > bbox[0] and bbox[3] > bbox[1]:
            found = True
            yield Person(index, image_id, bbox, np.float32(1))
    if not found:
        raise KitError(f"{path}: holds no person with keypoints and a box inside the image, expected COCO person "
                       "keypoints (person_keypoints_val2017.json, not instances_val2017.json)")


def _detected_persons(path: Path, records: dict[int, dict[str, Any]]) -> Iterator[Person]:
    """A detector's persons (category 1) as mmpose's ``BaseCocoStyleDataset._load_detection_results`` reads them."""
    detections = read_json(path, "detections in COCO result format")
    if not isinstance(detections, list):
        raise KitError(f"{path}: is no list, expected detections in COCO result format (a list of objects)")
    found = False
    for index, detection in enumerate(detections):
        try:
            if detection["category_id"] != 1:
                continue
            person = _detected_person(index, detection, records)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise KitError(f"{path}: detection {index}: {reason}; expected image_id, category_id, "
                           "bbox [x, y, width, height] in pixels and score, for images of the annotations") from error
        found = True
        yield person
    if not found:
        raise KitError(f"{path}: holds no detection of category 1, expected a detector's persons")


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
