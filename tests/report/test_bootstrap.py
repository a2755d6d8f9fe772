"""The bootstrap of AP beside COCOeval itself, run again on resampled images."""

import json
from pathlib import Path

import judge
import numpy as np
import pytest
from helpers import draw_dataset

from rtmpose.data.annotations import read_annotations
from rtmpose.errors import KitError
from rtmpose.report.bootstrap import (
    Matches,
    average_precision,
    bootstrap_difference,
    full_ap,
    match_images,
    read_keypoints,
    resample,
)


def jitter(content: dict, seed: int, pixels: float) -> list[dict]:
    """Predictions for a drawn set: its keypoints moved, some persons missed, some twice, some found where none is."""
    random = np.random.default_rng(seed)
    results = []
    for annotation in content["annotations"]:
        for _ in range(random.choice([0, 1, 1, 1, 1, 2])):
            keypoints = np.array(annotation["keypoints"], float).reshape(17, 3)
            keypoints[:, :2] += random.normal(0, pixels * random.uniform(0, 2), (17, 2))
            results.append({"image_id": annotation["image_id"], "category_id": 1, "bbox": annotation["bbox"],
                            "keypoints": keypoints.ravel().tolist(), "score": float(random.random())})
    return results


def coco_ap(content: dict, results: list[dict]) -> float:
    """AP as plain pycocotools gives it."""
    return float(judge.coco_eval(content, results).stats[0])


def repeated(content: dict, results: list[dict], counts: np.ndarray) -> tuple[dict, list[dict]]:
    """The set with each image as often as ``counts`` says, each copy under an id of its own."""
    images, annotations, copies = [], [], []
    for image, count in zip(content["images"], counts, strict=True):
        for _ in range(count):
            identity = len(images) + 1
            images.append({**image, "id": identity})
            annotations += [{**annotation, "image_id": identity} for annotation in content["annotations"]
                            if annotation["image_id"] == image["id"]]
            copies += [{**result, "image_id": identity} for result in results if result["image_id"] == image["id"]]
    annotations = [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]
    return {**content, "images": images, "annotations": annotations}, copies


@pytest.fixture(scope="module")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("set")
    content = draw_dataset(folder, images=12, seed=3)
    return folder / "annotations/person_keypoints_val2017.json", content


def match(path: Path, content: dict, results: list[dict]) -> Matches:
    return match_images(read_annotations(path), results, [image["id"] for image in content["images"]])


def test_resampled_ap_is_that_of_cocoeval_on_resampled_images(drawn_set: tuple[Path, dict]) -> None:
    path, content = drawn_set
    pairs = []
    for seed, pixels in ((0, 4), (1, 9)):
        results = jitter(content, seed, pixels)
        matches = match(path, content, results)
        expected = coco_ap(content, results)
        assert 0.1 < expected < 0.95 and full_ap(matches) == pytest.approx(expected, abs=1e-12)
        naive = [coco_ap(*repeated(content, results, counts)) for counts in resample(12, 25)]
        found = [average_precision(matches, counts) for counts in resample(12, 25)]
        assert found == pytest.approx(naive, abs=1e-12) and len(set(found)) > 10
        pairs.append((matches, naive))
    (base, base_naive), (other, other_naive) = pairs
    expected = np.percentile(np.subtract(other_naive, base_naive), [2.5, 97.5])
    assert bootstrap_difference(base, other, 25) == pytest.approx(tuple(expected), abs=1e-12)
    assert bootstrap_difference(base, base, 25) == (0, 0)


def test_interval_is_wide_for_chance_and_excludes_zero_for_a_loss(drawn_set: tuple[Path, dict]) -> None:
    path, content = drawn_set
    base, alike, worse = (match(path, content, jitter(content, seed, pixels))
                          for seed, pixels in ((0, 4), (5, 4), (6, 30)))
    low, high = bootstrap_difference(base, alike)
    assert low < 0 < high and bootstrap_difference(base, alike) == (low, high)
    assert bootstrap_difference(base, worse)[1] < 0


def test_without_predictions_or_ground_truth(drawn_set: tuple[Path, dict]) -> None:
    path, content = drawn_set
    nothing = match(path, content, [])
    assert full_ap(nothing) == 0
    assert average_precision(nothing, np.zeros(12, int)) == -1


@pytest.mark.parametrize(("changed", "message"), [
    ({"keypoints": [1.0] * 50}, "result 0: keypoints is"), ({"keypoints": [float("nan")] * 51}, "not 51 finite"),
    ({"score": "high"}, "result 0: score"), ({"bbox": None}, "expected the keypoints.json"),
    ({"image_id": [1]}, "unhashable"), ({"image_id": 99}, "has no image 99"),
    ({"category_id": 2}, "has no category of persons 2")])
def test_broken_results(drawn_set: tuple[Path, dict], tmp_path: Path, changed: dict, message: str) -> None:
    path, content = drawn_set
    file = tmp_path / "keypoints.json"
    file.write_text(json.dumps([{**jitter(content, 0, 4)[0], **changed}]))
    with pytest.raises(KitError, match=message):
        match(path, content, read_keypoints(file))
