"""Damaged annotations, detections and images: an error in one line, or the numbers that mmpose and pycocotools give."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import judge
import numpy as np
import PIL.Image
import pytest
from fuzz.cleaning import clean, clean_boxes, number_images
from fuzz.mutations import mutated_bytes, mutated_json, unusual_photograph
from fuzz.runner import damaged, fuzz, run_safely
from helpers import draw_dataset, write_annotations
from hypothesis import given
from hypothesis import strategies as st

from rtmpose.data.coco import ANNOTATIONS, load_persons
from rtmpose.data.images import read_photograph

pytestmark = pytest.mark.slow


def test_the_option_sets_the_number_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_EXAMPLES", "2000")
    assert (fuzz(0.3).max_examples, fuzz(0.3).derandomize) == (600, False)
    monkeypatch.delenv("FUZZ_EXAMPLES")
    assert (fuzz(0.3).max_examples, fuzz(0.3).derandomize) == (60, True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and their annotations; the tests damage one file at a time."""
    folder = tmp_path_factory.mktemp("fuzz")
    draw_dataset(folder / "coco", images=2)
    return folder


@pytest.fixture(scope="module")
def content(work: Path) -> dict[str, Any]:
    """The undamaged annotations."""
    return json.loads((work / "coco" / ANNOTATIONS).read_text())


def is_measured(work: Path, engine: Path, *options: object) -> bool:
    """Whether an accuracy run over the folder's data set gives numbers, which are then pycocotools'."""
    shutil.rmtree(work / "output", ignore_errors=True)
    done = run_safely(work, work / "output", "inference", "--engine", engine, "--datasets", work / "coco", "--output",
                      work / "output", *options)
    if done.returncode == 0:
        assert_numbers_of_pycocotools(work)
    return done.returncode == 0


def assert_numbers_of_pycocotools(work: Path) -> None:
    """The ten numbers in summary.json are those of pycocotools for keypoints.json."""
    summary, results = (json.loads((work / f"output/{name}.json").read_text()) for name in ("summary", "keypoints"))
    given = json.loads((work / "coco" / ANNOTATIONS).read_text())
    content, order = clean(given), number_images(given)
    for annotation in content["annotations"]:
        annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    results = [{**result, "image_id": order[result["image_id"]], "category_id": 1} for result in results]
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
    np.testing.assert_allclose([summary[name] for name in names], judge.coco_eval(content, results).stats, atol=1e-9)


def assert_persons_of_mmpose(folder: Path, detections: Path | None = None) -> None:
    """The kit estimates whom mmpose's ``CocoDataset`` estimates, in the same boxes."""
    given, cleaned = json.loads((folder / ANNOTATIONS).read_text()), folder.parent / "cleaned"
    shutil.rmtree(cleaned, ignore_errors=True)
    (cleaned / "annotations").mkdir(parents=True)
    write_annotations(cleaned, clean(given))
    if detections:
        (cleaned / "boxes.json").write_text(json.dumps(clean_boxes(json.loads(detections.read_text()), given)))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = judge.coco_dataset(cleaned, detections=cleaned / "boxes.json" if detections else None)
        expected = [dataset.get_data_info(i) for i in range(len(dataset))]
    persons, order = load_persons(folder, detections), number_images(given)
    assert sorted((person["img_id"], *person["bbox"][0].tolist()) for person in expected) == sorted(
        (order[person.image_id], *person.bbox.tolist()) for person in persons)


@judge.needs_xtcocotools
@fuzz(0.3)
@given(data=st.data())
def test_annotations(work: Path, engine_file: Path, content: dict[str, Any], data: st.DataObject) -> None:
    with damaged(work / "coco" / ANNOTATIONS, mutated_json(data.draw, content)):
        if is_measured(work, engine_file):
            assert_persons_of_mmpose(work / "coco")


@judge.needs_xtcocotools
@fuzz(0.2)
@given(data=st.data())
def test_detections(work: Path, engine_file: Path, content: dict[str, Any], data: st.DataObject) -> None:
    boxes = [{"image_id": person["image_id"], "category_id": 1, "bbox": person["bbox"], "score": 0.9}
             for person in content["annotations"]]
    detections = work / "detections.json"
    detections.write_text(mutated_json(data.draw, boxes))
    if is_measured(work, engine_file, "--detections", detections):
        assert_persons_of_mmpose(work / "coco", detections)


@fuzz(0.2)
@given(data=st.data())
def test_image(work: Path, engine_file: Path, data: st.DataObject) -> None:
    """A damaged image is refused, or gives the pixels that OpenCV gives; one that only is unusual gives its pixels."""
    image, is_whole = work / "coco/images/val2017/000000000001.jpg", data.draw(st.booleans())
    if is_whole:
        content, whole = unusual_photograph(data.draw, PIL.Image.open(image))
    else:
        content = whole = mutated_bytes(data.draw, image.read_bytes())
    with damaged(image, content):
        is_read = is_measured(work, engine_file)
        assert is_read or not is_whole
        if is_read:
            expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(read_photograph(image), expected)
