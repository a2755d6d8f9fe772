"""Pictures of predictions beside ground truth, and of an engine beside its reference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import run_script, write_annotations
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions
from rtmpose.report import drawing
from rtmpose.report.pictures import rank_persons, write_crops, write_pictures

LEFT, MAGENTA = (20, 140, 255), (190, 20, 230)


def predict_with_noise(persons: PersonSet, noise: dict[int, float]) -> Predictions:
    """Ground truth plus noise, whose size in pixels is given by image."""
    random = np.random.default_rng(0)
    annotations = persons.annotations.annotations
    keypoints = [np.reshape(annotations[person.index]["keypoints"], (17, 3))[:, :2]
                 + random.normal(0, noise[person.image_id], (17, 2)) for person in persons]
    number = len(persons)
    return Predictions(list(persons), np.float32(keypoints), np.full((number, 17), 0.9, np.float32),
                       np.ones((number, 2), np.float32))


def pycocotools_oks(annotation: dict[str, Any], keypoints: np.ndarray) -> float:
    """OKS of an annotated person and a prediction, (17, 2)."""
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}],
                    "annotations": [annotation | {"id": 1, "image_id": 1, "category_id": 1}]}
    coco.createIndex()
    result = {"image_id": 1, "category_id": 1, "score": 1.0,
              "keypoints": np.hstack([keypoints, np.ones((17, 1))]).ravel().tolist()}
    evaluation = COCOeval(coco, coco.loadRes([result]), "keypoints")
    evaluation._prepare()
    return float(evaluation.computeOks(1, 1)[0, 0])


@pytest.fixture
def grey_persons(dataset: Callable) -> PersonSet:
    """One person in each of five images, which have a grey level each: 40 times the image's id."""
    folder, content = dataset()
    content["annotations"] = [next(a for a in content["annotations"] if a["image_id"] == i) for i in range(1, 6)]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image |= {"width": 200, "height": 200}
        annotation |= {"bbox": [0, 0, 200, 200], "area": 12_000}
        cv2.imwrite(str(folder / "images/val2017" / image["file_name"]),
                    np.full((200, 200, 3), 40 * image["id"], np.uint8))
    write_annotations(folder, content)
    return load_persons(folder)


def read_picture(path: Path, lines: int = 4) -> np.ndarray:
    """The picture of a person, 624 x 624, in a file of one card with lines of 38 pixels below it."""
    below = 16 + 10 + lines * 38
    return cv2.imread(str(path))[-below - 624:-below, 8:-8].astype(int)


