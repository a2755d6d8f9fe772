"""Annotation files: what is read as it is, what is left out, and what is refused, with the record named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import write_annotations

from rtmpose.data.annotations import read_annotations
from rtmpose.data.coco import ANNOTATIONS, load_persons
from rtmpose.errors import KitError

PERSON, DOG = {"id": 1, "name": "person"}, {"id": 2, "name": "dog"}
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


def listed_twice(kind: str) -> Callable[[dict], None]:
    """The first record of a kind comes back at the end, with another value."""
    return lambda content: content[kind].append({**content[kind][0], "height": 1})


@pytest.mark.parametrize(("broken", "message"), [
    (lambda content: content.pop("categories"), "lacks the lists images, annotations and categories"),
    (change("images", width=10**9), r"images\[0\], id 1: size is \(1000000000, \d+\), not two whole numbers"),
    *((change("images", height=height), r"images\[0\], id 1: size is")
      for height in (10.5, float("nan"), float("inf"), 0)),
    (change("images", width="5"), r"images\[0\], id 1: size is \('5', \d+\), not two whole numbers"),
    (lambda content: content["images"][0].pop("width"), r"images\[0\], id 1: size is \(None, "),
    (lambda content: content["images"][0].pop("id"), r"images\[0\]: id is None, not a number below"),
    (lambda content: content["annotations"][1].pop("area"),
     r"annotations\[1\], id 2: area is None, not a finite number"),
    (change("images", file_name=7), r"images\[0\], id 1: file_name is 7, not a name"),
    (change("images", file_name="two\nlines.jpg"), r"images\[0\], id 1: file_name is .two.*, not a name without"),
    (change("images", file_name="\ud800"), r"images\[0\], id 1: 'utf-8' codec can't encode"),
    (change("annotations", bbox=[float("nan"), 0, 5, 5]), r"annotations\[0\], id 1: bbox is \[nan, 0, 5, 5\], not 4 f"),
    (change("annotations", area=10**400), r"annotations\[0\], id 1: area is 1000"),
    *((listed_twice(kind), rf"{kind}\[\d+\], id 1: id is 1, not of this record only") for kind in KINDS),
    *[(change(kind, id=identity), rf"{kind}\[0\].*: (id is {shown}|maximum recursion)") for kind in KINDS
      for identity, shown in ((float("nan"), "nan"), (float("inf"), "inf"), (10**400, "1000"), (None, "None"),
                              (nested(900), r"(\[\[\[|.*)"))],
    (change("images", id="one"), r"images\[1\], id 2: id is 2, not a number below 2\^63, or a string as the first one"),
    (change("annotations", image_id=nested(900)), r"annotations\[0\], id 1: (image_id is \[\[|maximum recursion)"),
    (change("annotations", category_id=None), r"annotations\[0\], id 1: category_id is None, not the id of a category"),
    (change("annotations", bbox=nested(900)), r"annotations\[0\], id 1: "),
    *((change("annotations", keypoints=points), rf"annotations\[0\], id 1: keypoints is {shown}") for points, shown in (
        ("x" * 51, "'xxx"), (None, "None, not 51"), ([[1]] * 51, r"\[\["), ([1] * 78, r"\[1"))),
    (change("annotations", iscrowd=nested(5)), r"annotations\[0\], id 1: iscrowd is"),
    (lambda content: content.update(categories=[], annotations=[]), "0 of 0 categories are named person, expected one"),
    (lambda content: content.update(categories=[DOG, {**DOG, "id": 3}]), r"0 of 2 .*: 'dog' \(id 2\), 'dog' \(id 3\);"),
    (lambda content: content.update(categories=[PERSON, DOG, {**PERSON, "id": 5}]),
     r"2 of 3 categories are named person, expected one: 'person' \(id 1\), 'person' \(id 5\); rename"),
    (lambda content: content.update(annotations=[None]), r"annotations\[0\]: it is None, not an object"),
    (lambda content: content.update(images=content["images"][:1] * 2, annotations=content["annotations"][-1:]),
     r"holds no person with keypoints .*; found images listed twice, the same, used once: 1"),
])
def test_broken(dataset: Callable, broken: Callable[[dict], None], message: str) -> None:
    folder, content = dataset()
    broken(content)
    write_annotations(folder, content)
    with pytest.raises(KitError, match=rf"2017\.json: {message}") as error:
        load_persons(folder)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 1000


@pytest.mark.parametrize("category", [{"id": 0, "name": "person"}, {"id": 7, "name": "human"}, {"id": "a"},
                                      {"id": 1, "name": "Person"}], ids=str)
def test_the_only_category_needs_no_name(dataset: Callable, category: dict) -> None:
    folder, content = dataset()
    expected = len(load_persons(folder))
    for annotation in content["annotations"]:
        annotation["category_id"] = category["id"]
    write_annotations(folder, {**content, "categories": [category]})
    persons = load_persons(folder)
    assert (len(persons), persons.annotations.person_id, persons.notes) == (expected, category["id"], {})


def test_persons_are_the_category_of_that_name(dataset: Callable, tmp_path: Path) -> None:
    """Whatever its id, and whatever else is annotated or detected."""
    folder, content = dataset()
    expected = [annotation["id"] for annotation in read_annotations(folder / ANNOTATIONS).annotations]
    for category in (content["categories"][0], *content["annotations"]):
        category["id" if "name" in category else "category_id"] = 7
    content["categories"].insert(0, {"id": 3, "name": "dog"})
    content["annotations"].insert(0, {**content["annotations"][0], "id": 1000, "category_id": 3})
    write_annotations(folder, content)
    assert [annotation["id"] for annotation in read_annotations(folder / ANNOTATIONS).annotations] == expected
    box, path = {"image_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}, tmp_path / "detections.json"
    path.write_text(json.dumps([{**box, "category_id": 1}, {**box, "category_id": 7}]))
    assert [person.index for person in load_persons(folder, path)] == [1]
    path.write_text(json.dumps([{**box, "category_id": 1}]))
    with pytest.raises(KitError, match="holds no detection of category 7, the annotations' persons"):
        load_persons(folder, path)


def test_what_is_left_out_is_counted(dataset: Callable) -> None:
    """And the persons that remain are read as if it wasn't there."""
    folder, content = dataset()
    first = content["annotations"][0]
    gone = content["images"].pop()["id"]
    cut = sum(annotation["image_id"] == gone for annotation in content["annotations"])
    write_annotations(folder, {**content, "annotations": [
        annotation for annotation in content["annotations"] if annotation["image_id"] != gone]})
    expected = [(image.id, len(image.persons)) for image in load_persons(folder).images]
    content["images"].append(content["images"][0])
    content["annotations"] += [first, {**first, "id": 1000, "bbox": [5, 5, 0, 9]},
                               {**first, "id": 1001, "category_id": 9}, {**first, "id": 1002, "keypoints": []}]
    write_annotations(folder, content)
    persons = load_persons(folder)
    assert [(image.id, len(image.persons)) for image in persons.images] == expected
    assert list(persons.notes.values()) == [1, cut, 1, 1, 1]
    for number, words in zip(persons.notes.values(), (
            "images listed twice", "whose image the file doesn't list", "annotations listed twice",
            "whose category the file doesn't list", "box is empty or outside"), strict=True):
        assert [note for note, count in persons.notes.items() if words in note and count == number]


