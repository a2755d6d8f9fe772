"""Agreement of two engines, on keypoints moved by known distances and on two real engines."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import build_engine, ran

from rtmpose.data.agreement import crop_distances, describe_agreement, worst_crops

SIZE = (192, 256)


def test_distances_are_in_pixels_of_the_crop() -> None:
    keypoints = np.random.default_rng(0).uniform(0, 500, (17, 2))
    moved = keypoints + np.arange(17)[:, None] * [3, 4]
    scales = np.float32([SIZE]) * np.float32(2.5)
    distances = crop_distances(np.float32([moved]), np.float32([keypoints]), scales, SIZE)
    assert distances[0] == pytest.approx(np.arange(17)[:, None] * [3 / 2.5, 4 / 2.5], abs=1e-4)


def test_only_keypoints_that_the_reference_sees_count() -> None:
    distances = np.zeros((2, 17, 2))
    distances[0, :5] = [[0.5, 0.5], [1, 0], [0, 3.9], [3, 4], [0.5, 0.6]]
    distances[1, 3] = [60, 80]
    scores = np.full((2, 17), 0.9, np.float32)
    scores[1] = 0.1
    described = describe_agreement(distances, scores, pixels_per_bin=0.5)
    rest = described.pop("rest")
    assert described == pytest.approx({"counted": 17, "within_bin": 13 / 17, "within_1px": 15 / 17,
                                       "within_4px": 16 / 17, "median_px": 0, "p99_px": 5 - 0.16 * 1.1, "max_px": 5})
    assert (rest["counted"], rest["within_4px"], rest["max_px"]) == (17, 16 / 17, 100)
    assert worst_crops(distances, scores) == [(0, 3, 5)]
    assert worst_crops(distances, np.ones_like(scores)) == [(1, 3, 100), (0, 3, 5)]
    assert worst_crops(distances * 0, np.ones_like(scores)) == []


def test_two_engines_from_the_command_line(model_files: dict[str, Path], engine_file: Path, drawn: Path, tmp_path: Path
                                           ) -> None:
    half = build_engine(model_files["onnx"], tmp_path / "half.engine", 2, "fp16", "onnxruntime")
    shown = ran("inference.py", "--engine", half, "--reference", engine_file, "--datasets", drawn, "--output",
                tmp_path / "out")
    assert f"Agreement with {engine_file}" in shown
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    agreement = summary["agreement"]
    assert agreement["counted"] + agreement["rest"]["counted"] == 17 * summary["persons"]
    assert agreement["within_bin"] > 0.9
    if agreement["max_px"] > 0:
        assert (tmp_path / "out/agreement/overview.jpg").is_file()
