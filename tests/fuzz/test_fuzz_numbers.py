"""Valid but unusual annotations and detections: the numbers that mmpose's CocoMetric gives for the persons in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import judge
import numpy as np
import pytest
from fuzz.cleaning import clean, clean_boxes
from fuzz.runner import fuzz
from helpers import draw_dataset, write_annotations
from hypothesis import given
from hypothesis import strategies as st

from rtmpose.data.coco import load_persons
from rtmpose.errors import KitError
from rtmpose.evaluate.coco_eval import score
from rtmpose.evaluate.predictions import Predictions
from rtmpose.report.bootstrap import full_ap, match_images

Record = dict[str, Any]
pytestmark = [pytest.mark.slow, judge.needs_xtcocotools]
BOXES = st.sampled_from([[10, 10, 0, 20], [-60, 5, 30, 40], [5, 5, 1e-5, 40], [0, 0, 900, 900], [-9, -9, 50, 60.5],
                         [10, 10, -5, 20], [30, 20, 1, 1], [399.5, 5, 30, 40]])
FIELDS = {
    "iscrowd": st.sampled_from([True, False, 1, 0.0, None]),
    "area": st.sampled_from([0, -5, 1e-9, 1024, 9216.0, 1e9]),
    "num_keypoints": st.sampled_from([0, 0.0, 17.0, 22, -1, None, "3", False]),
    "keypoints": st.sampled_from([[], [0] * 51, [5, 5, 0] * 17, [-5, -5, 2] * 17, [40, 50, 3] * 17, [0, 0, 2] * 17,
                                  [30.25, 60.5, 1.0] * 17, [-3, 20, 1, 9, 9, 0, 4, -4, 2] + [0] * 42]),
    "bbox": BOXES,
    "id": st.sampled_from([0, 2**40, 77.0]),
}


@st.composite
def unusual(draw: st.DrawFn, content: Record) -> Record:
    """Annotations after one to six changes that a program which writes such files might make."""
    content = json.loads(json.dumps(content))
    images, annotations = content["images"], content["annotations"]
    for _ in range(draw(st.integers(1, 6))):
        annotation = draw(st.sampled_from(annotations))
        change = draw(st.sampled_from(["field"] * 6 + ["drop", "other", "instance", "cut", "empty", "shuffle"]))
        if change == "field":
            field = draw(st.sampled_from(sorted(FIELDS)))
            value = draw(FIELDS[field])
            if field != "id" or value not in [other["id"] for other in annotations]:
                annotation[field] = value
        elif change == "drop":
            annotation.pop(draw(st.sampled_from(["iscrowd", "num_keypoints"])), None)
        elif change == "other":
            content["categories"] = [*content["categories"][:1], {"id": 2, "name": "dog"}]
            annotations.insert(0, {**annotation, "id": max(other["id"] for other in annotations) + 1, "category_id": 2})
        elif change == "instance":
            annotation.pop("keypoints", None)
        elif change == "cut" and len(images) > 2:
            del images[draw(st.integers(0, len(images) - 1))]
        elif change == "empty":
            images.append({**images[0], "id": max(image["id"] for image in images) + 1})
        else:
            content["annotations"] = annotations = draw(st.permutations(annotations))
    for records in draw(st.sampled_from([[], [], [images], [annotations]])):
        records.append(dict(draw(st.sampled_from(records))))
    return rename(content, draw)


def rename(content: Record, draw: st.DrawFn) -> Record:
    """Ids as text, and another id and name of the category, now and then."""
    identity = draw(st.sampled_from([1, 1, 0, 7, "one"]))
    text = draw(st.sampled_from([False, False, False, True]))
    content["categories"][0]["id"] = identity
    for annotation in content["annotations"]:
        annotation["category_id"] = identity if annotation["category_id"] == 1 else annotation["category_id"]
        annotation["image_id"] = f"no. {annotation['image_id']}" if text else annotation["image_id"]
    for image in content["images"]:
        image["id"] = f"no. {image['id']}" if text else image["id"]
    name = draw(st.sampled_from(["person", "Person"] + ["human", None] * (len(content["categories"]) == 1)))
    content["categories"][0]["name"] = name
    if isinstance(identity, str) and len(content["categories"]) > 1:
        content["categories"][1]["id"] = "two"
        for annotation in content["annotations"]:
            annotation["category_id"] = "two" if annotation["category_id"] == 2 else identity
    return content


@st.composite
def detected(draw: st.DrawFn, content: Record) -> list[Record]:
    """A detector's boxes for annotations: doubled, of equal or high scores, empty, outside, of other categories."""
    person, sample = content["categories"][0]["id"], st.sampled_from(content["annotations"])
    known = [image["id"] for image in content["images"]]
    scores = st.sampled_from([0.9, 1.0, 1, 3.5, 0, 0.01, -1])
    return [{"image_id": annotation["image_id"], "score": draw(scores),
             "bbox": draw(st.one_of(st.just(annotation["bbox"]), BOXES)) + [0.5] * draw(st.sampled_from([0, 0, 1])),
             "category_id": draw(st.sampled_from([person, person, person, 99]))}
            for annotation in draw(st.lists(sample, min_size=4, max_size=16)) if annotation["image_id"] in known]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A folder with a drawn data set and one for mmpose's annotations, and the drawn content."""
    folder = tmp_path_factory.mktemp("fuzz")
    content = draw_dataset(folder / "kit", images=4)
    shutil.copytree(folder / "kit", folder / "mmpose")
    return folder, content


