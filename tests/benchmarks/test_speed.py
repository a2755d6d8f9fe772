"""What the speed benchmarks take of mmpose: its loader over the kit's data sets. docs/results.md's commands, which
tests/docs runs, run the benchmarks. No test here looks at a clock."""

import sys
from pathlib import Path

import judge
import pytest
from vs_mmpose import check_xtcocotools, make_loader

from rtmpose.errors import KitError


@judge.needs_xtcocotools
@pytest.mark.parametrize("images", ["images/val2017", "val2017"])
@pytest.mark.parametrize("relative", [False, True], ids=["absolute folder", "relative folder"])
def test_mmposes_loader_finds_the_images(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str,
                                         relative: bool) -> None:
    folder = tmp_path / "set"
    (folder / images).parent.mkdir(parents=True)
    (folder / images).symlink_to(drawn / "images/val2017")
    (folder / "annotations").symlink_to(drawn / "annotations")
    monkeypatch.chdir(tmp_path)
    (batch, *_) = make_loader("set" if relative else str(folder), judge.INPUT_SIZE, 4, 1)
    assert [tuple(crop.shape) for crop in batch["inputs"]] == [(3, 256, 192)] * 4


def test_vs_mmpose_without_xtcocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xtcocotools", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "xtcocotools._mask", raising=False)
    with pytest.raises(KitError, match="^xtcocotools: can't be imported .*; scripts/test.sh builds it$"):
        check_xtcocotools()