def in_picture(point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of a point of a 200 x 200 image in its picture."""
    return tuple(round(number * 624 / 199) for number in point[::-1])


def test_worst_and_best_persons_are_chosen_by_oks(grey_persons: PersonSet, tmp_path: Path) -> None:
    predictions = predict_with_noise(grey_persons, {1: 6.0, 2: 90.0, 3: 0.1, 4: 40.0, 5: 12.0})
    annotations = grey_persons.annotations.annotations
    annotations[0]["keypoints"][2::3] = [0, 1] * 8 + [2]
    oks = [pycocotools_oks(annotations[person.index], keypoints)
           for person, keypoints in zip(predictions.persons, predictions.keypoints, strict=True)]
    order = np.argsort(oks)
    ranked = rank_persons(predictions, grey_persons)
    assert [found for found, _, _ in ranked] == pytest.approx([oks[row] for row in order], abs=1e-6)
    overview = write_pictures(tmp_path / "out", 2, predictions, grey_persons)
    assert sorted(path.name for path in overview.parent.iterdir()) == [
        "best_1.jpg", "best_2.jpg", "overview.jpg", "worst_1.jpg", "worst_2.jpg"]
    assert overview == tmp_path / "out/overview.jpg" and cv2.imread(str(overview)).shape[1] == 1280
    for name, row in (("worst_1", order[0]), ("worst_2", order[1]), ("best_1", order[4]), ("best_2", order[3])):
        assert np.median(read_picture(tmp_path / f"out/{name}.jpg")) == 40 * predictions.persons[row].image_id


def test_captions_say_what_ap_is_computed_from(grey_persons: PersonSet, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    make_card = drawing.make_card
    monkeypatch.setattr(drawing, "make_card", lambda canvas, text: lines.append(text) or make_card(canvas, text))
    predictions = predict_with_noise(grey_persons, dict.fromkeys(range(1, 6), 0.0))
    annotation = grey_persons.annotations.annotations[predictions.persons[2].index]
    annotation["keypoints"][9 * 3:10 * 3] = [50, 60, 1]
    predictions.keypoints[2, 9] = 50 + 12, 60 + 5
    predictions.keypoints[2, 11] += 13  # further off, but a hip counts less
    oks = pycocotools_oks(annotation, predictions.keypoints[2])
    labelled = sum(v > 0 for v in annotation["keypoints"][2::3])
    write_pictures(tmp_path, 1, predictions, grey_persons)
    assert lines[0] == [f"worst 1: OKS {oks:.3f}", "left wrist, 13.0 px", f"area 12,000, {labelled} of 17 labelled",
                        "000000000003.jpg"]


def test_best_match_among_a_detectors_boxes(grey_persons: PersonSet, tmp_path: Path) -> None:
    """The closest prediction has the colours of its sides, whichever box it is of; others are faint lines, without
    joints of low score."""
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 200, 200], "score": score} for score in (1.0, 0.1, 0.0)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    persons = load_persons(grey_persons.annotations.path.parents[1], tmp_path / "boxes.json")
    expected = np.zeros((17, 3))
    expected[[7, 9]] = [[100, 40, 2], [160, 40, 2]]  # left elbow and wrist
    persons.annotations.annotations[0]["keypoints"] = expected.ravel().tolist()
    keypoints = np.stack([expected[:, :2] + (0, 100), expected[:, :2] + (0, 2), expected[:, :2] + (0, 140)])
    keypoints[:, 5] = 20, 160
    scores = np.zeros((3, 17))
    scores[:, [7, 9, 5]] = 0.9, 0.9, 0.1
    predictions = Predictions(list(persons), np.float32(keypoints), np.float32(scores), np.ones((3, 2), np.float32))
    write_pictures(tmp_path / "out", 1, predictions, persons)
    picture = read_picture(tmp_path / "out/worst_1.jpg")
    assert np.abs(picture[in_picture((100, 42))] - LEFT).max() < 40
    others = [picture[in_picture((130, y))] for y in (140, 180)]
    assert np.ptp(others[0]) < 12 and others[0].mean() == pytest.approx(0.3 * 40 + 0.7 * 255, abs=25)
    assert others[1].mean() == pytest.approx(40, abs=5)  # its box has the score 0
    assert np.abs(picture[in_picture((60, 150))] - 40).max() < 12  # on the limb to the shoulder


def test_crops_of_two_engines(grey_persons: PersonSet, tmp_path: Path) -> None:
    """An arrow leads from the reference's joint to this engine's."""
    reference = predict_with_noise(grey_persons, dict.fromkeys(range(1, 6), 0.0))
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
    content = json.loads(grey_persons.annotations.path.read_text())
    content["annotations"] = [{**content["annotations"][0], "id": i + 1} for i in range(persons)]
    grey_persons.annotations.path.write_text(json.dumps(content))
    few = load_persons(grey_persons.annotations.path.parents[1])
    overview = write_pictures(tmp_path / "out", number, predict_with_noise(few, {1: 5.0}), few)
    assert len(list((tmp_path / "out").glob("*_*.jpg"))) == persons + persons % 2
    rows = min(20, (persons + 1) // 2)
    assert cv2.imread(str(overview)).shape[0] == 2 * 46 + 32 + rows * (624 + 10 + 4 * 38 + 16)


@pytest.mark.parametrize("size", [(10, 3000), (3000, 10), (1, 1)], ids=str)
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
    write_pictures(tmp_path / "pictures", 1, predictions, persons)
    assert read_picture(tmp_path / "pictures/worst_1.jpg").shape == (624, 624, 3)


def test_images_without_ground_truth_are_noticed_before_the_run(engine_file: Path, dataset: Callable, tmp_path: Path
                                                                ) -> None:
    """A detector finds persons in them, and so they can be evaluated, but not ranked."""
    folder, content = dataset()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 1, "keypoints": [5, 5, 0] * 17})
    write_annotations(folder, content)
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 1}
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    done = run_script("inference.py", "--engine", engine_file, "--datasets", folder, "--detections",
                      tmp_path / "boxes.json", "--visualize", 1, "--output", tmp_path / "out")
    assert done.returncode == 2 and "Average Precision" not in done.stdout
    assert "has no keypoints for these 1 images" in done.stderr and len(done.stderr.splitlines()) == 1
    with pytest.raises(KitError, match="has no keypoints for these 1 images"):
        rank_persons(predict_with_noise(load_persons(folder), dict.fromkeys(range(6), 0.0)),
                     load_persons(folder, tmp_path / "boxes.json"))
