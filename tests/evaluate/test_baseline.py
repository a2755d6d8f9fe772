"""The demo's AP, through export, build and inference, stays at its baseline.

AP alone hardly notices a shift of one pixel along one axis (0.003 measured), so the median offset of the keypoints from
the ground truth is checked as well: it moves by that pixel.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import BASELINE, build_engine

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.engines import Engine, load_engine
from rtmpose.evaluate.coco_eval import score
from rtmpose.evaluate.predict import predict_persons

TOLERANCE = 0.005
OFFSET_TOLERANCE = 0.2


@pytest.fixture(scope="module")
def people(people_folder: Path) -> PersonSet:
    """The fixed small set of drawn people."""
    return load_persons(people_folder)


@pytest.fixture(scope="module")
def engine(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The demo checkpoint's FP32 engine for the CPU."""
    return load_engine(build_engine(demo_onnx, tmp_path_factory.mktemp("baseline") / "demo.engine", 16, "fp32",
                                    "onnxruntime"))


def measure(engine: Engine, people: PersonSet) -> tuple[float, np.ndarray]:
    """AP@0.5:0.95, and the median offset of labelled keypoints from the ground truth, (x, y) in pixels of the crop."""
    predictions, *_ = predict_persons(engine, people)
    _, metrics, _ = score(predictions, people)
    annotations = people.annotations.annotations
    ground_truth = np.stack([np.reshape(annotations[person.index]["keypoints"], (17, 3))
                             for person in predictions.persons])
    offsets = predictions.keypoints - ground_truth[..., :2]
    offsets = offsets / predictions.scales[:, None] * engine.record.input_size
    return metrics["AP"], np.median(offsets[ground_truth[..., 2] > 0], axis=0)


def test_ap_and_offset_are_the_baseline(engine: Engine, people: PersonSet) -> None:
    ap, offset = measure(engine, people)
    assert ap == pytest.approx(BASELINE["AP"], abs=TOLERANCE)
    assert np.abs(offset).max() < OFFSET_TOLERANCE