@pytest.mark.parametrize(("convert", "words"), [
    (lambda box, image: [box[0], box[1], box[0] + box[2], box[1] + box[3]], "are they x1 y1 x2 y2"),
    (lambda box, image: [box[0] / image["width"], box[1] / image["height"], box[2] / image["width"],
                         box[3] / image["height"]], "are they fractions of the image"),
    (lambda box, image: box, None)])
def test_boxes_of_another_convention_are_noted(people_folder: Path, tmp_path: Path, convert: Callable, words: str | None
                                               ) -> None:
    """As ground truth and as detections."""
    content = json.loads((people_folder / ANNOTATIONS).read_text())
    images = {image["id"]: image for image in content["images"]}
    for annotation in content["annotations"]:
        annotation["bbox"] = convert(annotation["bbox"], images[annotation["image_id"]])
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": annotation["image_id"], "category_id": 1, "bbox": annotation["bbox"],
                                  "score": 1} for annotation in content["annotations"]]))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(people_folder / "images")
    write_annotations(tmp_path, content)
    for persons in (load_persons(tmp_path), load_persons(people_folder, boxes)):
        found = {note: count for note, count in persons.notes.items() if "are they" in note}
        assert len(found) == bool(words)
        assert all(words in note and count > len(content["annotations"]) / 2 for note, count in found.items())


def test_persons_without_area_are_noted(dataset: Callable) -> None:
    folder, content = dataset()
    for annotation in content["annotations"]:
        annotation["area"] = 0
    write_annotations(folder, content)
    persons = load_persons(folder)
    assert persons.notes == {"persons of area 0, whose keypoints all count as wrong": len(persons)}
    content["annotations"][0]["area"] = 1
    write_annotations(folder, content)
    assert load_persons(folder).notes == {}