def assert_numbers_of_mmpose(work: Path, seed: int, *files: Path) -> None:
    """The same random keypoints score the same; for ``files``, the kit's and mmpose's detections, too. Where mmpose
    finds nobody, the kit says so."""
    dataset = judge.coco_dataset(work / "mmpose", detections=files[1] if files else None)
    if not len(dataset):
        with pytest.raises(KitError, match="holds no (person with keypoints|detection of category)"):
            load_persons(work / "kit", *files[:1])
        return
    persons = load_persons(work / "kit", *files[:1])
    samples = sorted((item["data_samples"] for item in dataset), key=lambda sample: sample.id)
    found = sorted(persons, key=lambda person: person.index)
    assert [person.bbox.tolist() for person in found] == [sample.gt_instances.bboxes[0].tolist() for sample in samples]
    random, truth = np.random.default_rng(seed), [
        np.reshape(annotation["keypoints"], (17, 3))[:, :2] for annotation in persons.annotations.annotations]
    keypoints = np.stack([truth[random.integers(len(truth))] if files else truth[person.index] for person in found])
    keypoints = (keypoints + random.normal(0, 3, keypoints.shape)).astype(np.float32)
    scores = random.uniform(0, 1, keypoints.shape[:2]).astype(np.float32)
    for sample, points, confidences in zip(samples, keypoints, scores, strict=True):
        judge.predict(sample, points, confidences)
    results, numbers, _ = score(Predictions(found, keypoints, scores,
                                            np.stack([sample.input_scale for sample in samples])), persons)
    assert numbers == pytest.approx(judge.evaluate(dataset, samples, work)[0], abs=1e-9)
    matches = match_images(persons.annotations, results, [image["id"] for image in persons.annotations.images])
    assert full_ap(matches) == pytest.approx(numbers["AP"], abs=1e-9)


@fuzz(0.5)
@given(data=st.data())
def test_annotations(work: tuple[Path, Record], data: st.DataObject) -> None:
    folder, drawn = work
    content = data.draw(unusual(drawn))
    write_annotations(folder / "kit", content)
    write_annotations(folder / "mmpose", clean(content))
    assert_numbers_of_mmpose(folder, data.draw(st.integers(0, 99)))


@fuzz(0.5)
@given(data=st.data())
def test_detections(work: tuple[Path, Record], data: st.DataObject) -> None:
    folder, drawn = work
    content = data.draw(unusual(drawn))
    boxes, paths = data.draw(detected(content)), (folder / "kit.json", folder / "mmpose.json")
    write_annotations(folder / "kit", content)
    write_annotations(folder / "mmpose", clean(content))
    for path, written in zip(paths, (boxes, clean_boxes(boxes, content)), strict=True):
        path.write_text(json.dumps(written))
    if clean(content)["annotations"]:
        assert_numbers_of_mmpose(folder, data.draw(st.integers(0, 99)), *paths)
