"""Rescoring, OKS-NMS and the ten COCO numbers against mmpose's CocoMetric on the same keypoints."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import judge
import numpy as np
import pytest
from helpers import draw_dataset, write_annotations

from rtmpose.data.annotations import read_annotations
from rtmpose.data.coco import ANNOTATIONS, PersonSet, load_persons
from rtmpose.evaluate.coco_eval import METRICS, evaluate, rescore, score, write_keypoints
from rtmpose.evaluate.oks import oks_nms
from rtmpose.evaluate.predictions import Predictions

Random = np.random.Generator
Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """The persons of one data set, as the kit and as mmpose hold them, in the order of their file."""

    persons: PersonSet
    dataset: Any
    samples: list[Any]
    ground_truth: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """Image id of each person."""
        return np.array([sample.img_id for sample in self.samples])


def load_case(folder: Path, detections: Path | None = None) -> Case:
    """A data set with, for each person, the ground-truth keypoints (of the same image) nearest to its box."""
    persons = load_persons(folder, detections)
    dataset = judge.coco_dataset(folder, detections=detections)
    samples = sorted((item["data_samples"] for item in dataset),
                     key=lambda sample: sample.id if detections else _position(persons, sample.id))
    return Case(persons, dataset, samples, np.stack([_nearest_ground_truth(persons, sample) for sample in samples]))


def _position(persons: PersonSet, identity: int) -> int:
    return [annotation["id"] for annotation in persons.annotations.annotations].index(identity)


def _nearest_ground_truth(persons: PersonSet, sample: Any) -> np.ndarray:
    known = [annotation for annotation in persons.annotations.annotations
             if annotation["image_id"] == sample.img_id and annotation["num_keypoints"]]
    box = sample.gt_instances.bboxes[0]
    nearest = min(known, key=lambda a: np.abs(box - _corners(a["bbox"])).sum())
    return np.array(nearest["keypoints"], np.float32).reshape(17, 3)[:, :2]


def _corners(bbox: list[float]) -> np.ndarray:
    return np.array([bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]])


def draw_detections(folder: Path, path: Path) -> Path:
    """Boxes as a detector gives them for a drawn data set: several a person, some with the same score."""
    random = np.random.default_rng(5)
    annotations = read_annotations(folder / ANNOTATIONS).annotations
    path.write_text(json.dumps([
        {"image_id": a["image_id"], "category_id": int(random.choice([1, 1, 1, 2])),
         "bbox": (np.array(a["bbox"]) + [*random.normal(0, 3, 2), *random.uniform(0, 9, 2)]).tolist(),
         "score": float(random.choice([1.0, 0.5, random.random()]))}
        for a in annotations for _ in range(4)]))
    return path


@pytest.fixture(scope="module")
def oddly_numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotation ids from 0, a labelled person whose ``num_keypoints`` says 0, and another id of the person category
    than COCO's."""
    folder = tmp_path_factory.mktemp("oddly_numbered")
    content = draw_dataset(folder)
    for annotation in content["annotations"]:
        annotation["id"] -= 1
        annotation["category_id"] = 7
    content["annotations"][1]["num_keypoints"] = 0
    content["categories"][0]["id"] = 7
    write_annotations(folder, content)
    return folder


