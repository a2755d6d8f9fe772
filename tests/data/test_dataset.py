"""Persons of a set and predictions for them."""

import json
from pathlib import Path

import numpy as np
import pytest

from rtmpose.data.dataset import ANNOTATIONS, load_persons
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
