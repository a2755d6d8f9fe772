"""Persons and predictions are kept packed, and come out as they went in."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import write_annotations

from rtmpose.data.dataset import ANNOTATIONS, load_persons
from rtmpose.evaluate.predictions import Prediction, Predictions


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
    for number, person in enumerate(person for image in persons.images for person in image.persons):
        one = detections[person.index]
        assert (person.image_id, person.score) == (one["image_id"], np.float32(one["score"]))
        x, y, width, height = np.float32(one["bbox"])
        np.testing.assert_array_equal(person.bbox, [x, y, x + width, y + height])
        again = persons.images.person(number)
        assert again.index == person.index and (again.bbox == person.bbox).all()
    assert persons.number == len(detections)


def test_images_are_a_sequence(drawn: Path) -> None:
    images = load_persons(drawn).images
    ids = [image.id for image in images]
    assert images.ids == ids and len(images) == len(ids) > 3
    assert images[-1].id == ids[-1] and [image.id for image in images[1:3]] == ids[1:3]
    with pytest.raises(IndexError):
        images[len(ids)]
    first = load_persons(drawn, limit=2)
    assert first.images.ids == ids[:2]
    assert first.number == sum(len(image.persons) for image in images[:2])


def test_estimates_come_out_as_they_went_in(drawn: Path) -> None:
    persons = load_persons(drawn)
    random = np.random.default_rng(0)
    given = [Prediction(person, *(random.random(shape, np.float32) for shape in ((17, 2), (17,), (2,))))
             for image in persons.images for person in image.persons]
    packed = Predictions(persons)
    packed.extend(given[:2])
    assert len(packed) == 2
    packed.extend(given[2:])
    assert len(packed) == persons.number
    for one, expected in zip(packed, given, strict=True):
        assert (one.person.index, one.person.image_id) == (expected.person.index, expected.person.image_id)
        for name in ("keypoints", "scores", "scale"):
            np.testing.assert_array_equal(getattr(one, name), getattr(expected, name))
    assert packed[-1].person.index == given[-1].person.index
    with pytest.raises(IndexError):
        packed[len(given)]


def test_a_person_and_an_image_are_kept_in_350_bytes(tmp_path: Path) -> None:
    """Annotation and image as Python objects would take some thousand."""
    (tmp_path / "images/val2017").mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    numbers = range(1, 5001)
    write_annotations(tmp_path, {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in numbers],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": [10.5, 20.5, 100, 200],
                         "area": 2e4, "num_keypoints": 17, "keypoints": [50, 60, 2] * 17} for i in numbers],
        "categories": [{"id": 1, "name": "person"}]})
    tracemalloc.start()
    try:
        persons = load_persons(tmp_path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert persons.number == 5000
    assert kept / 5000 < 350
    assert peak / 5000 < 1500