@pytest.fixture(scope="module", params=[
    "drawn", "drawn, detections", "oddly_numbered", "coco_four", "coco_four, detections", "coco_mini"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Every data set, with annotated and with detected boxes."""
    name, _, detected = request.param.partition(", ")
    folder, detections = request.getfixturevalue(name), None
    if detected:
        detections = folder / "person_detections.json"
        if name == "drawn":
            detections = draw_detections(folder, tmp_path_factory.mktemp("detections") / "detections.json")
    return load_case(folder, detections)


def uniform(random: Random, number: int) -> np.ndarray:
    """Keypoint scores from 0 to 1."""
    return random.uniform(0, 1, (number, 17))


def noisy(pixels: float) -> Callable:
    """Ground truth moved by normal noise."""
    def draw(random: Random, case: Case) -> Arrays:
        keypoints = case.ground_truth + random.normal(0, pixels, case.ground_truth.shape)
        return keypoints, uniform(random, len(keypoints))
    draw.__name__ = f"noise_of_{pixels}_pixels"
    return draw


def signed(random: Random, case: Case) -> Arrays:
    """Scores of both signs, some persons without a positive one or with small ones only."""
    scores = random.normal(0, 0.5, (len(case.ground_truth), 17))
    scores[::3] = -np.abs(scores[::3])
    scores[1::6] = 0
    scores[2::6] = np.minimum(scores[2::6], 0.1)
    return case.ground_truth + random.normal(0, 3, case.ground_truth.shape), scores


def hopeless(random: Random, case: Case) -> Arrays:
    """Nobody has a positive score."""
    return case.ground_truth, -uniform(random, len(case.ground_truth))


def around_threshold(random: Random, case: Case) -> Arrays:
    """Scores just below, at and just above 0.2."""
    threshold = np.float32(0.2)
    near = [np.nextafter(threshold, np.float32(side)) for side in (0, 1)]
    return (case.ground_truth + random.normal(0, 3, case.ground_truth.shape),
            random.choice([threshold, *near, 0.1, 0.9], (len(case.ground_truth), 17)))


def tied(random: Random, case: Case) -> Arrays:
    """Everybody has the same scores."""
    return case.ground_truth + random.normal(0, 4, case.ground_truth.shape), np.full((len(case.ground_truth), 17), 0.5)


def crowded(random: Random, case: Case) -> Arrays:
    """The persons of an image lie nearly on each other: for NMS to drop some and keep others."""
    _, first = np.unique(case.images, return_inverse=True)
    keypoints = np.stack([case.ground_truth[np.argmax(first == group)] for group in first])
    areas = np.array([np.prod(sample.gt_instances.bbox_scales) for sample in case.samples])
    spread = random.choice([0, 0.01, 1, 3, 9], len(keypoints)) * np.sqrt(areas) / 100
    keypoints = keypoints + random.normal(0, 1, keypoints.shape) * spread[:, None, None]
    return keypoints, uniform(random, len(keypoints))


def crowded_and_tied(random: Random, case: Case) -> Arrays:
    """The same, with a few different scores only."""
    keypoints, _ = crowded(random, case)
    return keypoints, np.repeat(random.choice([0.25, 0.5], (len(keypoints), 1)), 17, axis=1)


WITHOUT_TIES = (*map(noisy, (0, 1, 4, 15, 60)), crowded)
DRAWS = (*WITHOUT_TIES, signed, hopeless, around_threshold, tied, crowded_and_tied)


def predict(case: Case, draw: Callable, seed: int = 0) -> Predictions:
    """The same keypoints into mmpose's data samples and into the kit's predictions."""
    keypoints, scores = (array.astype(np.float32) for array in draw(np.random.default_rng(seed), case))
    persons = sorted(case.persons, key=lambda person: person.index)
    for sample, points, confidences in zip(case.samples, keypoints, scores, strict=True):
        judge.predict(sample, points, confidences)
    return Predictions(persons, keypoints, scores, np.stack([sample.input_scale for sample in case.samples]))


def in_image_order(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Image by image, each image's results as they were, and only what both write."""
    keys = ("image_id", "category_id", "keypoints", "score", "bbox")
    return [{**{key: result[key] for key in keys}, "keypoints": np.asarray(result["keypoints"], np.float64).tolist()}
            for result in sorted(results, key=itemgetter("image_id"))]


@judge.needs_xtcocotools
@pytest.mark.parametrize("draw", DRAWS)
def test_results_and_numbers(case: Case, draw: Callable, tmp_path: Path) -> None:
    """The written file scores the same in plain pycocotools. Its order, that of the annotations, decides between
    equal scores; and plain pycocotools takes annotations with id 0 for none."""
    results, numbers, lines = score(predict(case, draw), case.persons)
    expected, written = judge.evaluate(case.dataset, case.samples, tmp_path)
    evaluated = [result for result in written if max(result["keypoints"][2::3]) > 0]
    assert in_image_order(results) == in_image_order(evaluated)
    assert numbers == pytest.approx(expected, abs=1e-9)
    assert tuple(numbers) == METRICS
    assert [line.split()[-1] for line in lines.splitlines()] == [f"{number:.3f}" for number in numbers.values()]
    assert len(results) < len(case.samples) or draw not in (crowded, crowded_and_tied, signed)
    assert bool(results) == (draw is not hopeless)

    write_keypoints(tmp_path / "keypoints.json", results)
    written = json.loads((tmp_path / "keypoints.json").read_text())
    assert [result["keypoints"] for result in written] == [
        result["keypoints"].tolist() for result in sorted(results, key=itemgetter("index"))]
    content = json.loads(case.persons.annotations.path.read_text())
    if draw in WITHOUT_TIES and content["annotations"][0]["id"] != 0:
        plain = judge.coco_eval(content, written).stats
        assert plain.tolist() == pytest.approx(list(numbers.values()), abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("spread", "most", "seeds"), [
    (0.0, 30, 20), (1.0, 30, 20), (3.0, 30, 20), (6.0, 30, 20), (30.0, 30, 20), (3.0, 200, 3)])
def test_oks_nms(spread: float, most: int, seeds: int, ties: bool) -> None:
    """Also of more persons than are compared at once."""
    dropped = 0
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        number = int(random.integers(most // 2, most))
        centers = random.uniform(0, 100, (most // 9, 17, 2))[random.integers(0, most // 9, number)]
        keypoints = (centers + random.normal(0, spread, centers.shape)).astype(np.float32)
        areas = random.uniform(500, 9000, number).astype(np.float32)
        scores = (random.integers(0, 3, number) / 4 if ties else random.random(number)).astype(np.float32)
        kept = oks_nms(keypoints, scores, areas)
        assert kept == mmpose_oks_nms(keypoints, scores, areas)
        dropped += number - len(kept)
    assert dropped or spread > 5


def mmpose_oks_nms(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> list[int]:
    """Indices that mmpose's ``oks_nms`` keeps."""
    instances = [{"keypoints": np.concatenate([points, np.ones((17, 1), np.float32)], 1), "score": score,
                  "area": area} for points, score, area in zip(keypoints, scores, areas, strict=True)]
    nms = judge.mmpose("evaluation.functional").oks_nms
    return nms(instances, 0.9, judge.coco_description()["sigmas"]).tolist()


def test_oks_nms_at_the_threshold() -> None:
    """Two persons as alike as 0.9 exactly, and a little more and less: found by moving one away from the other."""
    scores, areas = np.array([0.5, 0.4], np.float32), np.full(2, 5000, np.float32)
    persons = np.zeros((2, 17, 2), np.float32)

    def alike(distance: np.float32) -> np.float32:
        persons[1, :, 0] = distance
        flat = np.concatenate([persons, np.ones((2, 17, 1), np.float32)], 2).reshape(2, 51)
        oks_iou = judge.mmpose("evaluation.functional.nms").oks_iou
        return oks_iou(flat[0], flat[1:], areas[0], areas[1:], judge.coco_description()["sigmas"])[0]

    near, far = np.float32(0), np.float32(100)
    while (middle := (near + far) / np.float32(2)) not in (near, far):
        near, far = (middle, far) if alike(middle) > np.float32(0.9) else (near, middle)
    assert alike(far) == np.float32(0.9) < alike(near)
    for distance, kept in ((near, [0]), (far, [0, 1])):
        persons[1, :, 0] = distance
        assert oks_nms(persons, scores, areas) == mmpose_oks_nms(persons, scores, areas) == kept


@judge.needs_xtcocotools
def test_limit(coco_mini: Path, tmp_path: Path) -> None:
    """The first images only: as CocoMetric on an annotation file that has no others."""
    persons = load_persons(coco_mini, limit=7)
    chosen = {image.id for image in persons.images}
    assert len(chosen) == 7
    write_part(coco_mini, tmp_path, json.loads(persons.annotations.path.read_text()), chosen)
    part = load_case(tmp_path)
    results, numbers, _ = score(predict(part, noisy(4)), persons)
    expected, _ = judge.evaluate(part.dataset, part.samples, tmp_path)
    assert numbers == pytest.approx(expected, abs=1e-9)
    assert numbers != pytest.approx(evaluate(results, load_persons(coco_mini))[0], abs=1e-3)


def write_part(folder: Path, target: Path, annotations: dict[str, Any], images: set[int]) -> None:
    """A data set that holds only some images of another."""
    (target / "annotations").mkdir()
    (target / "images").symlink_to(folder / "images")
    kept = {key: [record for record in annotations[key] if record[name] in images]
            for key, name in (("images", "id"), ("annotations", "image_id"))}
    write_annotations(target, {**annotations, **kept})


def test_rescore() -> None:
    scores = np.array([[0.2, 0.3, 0.9], [0.1, 0.2, -1], [0.5, 0.5, 0.5], [-1, 0.21, 0.19]], np.float32)
    boxes = np.array([0.5, 1, 0.25, 1], np.float32)
    assert rescore(scores, boxes) == pytest.approx([0.3, 0, 0.125, 0.21], rel=1e-6)
