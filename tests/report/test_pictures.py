"""Pictures of predictions beside ground truth, and of an engine beside its reference."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import refused, write_annotations
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.evaluate.predictions import Predictions
from rtmpose.report import drawing
from rtmpose.report.pictures import rank_persons, write_crops, write_pictures

LEFT, MAGENTA = (20, 140, 255), (190, 20, 230)


def predict_with_noise(persons: PersonSet, noise: dict[int, float]) -> Predictions:
    """Ground truth plus noise, whose size in pixels is given by image."""
    random = np.random.default_rng(0)
    annotations = persons.annotations.annotations
    keypoints = [np.reshape(annotations[person.index]["keypoints"], (17, 3))[:, :2]
                 + random.normal(0, noise.get(person.image_id, 0), (17, 2)) for person in persons]
    return Predictions(list(persons), np.float32(keypoints), np.full((len(persons), 17), 0.9, np.float32),
                       np.ones((len(persons), 2), np.float32))


def pycocotools_oks(annotation: dict[str, Any], keypoints: np.ndarray) -> float:
    """OKS of an annotated person and a prediction, (17, 2)."""
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}],
                    "annotations": [annotation | {"id": 1, "image_id": 1, "category_id": 1}]}
    coco.createIndex()
    numbers = np.column_stack([keypoints, np.ones(17)]).ravel().tolist()
    results = coco.loadRes([{"image_id": 1, "category_id": 1, "score": 1.0, "keypoints": numbers}])
    evaluation = COCOeval(coco, results, "keypoints")
    evaluation._prepare()
    return float(evaluation.computeOks(1, 1)[0, 0])


@pytest.fixture
def grey_persons(dataset: Callable) -> PersonSet:
    """One person in each of five images, which have a grey level each: 40 times the image's id."""
    folder, content = dataset()
    content["annotations"] = [next(a for a in content["annotations"] if a["image_id"] == i) for i in range(1, 6)]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        pixels = np.full((200, 200, 3), 40 * image["id"], np.uint8)
        cv2.imwrite(str(folder / "images/val2017" / image["file_name"]), pixels)
        image |= {"width": 200, "height": 200}
        annotation |= {"bbox": [0, 0, 200, 200], "area": 12_000}
    write_annotations(folder, content)
    return load_persons(folder)


def read_picture(path: Path, lines: int = 4) -> np.ndarray:
    """The picture of a person, 624 x 624, in a file of one card with lines of 38 pixels below it."""
    below = 16 + 10 + lines * 38
    return cv2.imread(str(path))[-below - 624:-below, 8:-8].astype(int)


