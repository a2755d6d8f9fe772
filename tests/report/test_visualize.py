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

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions
from rtmpose.report import drawing, visualize
from rtmpose.report.visualize import ground_truth_oks, write_crops, write_pictures


def predict_with_noise(persons: PersonSet, noise: dict[int, float]) -> Predictions:
    """Ground truth plus noise, whose size in pixels is given by image."""
    random = np.random.default_rng(0)
    annotations = persons.annotations.annotations
    keypoints = [np.reshape(annotations[person.index]["keypoints"], (17, 3))[:, :2]
                 + random.normal(0, noise[person.image_id], (17, 2)) for person in persons]
    number = len(persons)
    return Predictions(list(persons), np.float32(keypoints), np.full((number, 17), 0.9, np.float32),
                       np.ones((number, 2), np.float32))


def pycocotools_oks(persons: PersonSet, index: int, keypoints: np.ndarray) -> float:
    """OKS of an annotation, by its index, and a prediction."""
    annotation = persons.annotations.annotations[index]
    coco = COCO()
    coco.dataset = {**json.loads(persons.annotations.path.read_text()), "annotations": persons.annotations.annotations}
    coco.createIndex()
    result = {"image_id": annotation["image_id"], "category_id": 1, "score": 1.0,
              "keypoints": np.hstack([keypoints, np.ones((17, 1))]).ravel().tolist()}
    evaluation = COCOeval(coco, coco.loadRes([result]), "keypoints")
    evaluation.params.imgIds = [annotation["image_id"]]
    evaluation._prepare()
    order = [a["id"] for a in evaluation._gts[annotation["image_id"], 1]]
    return float(evaluation.computeOks(annotation["image_id"], 1)[0, order.index(annotation["id"])])


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


def read_panel(path: Path) -> np.ndarray:
    """The picture of a person in a file of one card: 616 x 616 above four lines of 38 pixels."""
    bottom = cv2.imread(str(path))[:-16 - 10 - 4 * 38]
    return bottom[-616:, 16:-16]


