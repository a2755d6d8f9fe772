"""Persons of a set and predictions for them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import write_annotations

from rtmpose.data.coco import ANNOTATIONS, DataSet, load_persons
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions, join


@pytest.fixture
def detected(drawn: Path, tmp_path: Path) -> tuple[Path, list[dict]]:
    """Boxes of the drawn images in an order of their own, with scores of their own."""
    random = np.random.default_rng(2)
    annotations = json.loads((drawn / ANNOTATIONS).read_text())["annotations"]
    detections = [{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": float(random.random())}
                  for a in random.permutation(annotations * 2)]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(detections))
    return path, detections


def test_every_detection_is_in_its_image(drawn: Path, detected: tuple[Path, list[dict]]) -> None:
    path, detections = detected
    persons = load_persons(drawn, path)
    records = json.loads((drawn / ANNOTATIONS).read_text())["images"]
    held = [record for record in records if any(d["image_id"] == record["id"] for d in detections)]
    assert [(i.id, i.path.name, i.width, i.height) for i in persons.images] == [
        (record["id"], record["file_name"], record["width"], record["height"]) for record in held]
    for image in persons.images:
        expected = [index for index, d in enumerate(detections) if d["image_id"] == image.id]
        assert [person.index for person in image.persons] == expected
    for person in persons:
        one = detections[person.index]
        assert (person.image_id, person.score) == (one["image_id"], np.float32(one["score"]))
        x, y, width, height = np.float32(one["bbox"])
        np.testing.assert_array_equal(person.bbox, [x, y, x + width, y + height])
    assert len(persons) == len(detections)


def test_limit_counts_images_that_hold_persons(drawn: Path) -> None:
    persons, first = load_persons(drawn), load_persons(drawn, limit=2)
    assert [image.id for image in first.images] == [image.id for image in persons.images][:2]
    assert len(first) == sum(len(image.persons) for image in persons.images[:2]) == len(list(first))


def test_other_persons_than_category_1(dataset: Callable, tmp_path: Path) -> None:
    folder, content = dataset()
    expected = [person.index for person in load_persons(folder)]
    for category in (content["categories"][0], *content["annotations"]):
        category["id" if "name" in category else "category_id"] = 7
    write_annotations(folder, content)
    assert [person.index for person in load_persons(folder)] == expected
    box = {"image_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    (tmp_path / "detections.json").write_text(json.dumps([{**box, "category_id": 1}, {**box, "category_id": 7}]))
    assert [person.index for person in load_persons(folder, tmp_path / "detections.json")] == [1]
    (tmp_path / "detections.json").write_text(json.dumps([{**box, "category_id": 1}]))
    with pytest.raises(KitError, match="holds no detection of category 7, the annotations' persons"):
        load_persons(folder, tmp_path / "detections.json")


@pytest.mark.parametrize("detection", [
    None, [], "text", 5, {"bbox": ["a", 1, 2, 3]}, {"bbox": "abcd"}, {"bbox": None}, {"bbox": [1, 2, float("inf"), 4]},
    {"bbox": [1, 2, 3]}, {"bbox": {}}, {"score": "high"}, {"score": float("inf")}, {"score": [1]}, {"score": 10**400},
    {"image_id": [1]}, {"image_id": float("nan")}, {"image_id": "1"}, {"bbox": [1e11, 1, 1e11, 5]},
    {"bbox": [[1, 2, 3, 4]]}, {"bbox": [[1], [2], [3], [4]]}, {"bbox": [-2**63, 1, 2, 3]}, {"bbox": [1, 2, 2**63, 3]},
    {"bbox": [1, 2, None, 4]}, {"score": "0.5"}, {"score": -2**63}, {"score": None}, {"category_id": 1, "bbox": []}],
    ids=repr)
def test_broken_detections(drawn: Path, tmp_path: Path, detection: object) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([good, {**good, **detection} if isinstance(detection, dict) else detection]))
    with pytest.raises(KitError, match="detections.json: detection 1: .*; expected image_id, category_id, ") as error:
        load_persons(drawn, path)
    assert len(str(error.value).splitlines()) == 1


def test_the_first_broken_detection_is_named(drawn: Path, tmp_path: Path) -> None:
    """A broken one of another category doesn't matter."""
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([good, {"category_id": 2}, good, {**good, "bbox": [5, 5, 0, 9]}, {**good, "score": ""}]))
    with pytest.raises(KitError, match=r"detections.json: detection 3: bbox \[5, 5, 0, 9\] is empty; expected"):
        load_persons(drawn, path)


@pytest.mark.parametrize(("broken", "message"), [
    ({"score": "high"}, r"score is \['high'\], not 1 finite"), ({"bbox": [1, 2, None, 4]}, "bbox is .*, not 4 finite"),
    ({"bbox": [1, 2, 3, 10**30]}, "bbox is .*, not 4 finite"), ({"bbox": "abcd"}, "bbox is 'abcd', not 4 finite")])
def test_what_is_no_number(drawn: Path, tmp_path: Path, broken: dict, message: str) -> None:
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5, **broken}]))
    with pytest.raises(KitError, match=f"detection 0: {message} numbers below 1e\\+12; expected image_id"):
        load_persons(drawn, path)


def test_boxes_do_not_depend_on_the_other_detections(drawn: Path, tmp_path: Path) -> None:
    """A file of whole numbers, truth values and fractions gives the boxes that each detection gives alone."""
    boxes = [[1, 2, 30, 40], [1.1, 2.7, 30.3, 40], [True, 2, 30, 40], [5, 5, 0.5, 16777217], [0, 0, 10**11, 7]]
    path = tmp_path / "detections.json"

    def read(chosen: list[list[float]]) -> list[list[float]]:
        path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": bbox, "score": 1} for bbox in chosen]))
        return [person.bbox.tolist() for person in load_persons(drawn, path)]

    alone = [read([bbox])[0] for bbox in boxes]
    assert read(boxes) == alone
    assert alone[0] == [1, 2, 31, 42] and alone[2] == [1, 2, 31, 42]


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


def test_batches_are_joined_and_rows_taken(drawn: Path) -> None:
    persons = list(load_persons(drawn))
    random = np.random.default_rng(0)
    arrays = (random.random((len(persons), *shape), np.float32) for shape in ((17, 2), (17,), (2,)))
    whole = Predictions(persons, *arrays)
    joined = join([whole.take(range(2)), whole.take(range(2, len(persons)))])
    assert joined.persons == persons
    for name in ("keypoints", "scores", "scales"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert whole.take([3, 1]).persons == [persons[3], persons[1]]
    np.testing.assert_array_equal(whole.take([3, 1]).scores, whole.scores[[3, 1]])
