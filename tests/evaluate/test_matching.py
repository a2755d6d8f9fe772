"""The kit's OKS and matches beside unmodified pycocotools, array by array, to the bit."""

import copy

import judge
import numpy as np
import pytest

from rtmpose.evaluate.matching import Evaluation

SEEDS = range(60)


def draw(seed: int) -> tuple[dict, list[dict]]:
    """A random set: crowds, twins, areas at the limits of COCO's ranges, persons without keypoints, images without
    persons or predictions, up to 30 predictions an image, scores and similarities that are equal, two categories."""
    random = np.random.default_rng(seed)
    name = str if seed % 5 == 0 else int
    images = [{"id": name(number)} for number in random.permutation(8)]
    annotations: list[dict] = []
    for image in images[:6]:
        persons: list[dict] = []
        for _ in range(random.integers(0, 7)):
            person = copy.deepcopy(persons[-1]) if persons and random.random() < 0.3 else draw_person(random, image)
            persons.append({**person, "id": len(annotations) + len(persons) + 1, "iscrowd": int(random.random() < 0.2),
                            "area": float(random.choice([500, 32**2, 5000, 96**2, 20000, 1e-12]))})
        annotations += persons
    results = []
    for image in images[1:]:
        known = [a for a in annotations if a["image_id"] == image["id"]] or [draw_person(random, image)]
        for _ in range(random.choice([0, 3, 30])):
            person = known[random.integers(len(known))]
            keypoints = np.array(person["keypoints"], float).reshape(17, 3)
            keypoints[:, :2] += np.rint(random.normal(0, 1, (17, 2)) * random.choice([0, 0, 2, 5, 30]))
            results.append({"image_id": image["id"], "category_id": person["category_id"],
                            "bbox": random.choice([16, 32, 96, 120.5], 4).tolist(),
                            "keypoints": keypoints.ravel().tolist(),
                            "score": float(random.choice([0.25, 0.5, random.random()]))})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}, results


def draw_person(random: np.random.Generator, image: dict) -> dict:
    """Some labelled keypoints, none, or coordinates with fractions."""
    keypoints = random.integers(0, 300, (17, 3)) + random.choice([0, 0.3])
    keypoints[:, 2] = random.integers(0, 3, 17) * (random.random() < 0.8)
    return {"image_id": image["id"], "category_id": int(random.choice([1, 1, 1, 2])),
            "bbox": random.integers(0, 150, 4).tolist(), "keypoints": keypoints.ravel().tolist(),
            "num_keypoints": int((keypoints[:, 2] > 0).sum())}


def check_same(found: object, expected: object) -> None:
    """Same type, shape and bits."""
    assert np.asarray(found).dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(found, expected, strict=isinstance(expected, np.ndarray))


@pytest.mark.parametrize("seed", SEEDS)
def test_arrays_are_those_of_pycocotools(seed: int) -> None:
    content, results = draw(seed)
    expected, found = judge.coco_eval(content, results), judge.coco_eval(content, results, Evaluation)
    assert found.ious.keys() == expected.ious.keys()
    for key, similarities in expected.ious.items():
        check_same(found.ious[key], similarities)
    for image, wanted in zip(found.evalImgs, expected.evalImgs, strict=True):
        assert (image is None) == (wanted is None)
        if wanted:
            assert image.keys() == wanted.keys()
            for key, value in wanted.items():
                check_same(image[key], value)
    for key in ("precision", "recall", "scores"):
        check_same(found.eval[key], expected.eval[key])
    check_same(found.stats, expected.stats)
