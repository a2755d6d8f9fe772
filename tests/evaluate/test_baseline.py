"""The demo's AP, through export, build and inference, stays at its baseline, and a bug in any stage lowers it.

AP alone hardly notices a shift of one pixel along one axis (0.003 measured), so the median offset of the keypoints from
the ground truth is checked as well: it moves by that pixel.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import BASELINE, build_engine

from rtmpose.data import postprocess, preprocess
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


def shift_the_crop(monkeypatch: pytest.MonkeyPatch, x: float, y: float) -> None:
    warp_matrix = preprocess.warp_matrix
    monkeypatch.setattr(preprocess, "warp_matrix", lambda *region: warp_matrix(*region) + [[0, 0, x], [0, 0, y]])


@pytest.mark.parametrize("bug", ["red and blue swapped", "not normalised", "crop shifted", "left and right swapped"])
def test_a_bug_in_any_stage_lowers_ap(engine: Engine, people: PersonSet, monkeypatch: pytest.MonkeyPatch, bug: str
                                      ) -> None:
    normalize, decode = preprocess.normalize, postprocess.decode
    if bug == "red and blue swapped":
        monkeypatch.setattr(preprocess, "normalize", lambda pixels, out: normalize(pixels[..., ::-1], out))
    elif bug == "not normalised":
        monkeypatch.setattr(preprocess, "normalize",
                            lambda pixels, out: np.copyto(out, pixels[..., ::-1].transpose(2, 0, 1)) or out)
    elif bug == "crop shifted":
        shift_the_crop(monkeypatch, 1, 1)
    else:
        monkeypatch.setattr(postprocess, "decode", lambda *logits: tuple(
            array[:, postprocess.COCO_FLIP_INDICES] for array in decode(*logits)))
    assert measure(engine, people)[0] < BASELINE["AP"] - 2 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, -1), (0.5, 0)])
def test_offset_shows_a_shift_along_one_axis(engine: Engine, people: PersonSet, monkeypatch: pytest.MonkeyPatch,
                                             x: float, y: float) -> None:
    shift_the_crop(monkeypatch, x, y)
    assert measure(engine, people)[1] == pytest.approx([x, y], abs=OFFSET_TOLERANCE)
