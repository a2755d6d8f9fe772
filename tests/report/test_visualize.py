"""Pictures of predictions beside ground truth."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import run_script, write_annotations
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.data.dataset import PersonSet, load_persons
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions
from rtmpose.report.visualize import ground_truth_oks, write_pictures


def predict_with_noise(persons: PersonSet, noise: dict[int, float]) -> Predictions:
    """Ground truth plus noise, whose size in pixels is given by image."""
    random = np.random.default_rng(0)
    annotations = persons.annotations.annotations
    keypoints = [np.reshape(annotations[person.index]["keypoints"], (17, 3))[:, :2]
                 + random.normal(0, noise[person.image_id], (17, 2)) for person in persons]
    number = len(persons)
    return Predictions(list(persons), np.float32(keypoints), np.full((number, 17), 0.9, np.float32),
                       np.ones((number, 2), np.float32))


def test_oks_is_pycocotools(drawn: Path) -> None:
    persons = load_persons(drawn)
    coco = COCO()
    coco.dataset = json.loads(persons.annotations.path.read_text())
    coco.createIndex()
    predictions = predict_with_noise(persons, dict.fromkeys(range(1, 6), 8.0))
    for person, keypoints in zip(predictions.persons, predictions.keypoints, strict=True):
        annotation = persons.annotations.annotations[person.index]
        result = {"image_id": annotation["image_id"], "category_id": 1, "score": 1.0,
                  "keypoints": np.hstack([keypoints, np.ones((17, 1))]).ravel().tolist()}
        evaluation = COCOeval(coco, coco.loadRes([result]), "keypoints")
        evaluation.params.imgIds = [annotation["image_id"]]
        evaluation._prepare()
        order = [a["id"] for a in evaluation._gts[annotation["image_id"], 1]]
        expected = evaluation.computeOks(annotation["image_id"], 1)[0, order.index(annotation["id"])]
        assert ground_truth_oks(keypoints[None], annotation) == pytest.approx(expected, abs=1e-6)
    assert ground_truth_oks(np.empty((0, 17, 2)), annotation) == 0


def test_worst_and_best_images_are_chosen_by_oks(drawn: Path, tmp_path: Path) -> None:
    persons = load_persons(drawn)
    predictions = predict_with_noise(persons, {1: 3.0, 2: 90.0, 3: 0.0, 4: 40.0, 5: 10.0})
    overview = write_pictures(tmp_path, 2, predictions, persons)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_1.jpg", "best_2.jpg", "overview.jpg", "worst_1.jpg", "worst_2.jpg"]
    assert overview == tmp_path / "overview.jpg"
    for name, image_id in (("worst_1", 2), ("worst_2", 4), ("best_1", 3), ("best_2", 1)):
        image = next(image for image in persons.images if image.id == image_id)
        height, width = cv2.imread(str(tmp_path / f"{name}.jpg")).shape[:2]
        assert (width, height) == (2 * image.width, image.height + 18)


def test_few_images_are_drawn_once(drawn: Path, tmp_path: Path) -> None:
    persons = load_persons(drawn, limit=1)
    write_pictures(tmp_path, 5, predict_with_noise(persons, {1: 1.0}), persons)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_1.jpg", "overview.jpg", "worst_1.jpg"]


def test_images_without_ground_truth(drawn: Path, tmp_path: Path) -> None:
    """A detector finds persons in them, and so they can be evaluated, but not ranked."""
    persons = load_persons(drawn, limit=1)
    predictions = predict_with_noise(persons, {1: 1.0})
    for annotation in persons.annotations.annotations:
        annotation["num_keypoints"] = 0
    with pytest.raises(KitError, match="has no keypoints for these 1 images"):
        write_pictures(tmp_path, 1, predictions, persons)


@pytest.mark.parametrize("size", [(10, 3000), (3000, 10), (1, 1), (40_000, 20)], ids=str)
def test_images_of_odd_shapes_and_numbers_far_outside(tmp_path: Path, dataset: Callable, size: tuple[int, int]) -> None:
    folder, content = dataset()
    record, annotation = content["images"][0], content["annotations"][0]
    (record["width"], record["height"]), content["images"] = size, [record]
    cv2.imwrite(str(folder / "images/val2017" / record["file_name"]), np.zeros((*size[::-1], 3), np.uint8))
    annotation |= {"bbox": [-1e11, -1e11, 3e11, 3e11] if min(size) > 1 else [0, 0, 1, 1],
                   "keypoints": [1e11, -1e11, 2] * 16 + [1, 1, 2]}
    content["annotations"] = [annotation]
    write_annotations(folder, content)
    (folder / "boxes.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [-9e10, 0, 1e11, 1e11],
                                                    "score": 1}]))
    persons = load_persons(folder, folder / "boxes.json")
    predictions = Predictions(list(persons), np.float32([[[-1e11, 1e11]] * 17]), np.ones((1, 17), np.float32),
                              np.ones((1, 2), np.float32))
    overview = write_pictures(tmp_path / "pictures", 1, predictions, persons)
    height, width = cv2.imread(str(overview)).shape[:2]
    assert width == 1920 and height <= 1920
    assert cv2.imread(str(tmp_path / "pictures/worst_1.jpg")) is not None


def test_no_ground_truth_is_noticed_before_the_run(engine_file: Path, dataset: Callable, tmp_path: Path) -> None:
    folder, content = dataset()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
    write_annotations(folder, content)
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 1}
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    done = run_script("inference.py", "--engine", engine_file, "--datasets", folder, "--detections",
                      tmp_path / "boxes.json", "--visualize", 1, "--output", tmp_path / "out")
    assert done.returncode == 2 and "Average Precision" not in done.stdout
    assert "has no keypoints for these 1 images" in done.stderr and len(done.stderr.splitlines()) == 1


def test_visualize_from_the_command_line(engine_file: Path, drawn: Path, tmp_path: Path) -> None:
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--visualize", 1)
    assert done.returncode == 2 and "--visualize: needs --output" in done.stderr
    done = run_script("inference.py", "--engine", engine_file, "--datasets", drawn, "--visualize", 1,
                      "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"Pictures: {tmp_path / 'out/pictures/overview.jpg'}" in done.stdout
    assert (tmp_path / "out/pictures/overview.jpg").is_file()
