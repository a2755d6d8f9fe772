"""Persons, boxes and crops against mmpose's CocoDataset, transforms and preprocessor: equal bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import judge
import numpy as np
import pytest
from helpers import write_annotations
from PIL import Image as PillowImage

from rtmpose.data.batches import Crop, iterate_crops
from rtmpose.data.coco import Image, load_persons
from rtmpose.data.images import read_image
from rtmpose.data.preprocess import box_to_center_scale, crop_person

SIZES = ((192, 256), (288, 384))


def assert_same_crops(crops: list[Crop], dataset: Any) -> None:
    """The same persons in the same order, with the same box, score, region and pixels."""
    pixels, samples = judge.preprocess(dataset)
    assert len(crops) == len(samples) > 0
    for ours, theirs, sample in zip(crops, pixels, samples, strict=True):
        assert ours.person.image_id == sample.img_id
        assert_equal(ours.person.bbox, sample.gt_instances.bboxes[0])
        assert_equal(ours.person.score, sample.gt_instances.bbox_scores[0])
        assert_equal(ours.center, sample.input_center)
        assert_equal(ours.scale, sample.input_scale)
        assert_equal(ours.pixels, theirs)


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The same values in the same type."""
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def load_image(path: Path) -> np.ndarray:
    """An image as mmpose's ``LoadImage`` reads it."""
    return judge.mmpose("datasets.transforms").LoadImage()({"img_path": str(path)})["img"]


@judge.needs_xtcocotools
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["drawn", "coco_four", "coco_mini"])
def test_ground_truth(name: str, size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    crops = list(iterate_crops(load_persons(folder).images, size))
    assert_same_crops(crops, judge.coco_dataset(folder, size))


@judge.needs_xtcocotools
def test_index_is_position_in_annotations(coco_mini: Path) -> None:
    persons = load_persons(coco_mini)
    dataset = judge.coco_dataset(coco_mini)
    ours = [person.index for image in persons.images for person in image.persons]
    assert ([persons.annotations.annotations[index]["id"] for index in ours]
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
    assert_same_crops(list(iterate_crops(persons.images, judge.INPUT_SIZE)), judge.coco_dataset(folder))
    assert persons.skipped == 5


@judge.needs_xtcocotools
def test_detections(coco_four: Path) -> None:
    detections = coco_four / "person_detections.json"
    crops = list(iterate_crops(load_persons(coco_four, detections).images, judge.INPUT_SIZE))
    crops.sort(key=lambda crop: crop.person.index)
    assert_same_crops(crops, judge.coco_dataset(coco_four, detections=detections))


@judge.needs_xtcocotools
def test_drawn_detections(drawn: Path, tmp_path: Path) -> None:
    boxes = ((2, 1, [-20.3, -7.1, 90, 300], 0.9), (1, 3, [5, 5, 50, 50], 0.99),
             (1, 1, [3.7, 8.2, 71.4, 33.3], 0.123456789), (2, 1, [60, 60, 2000, 40], 0.05),
             (1, 1, [0, 0, 1e-3, 1e-3], 1))
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{"image_id": image, "category_id": category, "bbox": bbox, "score": score}
                                for image, category, bbox, score in boxes]))
    crops = list(iterate_crops(load_persons(drawn, path).images, judge.INPUT_SIZE))
    crops.sort(key=lambda crop: crop.person.index)
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
        assert_equal(center, data["input_center"])
        assert_equal(scale, data["input_scale"])
        assert_equal(crop_person(image, center, scale, size), data["img"])


def save_grey_jpeg(path: Path, pixels: np.ndarray) -> None:
    """One channel."""
    PillowImage.fromarray(pixels[..., 0]).save(path, "JPEG")


def save_cmyk_jpeg(path: Path, pixels: np.ndarray) -> None:
    """Four channels."""
    PillowImage.fromarray(pixels).convert("CMYK").save(path, "JPEG")


def save_turned_jpeg(path: Path, pixels: np.ndarray) -> None:
    """EXIF says: turn a quarter clockwise to show."""
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.fromarray(pixels).save(path, "JPEG", exif=exif)


def save_transparent_png(path: Path, pixels: np.ndarray) -> None:
    """Colour and opacity."""
    PillowImage.fromarray(np.dstack([pixels, pixels[..., 1]])).save(path, "PNG")


def save_deep_png(path: Path, pixels: np.ndarray) -> None:
    """16 bits a channel."""
    cv2.imwrite(str(path), pixels.astype(np.uint16) * 257 - 5)


@pytest.mark.parametrize("save", [save_grey_jpeg, save_cmyk_jpeg, save_turned_jpeg, save_transparent_png,
                                  save_deep_png])
def test_unusual_images(save: Callable[[Path, np.ndarray], None], tmp_path: Path) -> None:
    path = tmp_path / f"image.{save.__name__.rpartition('_')[2]}"
    pixels = cv2.resize(np.random.default_rng(2).integers(20, 236, (8, 12, 3), np.uint8), (120, 80))
    save(path, pixels)
    expected = load_image(path)
    assert expected.shape == ((120, 80, 3) if save is save_turned_jpeg else (80, 120, 3))
    height, width = expected.shape[:2]
    assert_equal(read_image(Image(1, path, width, height, ())), expected)
