"""Persons of a set: whom its annotations or a detector's boxes name, and files that contradict themselves or hold what
no program could use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import write_annotations

from rtmpose.data.coco import ANNOTATIONS, DataSet, load_persons
from rtmpose.errors import KitError

PERSON = {"id": 1, "name": "person"}
KINDS = ("images", "annotations", "categories")


def nested(depth: int) -> list:
    """A list in a list in a list."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def change(kind: str, **changed: Any) -> Callable[[dict], None]:
    """A change of the first record of a kind."""
    return lambda content: content[kind][0].update(changed)


@pytest.mark.parametrize(("broken", "message"), [
    (change("images", width=10**9), r"images\[0\]: size is \(1000000000, \d+\), not two whole numbers"),
    (change("images", height=10.5), r"images\[0\]: size is"),
    (change("images", height=float("nan")), r"images\[0\]: size is"),
    (change("images", width=float("inf")), r"images\[0\]: size is"),
    (change("images", width="5"), r"images\[0\]: size is \('5', \d+\), not two whole numbers"),
    (lambda content: content["images"][0].pop("width"), r"images\[0\]: size is \(None, "),
    (lambda content: content["images"][0].pop("id"), r"images\[0\]: id is None, not a number below"),
    (lambda content: content["annotations"][0].pop("area"), r"annotations\[0\]: area is \[None\], not 1 finite"),
    (change("images", file_name=7), r"images\[0\]: file_name is 7, not a name"),
    (change("images", file_name="two\nlines.jpg"), r"images\[0\]: file_name is 'two\\nlines.jpg', not a name without"),
    *((lambda content, kind=kind: content[kind].append(content[kind][0]),
       rf"{kind}\[\d+\]: id is 1, not of this record only") for kind in KINDS),
    *[(change(kind, id=identity), rf"{kind}\[0\]: (id is {shown}|maximum recursion)") for kind in KINDS
      for identity, shown in ((float("nan"), "nan"), (float("inf"), "inf"), (10**400, "1000"), (None, "None"),
                              (nested(900), r"(\[\[\[|.*)"))],
    (change("images", id="one"), r"images\[1\]: id is 2, not a number below 2\^63, or a string as the first one is"),
    (change("annotations", id="one"), r"annotations\[1\]: id is 2, not a number below 2\^63, or a string as the first"),
    (change("annotations", image_id="1"), r"annotations\[0\]: image_id is '1', not in the file"),
    (change("annotations", image_id=nested(900)), r"annotations\[0\]: image_id is \[\[|recursion"),
    (change("annotations", category_id=2), r"annotations\[0\]: category_id is 2, not in the file"),
    (change("annotations", bbox=nested(900)), r"annotations\[0\]: "),
    (change("annotations", keypoints="x" * 51), r"annotations\[0\]: keypoints is 'xxx"),
    (change("annotations", keypoints=None), r"annotations\[0\]: keypoints is None, not 51"),
    (change("annotations", keypoints=[[1]] * 51), r"annotations\[0\]: keypoints is"),
    (change("annotations", iscrowd=nested(5)), r"annotations\[0\]: iscrowd is"),
    *((change("annotations", num_keypoints=number), r"annotations\[0\]: num_keypoints is")
      for number in (None, "1", -1, 18)),
    (lambda content: content.update(categories=[], annotations=[]), r"0 categories are named person, expected one; "),
    (change("categories", name="dog"), r"0 categories are named person, expected one; the names are \['dog'\]"),
    (lambda content: content.update(categories=[PERSON, {**PERSON, "id": 2}]), "2 categories are named person"),
    (lambda content: content.update(annotations=[None]), r"annotations\[0\]: it is None, not an object"),
])
def test_broken_annotations(dataset: Callable, broken: Callable[[dict], None], message: str) -> None:
    folder, content = dataset()
    broken(content)
    write_annotations(folder, content)
    with pytest.raises(KitError, match=rf"2017\.json: (broken record \()?({message})") as error:
        load_persons(folder)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 1000


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


def test_persons_are_the_category_of_that_name(dataset: Callable, tmp_path: Path) -> None:
    """Whatever its id, and whatever else is annotated or detected."""
    folder, content = dataset()
    expected = [person.index + 1 for person in load_persons(folder)]
    for category in (content["categories"][0], *content["annotations"]):
        category["id" if "name" in category else "category_id"] = 7
    content["categories"].insert(0, {"id": 3, "name": "dog"})
    content["annotations"].insert(0, {**content["annotations"][0], "id": 1000, "category_id": 3})
    write_annotations(folder, content)
    assert [person.index for person in load_persons(folder)] == expected
    box, path = {"image_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}, tmp_path / "detections.json"
    path.write_text(json.dumps([{**box, "category_id": 1}, {**box, "category_id": 7}]))
    assert [person.index for person in load_persons(folder, path)] == [1]
    path.write_text(json.dumps([{**box, "category_id": 1}]))
    with pytest.raises(KitError, match="holds no detection of category 7, the annotations' persons"):
        load_persons(folder, path)


def test_limit_counts_images_that_hold_persons(drawn: Path) -> None:
    persons, first = load_persons(drawn), load_persons(drawn, limit=2)
    assert [image.id for image in first.images] == [image.id for image in persons.images][:2]
    assert len(first) == sum(len(image.persons) for image in persons.images[:2]) == len(list(first))


NO_BOX, NO_SCORE = "bbox is .*, not 4 finite numbers below 1e\\+12", r"score is \[.*, not 1 finite numbers below 1e\+12"


@pytest.mark.parametrize(("detection", "message"), [
    *((record, "it is .*, not an object with category_id") for record in (None, [], "text", 5)),
    *(({"bbox": bbox}, NO_BOX) for bbox in (
        ["a", 1, 2, 3], "abcd", None, [1, 2, float("inf"), 4], [1, 2, 3], {}, [], [[1, 2, 3, 4]], [[1], [2], [3], [4]],
        [-2**63, 1, 2, 3], [1, 2, 2**63, 3], [1, 2, None, 4])),
    ({"bbox": [1e11, 1, 1e11, 5]}, r"bbox \[.*\] lies outside its image of"),
    ({"bbox": [5, 5, 0, 9]}, r"bbox \[5, 5, 0, 9\] is empty"),
    *(({"score": score}, NO_SCORE) for score in ("high", float("inf"), [1], 10**400, "0.5", -2**63, None)),
    *(({"image_id": identity}, "image_id is .*, not the id of an image") for identity in (float("nan"), "1")),
    ({"image_id": [1]}, "unhashable")], ids=repr)
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


def test_annotations_of_another_name(dataset: Callable, tmp_path: Path) -> None:
    folder, _ = dataset()
    expected = [image.path for image in load_persons(folder).images]
    (folder / ANNOTATIONS).rename(folder / "annotations/mine.json")
    (folder / "annotations/yours.json").touch()
    with pytest.raises(KitError, match="2017.json: no such file, found mine.json, yours.json there; give one with "):
        load_persons(folder)
    files = DataSet(folder / "annotations/mine.json", folder / "images/val2017")
    assert [image.path for image in load_persons(files).images] == expected
    with pytest.raises(KitError, match=f"{tmp_path}/nowhere: no such folder, expected the images of "):
        load_persons(DataSet(files.annotations, tmp_path / "nowhere"))
    with pytest.raises(KitError, match="mine.json: is a file, expected a folder with annotations/"):
        load_persons(files.annotations)
