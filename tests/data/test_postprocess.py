"""Decoding, flip fusion and the way back into the image against mmpose's codec, head and estimator: equal."""

from typing import Any

import judge
import numpy as np
import pytest
import torch
from cases import KINDS, SIZES, Logits, draw
from helpers import small_config

from rtmpose.data.postprocess import COCO_FLIP_INDICES, crop_to_image, decode, fuse_flipped


@pytest.fixture(scope="module", params=SIZES, ids=str)
def estimator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """mmpose's estimator of a small RTMPose."""
    config = tmp_path_factory.mktemp("estimator") / "config.py"
    config.write_text(small_config(size=request.param, widen=0.25))
    return judge.estimator(config)


def stub_forward(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the head take logits where it takes features."""
    monkeypatch.setattr(estimator.head, "forward", lambda logits: logits)


def tensors(logits: Logits) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits as the network gives them."""
    return torch.from_numpy(logits[0]), torch.from_numpy(logits[1])


def data_samples(centers: np.ndarray, scales: np.ndarray, size: tuple[int, int]) -> list[Any]:
    """mmpose's data samples of crops."""
    sample = judge.mmpose("structures").PoseDataSample
    boxes = judge.instance_data(bboxes=np.zeros((1, 4), np.float32), bbox_scores=np.ones(1, np.float32))
    return [sample(metainfo={"input_center": center, "input_scale": scale, "input_size": size,
                             "flip_indices": judge.coco_description()["flip_indices"]}, gt_instances=boxes)
            for center, scale in zip(centers, scales, strict=True)]


@pytest.mark.parametrize("keypoints", [17, 133])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind_x", KINDS)
def test_decode_as_codec(kind_x: str, size: tuple[int, int], keypoints: int) -> None:
    """And the logits stay as they are."""
    for kind_y in KINDS:
        logits = draw(kind_x, size, keypoints)[0], draw(kind_y, size, keypoints, seed=1)[1]
        same, theirs = ([axis.copy() for axis in logits] for _ in range(2))
        for found, expected in zip((*decode(*logits, size), *logits), (*judge.codec(size).decode(*theirs), *same),
                                   strict=True):
            judge.assert_equal(found, expected)


def test_crop_to_image(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_forward(estimator, monkeypatch)
    size, random = estimator.head.input_size, np.random.default_rng(3)
    logits = draw("as a network's", size)
    centers, scales = (random.uniform(low, 3000, (5, 2)).astype(np.float32) for low in (-500, 0.1))
    theirs = estimator.add_pred_to_datasample(
        estimator.head.predict(tensors(logits), []), None, data_samples(centers, scales, size))
    keypoints, scores = decode(*logits, size)
    judge.assert_equal(crop_to_image(keypoints, centers, scales, size),
                 np.concatenate([sample.pred_instances.keypoints for sample in theirs]))
    judge.assert_equal(scores, np.concatenate([sample.pred_instances.keypoint_scores for sample in theirs]))


def test_flip_indices() -> None:
    assert list(COCO_FLIP_INDICES) == judge.coco_description()["flip_indices"]


@pytest.mark.parametrize("kind", ["as a network's", "ties", "negative", "barely positive", "denormal"])
def test_fuse_flipped(kind: str, estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    size = estimator.head.input_size
    logits, flipped = draw(kind, size), draw(kind, size, seed=1)
    fused = tuple(fuse_flipped(one, other, mirror_axis) for one, other, mirror_axis
                  in zip(logits, flipped, (True, False), strict=True))
    seen = []
    stub_forward(estimator, monkeypatch)
    monkeypatch.setattr(estimator.head, "decode", seen.append)
    samples = data_samples(*np.ones((2, 5, 2), np.float32), size)
    estimator.head.predict([tensors(logits), tensors(flipped)], samples, {"flip_test": True})
    for ours, theirs in zip(fused, seen[0], strict=True):
        judge.assert_equal(ours, theirs.numpy())