def in_panel(point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of a point of a 200 x 200 image in its panel."""
    return tuple(round((number + 0.5) * 616 / 200 - 0.5) for number in point[::-1])


def test_oks_is_pycocotools(drawn: Path) -> None:
    persons = load_persons(drawn)
    predictions = predict_with_noise(persons, dict.fromkeys(range(1, 6), 8.0))
    for person, keypoints in zip(predictions.persons, predictions.keypoints, strict=True):
        annotation = persons.annotations.annotations[person.index]
        found = ground_truth_oks(np.stack([keypoints, keypoints + 3, keypoints * np.nan]), annotation)
        assert found == pytest.approx([pycocotools_oks(persons, person.index, keypoints),
                                       pycocotools_oks(persons, person.index, keypoints + 3), 0], abs=1e-6)


def test_worst_and_best_persons_are_chosen_by_oks(grey_persons: PersonSet, tmp_path: Path) -> None:
    predictions = predict_with_noise(grey_persons, {1: 6.0, 2: 90.0, 3: 0.1, 4: 40.0, 5: 12.0})
    order = sorted(range(5), key=lambda row: pycocotools_oks(grey_persons, predictions.persons[row].index,
                                                             predictions.keypoints[row]))
    overview = write_pictures(tmp_path / "out", 2, predictions, grey_persons)
    assert sorted(path.name for path in overview.parent.iterdir()) == [
        "best_1.jpg", "best_2.jpg", "overview.jpg", "worst_1.jpg", "worst_2.jpg"]
    assert overview == tmp_path / "out/overview.jpg" and cv2.imread(str(overview)).shape[1] == 1280
    for name, row in (("worst_1", order[0]), ("worst_2", order[1]), ("best_1", order[4]), ("best_2", order[3])):
        panel = read_panel(tmp_path / f"out/{name}.jpg")
        assert np.median(panel) == 40 * predictions.persons[row].image_id
        assert panel.shape[:2] == (616, 616)


def test_captions_say_what_ap_is_computed_from(grey_persons: PersonSet, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    monkeypatch.setattr(visualize, "make_card",
                        lambda view, text, size: lines.append(text) or drawing.make_card(view, text, size))
    predictions = predict_with_noise(grey_persons, dict.fromkeys(range(1, 6), 0.0))
    annotation = grey_persons.annotations.annotations[predictions.persons[2].index]
    annotation["keypoints"][9 * 3:10 * 3] = [50, 60, 1]
    predictions.keypoints[2, 9] = 50 + 12, 60 + 5
    predictions.keypoints[2, 11] += 3  # a hip counts less
    oks = pycocotools_oks(grey_persons, predictions.persons[2].index, predictions.keypoints[2])
    labelled = sum(v > 0 for v in annotation["keypoints"][2::3])
    write_pictures(tmp_path, 1, predictions, grey_persons)
    assert lines[0] == [f"worst 1: OKS {oks:.3f}", "left wrist, 13 px", f"area 12,000, {labelled} of 17 labelled",
                        "000000000003.jpg"]


def test_best_match_among_a_detectors_boxes(grey_persons: PersonSet, tmp_path: Path) -> None:
    """The closest prediction has the colours of its sides, whichever box it is of; others are faint lines."""
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 200, 200], "score": score} for score in (1.0, 0.1, 0.0)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    annotation = grey_persons.annotations.annotations[0]
    persons = load_persons(grey_persons.annotations.path.parents[1], tmp_path / "boxes.json")
    expected = np.zeros((17, 3))
    expected[[7, 9]] = [[100, 40, 2], [160, 40, 2]]  # left elbow and wrist
    persons.annotations.annotations[0]["keypoints"] = expected.ravel().tolist()
    keypoints = np.stack([expected[:, :2] + (0, 100), expected[:, :2] + (0, 2), expected[:, :2] + (0, 140)])
    scores = np.zeros((3, 17))
    scores[:, [7, 9]] = 0.9
    predictions = Predictions(list(persons), np.float32(keypoints), np.float32(scores), np.ones((3, 2), np.float32))
    write_pictures(tmp_path / "out", 1, predictions, persons)
    panel = read_panel(tmp_path / "out/worst_1.jpg").astype(int)
    left = np.array([20, 140, 255])
    assert np.abs(panel[in_panel((100, 42))] - left).max() < 40 and annotation["image_id"] == 1
    others = [panel[in_panel((130, y))] for y in (140, 180)]
    assert np.ptp(others[0]) < 12 and others[0].mean() == pytest.approx(0.3 * 40 + 0.7 * 255, abs=25)
    assert others[1].mean() == pytest.approx(40, abs=5)  # its box has the score 0


def test_crops_of_two_engines(grey_persons: PersonSet, tmp_path: Path) -> None:
    """An arrow leads to the joint that moved furthest among those that the reference is sure of."""
    reference = predict_with_noise(grey_persons, dict.fromkeys(range(1, 6), 0.0))
    reference.keypoints[:] = np.linspace(20, 60, 17)[:, None]
    reference.scores[:, 3] = 0.1
    moved = Predictions(reference.persons, reference.keypoints.copy(), reference.scores, reference.scales)
    moved.keypoints[1, 16] += (100, 0)
    moved.keypoints[1, 3] += (0, 130)
    picture = write_crops(tmp_path, [1], moved, reference, grey_persons, (192, 256))
    panel = cv2.imread(str(picture))[:-16 - 10 - 2 * 38][-616:, 16:-16].astype(int)
    magenta = np.array([190, 20, 230])
    row, column = in_panel((110, 60))
    assert np.abs(panel[row, column] - magenta).max() < 50
    arrow = (np.abs(panel - magenta).max(axis=2) < 60).nonzero()
    assert in_panel((60, 60))[1] - 20 < arrow[1].min() and arrow[1].max() < in_panel((160, 60))[1] + 6
    assert np.ptp(arrow[0]) < 45


def test_overview_of_many_persons_is_limited(grey_persons: PersonSet, tmp_path: Path) -> None:
    number = 50
    content = json.loads(grey_persons.annotations.path.read_text())
    content["annotations"] = [{**content["annotations"][0], "id": i + 1} for i in range(number)]
    grey_persons.annotations.path.write_text(json.dumps(content))
    persons = load_persons(grey_persons.annotations.path.parents[1])
    overview = write_pictures(tmp_path / "out", 100, predict_with_noise(persons, {1: 5.0}), persons)
    assert len(list((tmp_path / "out").glob("*_*.jpg"))) == number
    assert cv2.imread(str(overview)).shape[0] == pytest.approx(20 * (616 + 10 + 4 * 38 + 16), abs=150)


def test_few_persons_are_drawn_once(drawn: Path, tmp_path: Path) -> None:
    persons = load_persons(drawn, limit=1)
    number = (len(persons) + 1) // 2
    write_pictures(tmp_path, 5, predict_with_noise(persons, {1: 1.0}), persons)
    assert len(list(tmp_path.iterdir())) == 2 * number + 1 <= len(persons) + 2


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
    assert cv2.imread(str(overview)).shape == (910, 1280, 3)
    assert read_panel(tmp_path / "pictures/worst_1.jpg").shape == (616, 616, 3)


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
