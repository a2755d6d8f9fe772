"""The basis of the kit's speed: batches without gaps or mix-ups, and every pixel value normalised as mmpose does it.
The speed benchmarks run and find the same keypoints as the others. No test here looks at a clock."""

import importlib.util
import re
import sys
from pathlib import Path

import judge
import numpy as np
import pytest
from helpers import run_script
from vs_mmpose import check_xtcocotools

from rtmpose.data.batches import iterate_batches, iterate_crops
from rtmpose.data.coco import load_persons
from rtmpose.data.preprocess import normalize
from rtmpose.errors import KitError


@pytest.mark.parametrize("size", [1, 3, 4, 64])
def test_batches_are_the_crops_in_order(size: int, drawn: Path) -> None:
    """Kept beyond their turn, too: no batch writes into another's memory."""
    images = load_persons(drawn).images
    crops = list(iterate_crops(images, judge.INPUT_SIZE))
    batches = list(iterate_batches(images, judge.INPUT_SIZE, size))
    people = [one for batch in batches for one in batch.crops]
    assert [one.person.index for one in people] == [one.person.index for one in crops]
    assert [len(batch.crops) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    for batch in batches:
        assert batch.pixels.shape == (size, 3, 256, 192) and batch.pixels.flags.c_contiguous
        for row, one in zip(batch.pixels, batch.crops, strict=False):
            assert np.shares_memory(row, one.pixels)
        np.testing.assert_array_equal(batch.pixels[len(batch.crops):],
                                      np.broadcast_to(batch.pixels[0], batch.pixels[len(batch.crops):].shape))
    for ours, expected in zip(people, crops, strict=True):
        np.testing.assert_array_equal(ours.pixels, expected.pixels)


def test_every_8_bit_value_as_torch_normalises_it() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([values, values[::-1], values.T], axis=-1)
    preprocessor = judge.mmpose("models.data_preprocessors").PoseDataPreprocessor(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    import torch
    expected = preprocessor({"inputs": [torch.from_numpy(pixels.transpose(2, 0, 1).copy())],
                             "data_samples": [judge.mmpose("structures").PoseDataSample()]})["inputs"].numpy()[0]
    out = np.full((3, 16, 16), np.nan, np.float32)
    assert normalize(pixels, out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(normalize(pixels), expected)


def test_end_to_end_prints_its_ratio(engine_file: Path, drawn: Path) -> None:
    done = run_script("benchmarks/end_to_end.py", "--engine", engine_file, "--datasets", drawn, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^files to keypoints / engine alone: \d+\.\d+", done.stdout, re.M)
    assert done.stdout.count(" us") == 6
    assert 0 < float(re.search(r"CPU-bound upper limit: ([\d.]+)", done.stdout)[1]) < 1


def agreement(output: str) -> float:
    """Share of keypoints at most one bin off, as printed."""
    return float(re.search(r"at most one bin off ([\d.]+)%", output)[1]) / 100


@pytest.mark.slow
@judge.needs_xtcocotools
@pytest.mark.parametrize("images", ["images/val2017", "val2017"])
@pytest.mark.parametrize("relative", [False, True], ids=["absolute folder", "relative folder"])
def test_vs_mmpose(engine_file: Path, model_files: dict[str, Path], drawn: Path, tmp_path: Path, images: str,
                   relative: bool) -> None:
    folder = tmp_path / "set"
    (folder / images).parent.mkdir(parents=True)
    (folder / images).symlink_to(drawn / "images/val2017")
    (folder / "annotations").symlink_to(drawn / "annotations")
    done = run_script("benchmarks/vs_mmpose.py", "--engine", engine_file, "--cfg", model_files["config"], "--weight",
                      model_files["checkpoint"], "--datasets", "set" if relative else folder, "--rounds", 1,
                      cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert agreement(done.stdout) > 0.99


def test_vs_mmpose_without_xtcocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xtcocotools", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "xtcocotools._mask", raising=False)
    with pytest.raises(KitError, match="^xtcocotools: can't be imported .*; scripts/test.sh builds it$"):
        check_xtcocotools()


@pytest.mark.skipif(importlib.util.find_spec("rtmlib") is None, reason="needs rtmlib: pip install --no-deps rtmlib")
def test_vs_rtmlib(engine_file: Path, model_files: dict[str, Path], drawn: Path) -> None:
    done = run_script("benchmarks/vs_rtmlib.py", "--engine", engine_file, "--model_path", model_files["onnx"],
                      "--datasets", drawn, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert agreement(done.stdout) > 0.99
