"""Annotation files that contradict themselves or hold what no program could use."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from helpers import write_annotations

from rtmpose.data.coco import ANNOTATIONS, load_persons
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


def repeat(kind: str) -> Callable[[dict], None]:
    """The first record of a kind once more."""
    return lambda content: content[kind].append(dict(content[kind][0]))


def remove(kind: str, key: str) -> Callable[[dict], None]:
    """A key of the first record of a kind is gone."""
    return lambda content: content[kind][0].pop(key)


@pytest.mark.parametrize(("broken", "message"), [
    (change("images", width=10**9), r"images\[0\]: size is \(1000000000, \d+\), not two whole numbers"),
    (change("images", height=10.5), "size is"),
    (change("images", height=float("nan")), "size is"),
    (change("images", width=float("inf")), "size is"),
    (change("images", width="5"), "'<' not supported"),
    (change("images", width=None), "'<' not supported"),
    (remove("images", "width"), "no 'width'"),
    (remove("images", "id"), "no 'id'"),
    (change("images", file_name=7), r"images\[0\]: file_name is 7, not a name"),
    (change("images", file_name="two\nlines.jpg"), r"images\[0\]: file_name is 'two\\nlines.jpg', not a name without"),
    *((repeat(kind), rf"{kind}\[\d+\]: id is 1, not of this record only") for kind in KINDS),
    *[(change(kind, id=identity), rf"{kind}\[0\]: (id is {shown}|maximum recursion)") for kind in KINDS
      for identity, shown in ((float("nan"), "nan"), (float("inf"), "inf"), (10**400, "1000"), (None, "None"),
                              (nested(900), r"(\[\[\[|.*)"))],
    (change("images", id="one"), r"images\[1\]: id is 2, not a number below 2\^63, or a string as the first one is"),
    (change("annotations", id="one"), r"annotations\[1\]: id is 2, not a number below 2\^63, or a string as the first"),
    (change("annotations", image_id="1"), r"annotations\[0\]: image_id is '1', not in the file"),
    (change("annotations", image_id=nested(900)), r"annotations\[0\]: image_id is \[\[|recursion"),
    (change("annotations", category_id=2), r"annotations\[0\]: category_id is 2, not in the file"),
    (change("annotations", bbox=nested(900)), "."),
    (change("annotations", keypoints="x" * 51), r"annotations\[0\]: keypoints is 'xxx"),
    (change("annotations", keypoints=None), r"annotations\[0\]: keypoints is None, not 51"),
    (change("annotations", keypoints=[[1]] * 51), r"annotations\[0\]: keypoints is"),
    (change("annotations", iscrowd=nested(5)), r"annotations\[0\]: iscrowd is"),
    *((change("annotations", num_keypoints=number), r"annotations\[0\]: num_keypoints is")
      for number in (None, "1", -1, 18)),
    (lambda content: content.update(categories=[]), r"0 categories are named person, expected one; the names are \[\]"),
    (change("categories", name="dog"), r"0 categories are named person, expected one; the names are \['dog'\]"),
    (lambda content: content.update(categories=[PERSON, {**PERSON, "id": 2}]), "2 categories are named person"),
    (lambda content: content.update(annotations=[None]), "NoneType"),
])
def test_broken_record(dataset: Callable, broken: Callable[[dict], None], message: str) -> None:
    folder, content = dataset()
    broken(content)
    write_annotations(folder, content)
    with pytest.raises(KitError, match=rf"broken record \(.*({message})") as error:
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


def test_annotations_of_other_categories_are_left_aside(dataset: Callable) -> None:
    """They have no place in the persons' AP."""
    folder, content = dataset()
    expected = len(load_persons(folder))
    content["categories"].insert(0, {"id": 3, "name": "dog"})
    content["annotations"].insert(0, {**content["annotations"][0], "id": 1000, "category_id": 3})
    write_annotations(folder, content)
    persons = load_persons(folder)
    assert len(persons) == expected and all(person.index > 0 for person in persons)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../annotations/person_keypoints_val2017.json", "a/../../b.jpg"])
def test_file_names_stay_in_the_image_folder(dataset: Callable, name: str) -> None:
    folder, content = dataset()
    content["images"][0]["file_name"] = name
    write_annotations(folder, content)
    with pytest.raises(KitError, match=f"{ANNOTATIONS.name}: image 1 has the file name '{name}', expected one in"):
        load_persons(folder)


def test_file_names_that_come_back(dataset: Callable) -> None:
    folder, content = dataset()
    first, second = content["images"][:2]
    first["file_name"] = f"{folder}/images/val2017/{first['file_name']}"
    second["file_name"] = f"../val2017/{second['file_name']}"
    write_annotations(folder, content)
    assert all(image.path.is_file() for image in load_persons(folder).images)


def test_pipe_as_annotations(dataset: Callable) -> None:
    folder, _ = dataset()
    (folder / ANNOTATIONS).unlink()
    os.mkfifo(folder / ANNOTATIONS)
    with pytest.raises(KitError, match="is a pipe or a device, expected a regular file of COCO person keypoints"):
        load_persons(folder)