def in_picture(point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of a point of a 200 x 200 image in its picture."""
    return tuple(round(number * 624 / 199) for number in point[::-1])


def test_worst_and_best_persons_are_chosen_by_oks(grey_persons: PersonSet, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Their captions say what AP is computed from, and which joint lowers it most."""
    captions, make_card = [], drawing.make_card
    monkeypatch.setattr(drawing, "make_card", lambda canvas, text: captions.append(text) or make_card(canvas, text))
    predictions = predict_with_noise(grey_persons, {1: 12.0, 2: 90.0, 3: 0.1, 4: 40.0, 5: 6.0})
    predictions.keypoints[2, 11] += 0.25  # the furthest off, but a hip counts less
    annotations = [grey_persons.annotations.annotations[person.index] for person in predictions.persons]
    annotations[1]["keypoints"][2::3] = [0, 1] * 8 + [2]
    oks = [pycocotools_oks(annotation, keypoints)
           for annotation, keypoints in zip(annotations, predictions.keypoints, strict=True)]
    order = np.argsort(oks)
    assert [found for found, _, _ in rank_persons(predictions, grey_persons)] == pytest.approx(sorted(oks), abs=1e-6)
    overview = write_pictures(tmp_path / "out", 2, predictions, grey_persons)
    assert sorted(path.name for path in overview.parent.iterdir()) == [
        "best_1.jpg", "best_2.jpg", "overview.jpg", "worst_1.jpg", "worst_2.jpg"]
    assert overview == tmp_path / "out/overview.jpg" and cv2.imread(str(overview)).shape[1] == 1280
    for name, row in (("worst_1", order[0]), ("worst_2", order[1]), ("best_1", order[4]), ("best_2", order[3])):
        assert np.median(read_picture(tmp_path / f"out/{name}.jpg")) == 40 * predictions.persons[row].image_id
    best, annotation = predictions.keypoints[order[4]], annotations[order[4]]
    expected = np.reshape(annotation["keypoints"], (17, 3))[:, :2]
    joint = max(range(17), key=lambda joint: pycocotools_oks(
        annotation, np.where(np.arange(17)[:, None] == joint, expected, best)))
    labelled = np.count_nonzero(annotation["keypoints"][2::3])
    name, distance = COCO_KEYPOINTS[joint].replace("_", " "), math.dist(best[joint], expected[joint])
    assert captions[1] == [f"best 1: OKS {oks[order[4]]:.3f}", f"{name}, {distance:.1f} px",
                           f"area 12,000, {labelled} of 17 labelled", "000000000003.jpg"]


def test_best_match_among_several_predictions(grey_persons: PersonSet, tmp_path: Path) -> None:
    """The closest prediction has the colours of its sides; the others are faint lines, without joints of low score."""
    expected = np.zeros((17, 3))
    expected[[7, 9]] = [[100, 40, 2], [160, 40, 2]]  # left elbow and wrist
    annotations = grey_persons.annotations.annotations
    annotations[0]["keypoints"], annotations[1:] = expected.ravel().tolist(), []
    keypoints = np.float32([expected[:, :2] + (0, y) for y in (100, 2, 140)])
    keypoints[:, 5] = 20, 160
    scores = np.zeros((3, 17), np.float32)
    scores[:, [7, 9, 5]] = 0.9, 0.9, 0.1
    persons = [replace(next(iter(grey_persons)), score=np.float32(score)) for score in (1, 0.1, 0)]
    write_pictures(tmp_path / "out", 1, Predictions(persons, keypoints, scores, np.ones((3, 2))), grey_persons)
    picture = read_picture(tmp_path / "out/worst_1.jpg")
    assert np.abs(picture[in_picture((100, 42))] - LEFT).max() < 40
    others = [picture[in_picture((130, y))] for y in (140, 180)]
    assert np.ptp(others[0]) < 12 and others[0].mean() == pytest.approx(0.3 * 40 + 0.7 * 255, abs=25)
    assert others[1].mean() == pytest.approx(40, abs=5)  # its box has the score 0
    assert np.abs(picture[in_picture((60, 150))] - 40).max() < 12  # on the limb to the shoulder


def test_crops_of_two_engines(grey_persons: PersonSet, tmp_path: Path) -> None:
    """An arrow leads from the reference's joint to this engine's."""
    reference = predict_with_noise(grey_persons, {})
    reference.keypoints[:] = np.linspace(20, 60, 17)[:, None]
    moved = Predictions(reference.persons, reference.keypoints.copy(), reference.scores, reference.scales)
    moved.keypoints[1, 16] += (100, 0)
    picture = read_picture(write_crops(tmp_path, [(1, 16, 40.0)], moved, reference, grey_persons), lines=2)
    assert np.median(picture) == 40 * 2
    rows, columns = (np.abs(picture - MAGENTA).max(axis=2) < 60).nonzero()
    assert in_picture((60, 60))[1] - 20 < columns.min() and abs(columns.max() - in_picture((160, 60))[1]) < 6
    assert np.ptp(rows) < 45


@pytest.mark.parametrize(("persons", "number"), [(50, 100), (3, 5)])
def test_each_person_is_drawn_once_and_twenty_rows_together(grey_persons: PersonSet, tmp_path: Path, persons: int,
                                                            number: int) -> None:
    """Of an odd number, one is the worst and the best."""
    predictions, annotations = predict_with_noise(grey_persons, {}), grey_persons.annotations.annotations
    annotations[1:] = annotations[:1] * (persons - 1)
    overview = write_pictures(tmp_path / "out", number, predictions, grey_persons)
    assert len(list((tmp_path / "out").glob("*_*.jpg"))) == persons + persons % 2
    rows = min(20, (persons + 1) // 2)
    assert cv2.imread(str(overview)).shape[0] == 2 * 46 + 32 + rows * (624 + 10 + 4 * 38 + 16)


def test_images_without_ground_truth_are_noticed_before_the_run(engine_file: Path, dataset: Callable, tmp_path: Path
                                                                ) -> None:
    """A detector finds persons in them, and so they can be evaluated, but not ranked."""
    folder, content = dataset()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 1, "keypoints": [5, 5, 0] * 17})
    write_annotations(folder, content)
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 1}
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    message = refused("inference.py", "--engine", engine_file, "--datasets", folder, "--detections",
                      tmp_path / "boxes.json", "--visualize", 1, "--output", tmp_path / "out")
    assert "has no keypoints for these 1 images" in message
