"""Persons, boxes and crops against mmpose's CocoDataset, transforms and preprocessor: equal bit for bit."""

import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import judge
import numpy as np
import pytest
import torch
from helpers import write_annotations

from rtmpose.data.batches import Crop, iterate_batches
from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.preprocess import box_to_center_scale, crop_person, normalize

SIZES = ((192, 256), (288, 384))
POSITION = attrgetter("person.index")  # in the file


def assert_same_crops(crops: list[Crop], dataset: Any) -> None:
    """The same persons in the same order, with the same box, score, region and pixels."""
    pixels, samples = judge.preprocess(dataset)
    assert len(crops) == len(samples) > 0
    for ours, theirs, sample in zip(crops, pixels, samples, strict=True):
        assert ours.person.image_id == sample.img_id
        judge.assert_equal(ours.person.bbox, sample.gt_instances.bboxes[0])
        judge.assert_equal(ours.person.score, sample.gt_instances.bbox_scores[0])
        judge.assert_equal(ours.center, sample.input_center)
        judge.assert_equal(ours.scale, sample.input_scale)
        judge.assert_equal(ours.pixels, theirs)


def crops_of(persons: PersonSet, size: tuple[int, int] = judge.INPUT_SIZE) -> list[Crop]:
    """All crops, image by image."""
    return [crop for batch in iterate_batches(persons.images, size, 8) for crop in batch.crops]


@judge.needs_xtcocotools
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["drawn", "coco_four", "coco_mini"])
def test_ground_truth(name: str, size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    """And each person's index is its position in the annotation file."""
    folder = request.getfixturevalue(name)
    persons, dataset = load_persons(folder), judge.coco_dataset(folder, size)
    assert_same_crops(crops_of(persons, size), dataset)
    assert ([persons.annotations.annotations[person.index]["id"] for person in persons]
            == [dataset.get_data_info(index)["id"] for index in range(len(dataset))])


@judge.needs_xtcocotools
def test_annotations_that_mmpose_leaves_out(dataset: Callable[[], tuple[Path, dict]]) -> None:
    folder, content = dataset()
    image, first = content["images"][0], content["annotations"][0]
    width, height = image["width"], image["height"]
    for bbox in ([-50, 5, 30, 40], [width + 3, 5, 30, 40], [5, height - 1, 30, 40], [10, 10, 0, 20],
                 [10, 10, -5, 20], [0, 0, 0.5, 0.5], [width - 2, 0, 9, 9]):
        content["annotations"].append({**first, "id": len(content["annotations"]) + 1, "bbox": bbox})
    content["annotations"].append({**first, "id": 1000, "num_keypoints": 3, "keypoints": [0] * 51})
    content["annotations"].append({**first, "id": 1001, "num_keypoints": 0})
    content["annotations"].append({key: first[key] for key in first if key not in ("num_keypoints", "iscrowd")})
    content["annotations"][-1]["id"] = 1002
    write_annotations(folder, content)
    persons = load_persons(folder)
    assert_same_crops(crops_of(persons), judge.coco_dataset(folder))
    assert persons.notes == {"persons left out, whose box is empty or outside the image": 5}


@judge.needs_xtcocotools
def test_detections(coco_four: Path) -> None:
    detections = coco_four / "person_detections.json"
    crops = sorted(crops_of(load_persons(coco_four, detections)), key=POSITION)
    assert_same_crops(crops, judge.coco_dataset(coco_four, detections=detections))


@judge.needs_xtcocotools
def test_drawn_detections(drawn: Path, tmp_path: Path) -> None:
    boxes = ((2, 1, [-20.3, -7.1, 90, 300], 0.9), (1, 3, [5, 5, 50, 50], 0.99),
             (1, 1, [3.7, 8.2, 71.4, 33.3], 0.123456789), (2, 1, [60, 60, 2000, 40], 0.05),
             (1, 1, [0, 0, 1e-3, 1e-3], 1))
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{"image_id": image, "category_id": category, "bbox": bbox, "score": score}
                                for image, category, bbox, score in boxes]))
    persons = load_persons(drawn, path)
    assert [image.id for image in persons.images] == [1, 2]
    crops = sorted(crops_of(persons), key=POSITION)
    assert [crop.person.index for crop in crops] == [0, 2, 3, 4]
    assert_same_crops(crops, judge.coco_dataset(drawn, detections=path))


@pytest.mark.parametrize("size", [*SIZES, (256, 256)], ids=str)
def test_random_boxes(size: tuple[int, int]) -> None:
    transforms = judge.mmpose("datasets.transforms")
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (97, 131, 3), np.uint8)
    corners = random.uniform(-40, 150, (300, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0.01, 200, (300, 2))], 1).astype(np.float32)
    for box in boxes:
        data = transforms.GetBBoxCenterScale()({"img": image, "bbox": box[None]})
        data = transforms.TopdownAffine(input_size=size)(data)
        center, scale = box_to_center_scale(box, size)
        judge.assert_equal(center, data["input_center"])
        judge.assert_equal(scale, data["input_scale"])
        judge.assert_equal(crop_person(image, center, scale, size), data["img"])


def test_every_8_bit_value_as_torch_normalises_it() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([values, values[::-1], values.T], axis=-1)
    (expected,), _ = judge.preprocess([{"inputs": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
                                        "data_samples": judge.mmpose("structures").PoseDataSample()}])
    out = np.full((3, 16, 16), np.nan, np.float32)
    assert normalize(pixels, out) is out
    judge.assert_equal(out, expected)
    judge.assert_equal(normalize(pixels), expected)
