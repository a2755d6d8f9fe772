"""Persons of a set: whom its annotations or a detector's boxes name, in which images, in which boxes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import write_annotations

from rtmpose.data.coco import ANNOTATIONS, DataSet, load_persons
from rtmpose.errors import KitError


def test_ids_may_be_strings(dataset: Callable) -> None:
    folder, content = dataset()
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    write_annotations(folder, content)
    assert [image.id for image in load_persons(folder).images] == [f"image {i}" for i in range(1, 6)]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../annotations/person_keypoints_val2017.json", "a/../../b.jpg"])
def test_file_names_stay_in_the_image_folder(dataset: Callable, name: str) -> None:
    folder, content = dataset()
    content["images"][0]["file_name"] = name
    write_annotations(folder, content)
    with pytest.raises(KitError, match=f"{ANNOTATIONS.name}: image 1 is '.*{name}', expected a file in .*/val2017/;"):
        load_persons(folder)


def test_file_names_that_come_back(dataset: Callable) -> None:
    folder, content = dataset()
    first, second = content["images"][:2]
    first["file_name"] = f"{folder}/images/val2017/{first['file_name']}"
    second["file_name"] = f"../val2017/{second['file_name']}"
    write_annotations(folder, content)
    assert all(image.path.is_file() for image in load_persons(folder).images)


def test_limit_counts_images_that_hold_persons(drawn: Path) -> None:
    persons, first = load_persons(drawn), load_persons(drawn, limit=2)
    assert [image.id for image in first.images] == [image.id for image in persons.images][:2]
    assert len(first) == sum(len(image.persons) for image in persons.images[:2]) == len(list(first))


NO_BOX, NO_SCORE = "bbox is .*, not 4 finite numbers below 1e\\+12", r"score is .*, not a finite number below 1e\+12"


@pytest.mark.parametrize(("detection", "message"), [
    *((record, "it is .*, not an object with category_id") for record in (None, [], "text", 5)),
    *(({"bbox": bbox}, NO_BOX) for bbox in (
        ["a", 1, 2, 3], "abcd", None, [1, 2, float("inf"), 4], [1, 2, 3], {}, [], [[1, 2, 3, 4]], [[1], [2], [3], [4]],
        "12345", [1, 2, "3", 4, 5], [-2**63, 1, 2, 3], [1, 2, 2**63, 3], [1, 2, None, 4])),
    *(({"score": score}, NO_SCORE) for score in ("high", float("inf"), [1], 10**400, "0.5", -2**63, None)),
    *(({"image_id": identity}, "image_id is .*, not the id of an image") for identity in (float("nan"), "1")),
    ({"image_id": [1]}, r"image_id is \[1\], not the id of an image")], ids=repr)
def test_broken_detections(drawn: Path, tmp_path: Path, detection: object, message: str) -> None:
    """The first that is broken is named; one of another category doesn't matter."""
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    broken = {**good, **detection} if isinstance(detection, dict) else detection
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([good, {"category_id": 2}, broken, {**good, "score": ""}]))
    with pytest.raises(KitError, match=rf"detections.json: detection 2: {message}.*; expected image_id, category_id, "
                       ) as error:
        load_persons(drawn, path)
    assert len(str(error.value).splitlines()) == 1


EMPTY = [[5, 5, 0, 9], [5, 5, -3, 9], [100, 5, 1e-6, 9]]
OUTSIDE = [[1e11, 1, 1e11, 5], [-30, 5, 20, 9], [5, -9, 20, 9], [9999, 5, 20, 9]]


def test_boxes_that_show_nobody_are_left_out(drawn: Path, tmp_path: Path) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    boxes = [*EMPTY, good["bbox"], *OUTSIDE, [1, 2, 30, 40, 0.5]]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{**good, "bbox": box} for box in boxes]))
    persons = load_persons(drawn, path)
    assert [(person.index, person.bbox.tolist()) for person in persons] == [(3, [1, 2, 31, 42]), (8, [1, 2, 31, 42])]
    assert persons.notes == {"detections left out, whose box is empty or outside the image": len(EMPTY + OUTSIDE),
                             "detections of more than four numbers in bbox, of which the first four were used": 1}
    path.write_text(json.dumps([{**good, "bbox": box} for box in EMPTY]))
    with pytest.raises(KitError, match="holds no detection of category 1, the annotations' persons, with a box inside"):
        load_persons(drawn, path)


def test_annotations_of_another_name(dataset: Callable, tmp_path: Path) -> None:
    folder, _ = dataset()
    expected = [image.path for image in load_persons(folder).images]
    (folder / ANNOTATIONS).rename(folder / "annotations/mine.json")
    (folder / "annotations/yours.json").touch()
    with pytest.raises(KitError, match="2017.json: no such file, found mine.json, yours.json there; link one to "):
        load_persons(folder)
    files = DataSet(folder / "annotations/mine.json", folder / "images/val2017")
    assert [image.path for image in load_persons(files).images] == expected
    with pytest.raises(KitError, match=f"{tmp_path}/nowhere: no such folder, expected the images of "):
        load_persons(DataSet(files.annotations, tmp_path / "nowhere"))
    with pytest.raises(KitError, match="mine.json: is a file, expected a folder with annotations/"):
        load_persons(files.annotations)
