"""Ground truth through mmpose's SimCC codec and back through the kit: the AP of a perfect network."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import judge
import numpy as np
import pytest

from rtmpose.data.coco import load_persons
from rtmpose.evaluate.coco_eval import score
from rtmpose.evaluate.predict import predict_persons

pytestmark = judge.needs_xtcocotools

Logits = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PerfectEngine:
    """Knows mmpose's crops and their mirror images, and gives the encoded ground truth of each."""

    answers: dict[str, Logits]
    record: SimpleNamespace

    def infer(self, crops: np.ndarray) -> Logits:
        """One batch, as :class:`rtmpose.engines.Engine` has it."""
        assert len(crops) == self.record.batch
        names = [digest(crop) for crop in crops]
        assert set(names) <= set(self.answers), "a crop that mmpose does not make"
        return tuple(np.stack([self.answers[name][axis] for name in names]) for axis in (0, 1))


def digest(crop: np.ndarray) -> str:
    """A crop's name."""
    return hashlib.sha256(crop.tobytes()).hexdigest()


def perfect_engine(dataset: Any, batch: int) -> PerfectEngine:
    """An engine for the persons of mmpose's ``CocoDataset``."""
    answers, swapped = {}, dataset.metainfo["flip_indices"]
    crops, samples = judge.preprocess(dataset)
    for crop, sample in zip(crops, samples, strict=True):
        x, y = encode(sample)
        answers[digest(crop)] = x, y
        answers[digest(crop[..., ::-1])] = x[swapped, ::-1], y[swapped]
    return PerfectEngine(answers, SimpleNamespace(batch=batch, input_size=judge.INPUT_SIZE))


def encode(sample: Any) -> Logits:
    """SimCC labels of a person's ground truth, float32 (17, 384) and (17, 512)."""
    ground_truth = sample.gt_instances
    labels = judge.codec().encode(ground_truth.transformed_keypoints, ground_truth.keypoints_visible)
    return labels["keypoint_x_labels"][0], labels["keypoint_y_labels"][0]


def ceiling(folder: Path, flip_test: bool = False) -> dict[str, float]:
    """The ten numbers of a perfect network, by the kit."""
    persons = load_persons(folder)
    predictions, *_ = predict_persons(perfect_engine(judge.coco_dataset(folder), 5), persons, flip_test)
    return score(predictions, persons)[1]


@pytest.mark.parametrize("flip_test", [False, True], ids=["plain", "flip test"])
@pytest.mark.parametrize(("name", "ap", "ar"), [("coco_mini", 0.97745, 0.98676), ("coco_four", 1, 1)])
def test_ceiling_is_known(request: pytest.FixtureRequest, name: str, ap: float, ar: float, flip_test: bool) -> None:
    numbers = ceiling(request.getfixturevalue(name), flip_test)
    assert (numbers["AP"], numbers["AR"]) == pytest.approx((ap, ar), abs=5e-6)


@pytest.mark.parametrize("name", ["drawn", "coco_four", "coco_mini"])
def test_as_mmpose(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    dataset = judge.coco_dataset(folder)
    samples = [item["data_samples"] for item in dataset]
    for sample in samples:
        keypoints, scores = judge.codec().decode(*(axis[None] for axis in encode(sample)))
        keypoints = keypoints / sample.input_size * sample.input_scale + sample.input_center
        judge.predict(sample, (keypoints - 0.5 * sample.input_scale)[0].astype(np.float32), scores[0])
    expected, _ = judge.evaluate(dataset, samples, tmp_path)
    assert ceiling(folder) == pytest.approx(expected, abs=1e-9)
    assert expected["AP"] > 0.9
