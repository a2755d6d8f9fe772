"""A random network through export.py, build_engine.py and inference.py, against mmpose's own pipeline in PyTorch.

Both compute in float32, in another order, so logits differ by about 1e-5 of their size. Where two bins of a random
network are as good as each other, either may be the maximum: so nearly all keypoints must be equal, and each of the
others must lie in a bin that is a maximum for mmpose within that rounding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import judge
import numpy as np
import pytest
from helpers import ran

pytestmark = judge.needs_xtcocotools

RUNS = {
    "drawn": ("drawn", False, False),
    "drawn, flip test": ("drawn", True, False),
    "coco-mini": ("coco_mini", False, False),
    "coco-mini, flip test": ("coco_mini", True, False),
    "coco-four, detections": ("coco_four", False, True),
}


@dataclass(frozen=True)
class Run:
    """One run of inference.py beside mmpose's."""

    summary: dict[str, Any]  # summary.json
    pairs: list[tuple[dict[str, Any], dict[str, Any]]]  # results of the persons that both kept, the kit's and mmpose's
    samples: dict[int, Any]  # mmpose's predictions by person
    logits: dict[int, tuple[np.ndarray, np.ndarray]]  # over x and over y, that they were decoded from


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, model_files: dict[str, Path], engine_file: Path,
        tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every run."""
    name, flip_test, detected = RUNS[request.param]
    folder, output = request.getfixturevalue(name), tmp_path_factory.mktemp("output")
    detections = folder / "person_detections.json" if detected else None
    options = [*(["--flip_test"] if flip_test else []), *(["--detections", detections] if detected else [])]
    ran("inference.py", "--engine", engine_file, "--batchsize", 4, "--input_name", "input", "--datasets", folder,
        "--output", output, *options)
    summary, keypoints = (json.loads((output / f"{name}.json").read_text()) for name in ("summary", "keypoints"))
    assert summary["flip_test"] == flip_test

    dataset = judge.coco_dataset(folder, detections=detections)
    samples, logits = predict(model_files, dataset, flip_test)
    kept = {result["id"]: result for result in judge.evaluate(dataset, samples, output)[1]}
    annotations = json.loads(Path(dataset.ann_file).read_text())["annotations"]
    in_file = range(len(samples)) if detected else [annotation["id"] for annotation in annotations]
    theirs = [kept[identity] for identity in in_file if identity in kept]
    return Run(summary, list(zip(keypoints, theirs, strict=True)), {sample.id: sample for sample in samples},
               {sample.id: each for sample, *each in zip(samples, *logits, strict=True)})


def predict(model_files: dict[str, Path], dataset: Any, flip_test: bool) -> tuple[list[Any], list[np.ndarray]]:
    """mmpose's ``test_step`` on all persons, eight at a time: data samples with predictions, and the logits."""
    import torch

    estimator = judge.estimator(model_files["config"], model_files["checkpoint"])
    estimator.test_cfg["flip_test"] = flip_test
    decode, decoded = estimator.head.decode, []

    def recording_decode(logits: tuple[Any, Any]) -> list[Any]:
        decoded.append([axis.numpy() for axis in logits])
        return decode(logits)

    estimator.head.decode = recording_decode
    items, samples = list(dataset), []
    with torch.no_grad():
        for start in range(0, len(items), 8):
            batch = items[start:start + 8]
            samples += estimator.test_step({key: [item[key] for item in batch] for key in batch[0]})
    return samples, [np.concatenate(axis) for axis in zip(*decoded, strict=True)]


def test_each_person_once_in_order(run: Run) -> None:
    assert [(ours["image_id"], ours["bbox"]) for ours, _ in run.pairs] == [
        (theirs["image_id"], theirs["bbox"]) for _, theirs in run.pairs]
    assert {ours["category_id"] for ours, _ in run.pairs} == {1}
    assert run.summary["persons"] == len(run.samples)
    if run.summary["boxes"] == "ground-truth boxes":
        assert len(run.pairs) == len(run.samples)


def test_keypoints_and_scores(run: Run) -> None:
    shortfalls, equal = [], []
    for ours, theirs in run.pairs:
        sample, logits = run.samples[theirs["id"]], run.logits[theirs["id"]]
        keypoints, expected = (np.reshape(result["keypoints"], (17, 3))[:, :2] for result in (ours, theirs))
        equal += (np.abs(keypoints - expected).max(axis=1) < 1e-3).tolist()
        places = (keypoints - sample.input_center + 0.5 * sample.input_scale) / sample.input_scale
        shortfalls += [shortfall(places[:, axis], logits[axis]) for axis in (0, 1)]
        assert ours["keypoints"][2::3] == pytest.approx(theirs["keypoints"][2::3], rel=1e-4)
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4)
    assert np.mean(equal) >= 0.995
    assert np.max(shortfalls) < 1e-4


def shortfall(places: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """How far the logits at places (17,) from 0 to 1 lie below the largest of each row, relative to that one."""
    bins = np.rint(places * logits.shape[1]).astype(int)
    largest = logits.max(axis=1)
    return (largest - logits[np.arange(len(bins)), bins]) / np.abs(largest)
