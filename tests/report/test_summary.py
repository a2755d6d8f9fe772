"""summary.json: its digest, table.py, and what an output folder keeps."""

import common

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtmpose.errors import KitError
from rtmpose.files import write_sealed
from rtmpose.report.summary import clear_output, notes, precision, read_summary

SUMMARY: dict[str, Any] = {
    "mode": "accuracy", "AP": 0.1 + 0.2, "AP50": 1e-300, "fps": 1.0, "batch": 4, "precision": "int8",
    "requested_precision": "int8", "backend": "openvino", "inputs": {"ä": "0" * 64}, "missed_targets": [],
    "engine": {"sha256": "1", "onnx": "m.onnx", "source": {}, "calibration": {"annotations_sha256": "2" * 64}}}


def test_digest_survives_a_round_trip_and_notices_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_sealed(path, SUMMARY)
    found = read_summary(path, "accuracy")
    assert found == SUMMARY
    found = json.loads(path.read_text())
    for edited in ({**found, "AP": 0.9}, {**found, "new": 1}, {k: v for k, v in found.items() if k != "AP50"},
                   {k: v for k, v in found.items() if k != "content_sha256"}):
        path.write_text(json.dumps(edited))
        with pytest.raises(KitError, match="is no summary.json of this version of the kit, or was changed since"):
            read_summary(path, "accuracy")


@pytest.fixture
def table_fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run table.py, which must fail with one line; returns that line."""
    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
        code = common.exit_code(importlib.import_module("table").main)
        (line,) = capfd.readouterr().err.splitlines()
        assert code == 2
        return line

    return run


@pytest.mark.parametrize("text", [
    "", "null", "[]", "3", "{}", "[" * 200_000, '{"mode": "accuracy"}', '{"mode": "throughput"}', '{"mode": [1]}',
    '{"mode": "accuracy", "engine": "it\'s"}', '{"mode": "accuracy", "content_sha256": 5, "AP": NaN}', "\x00"])
def test_table_of_anything(table_fails: Callable[..., str], tmp_path: Path, text: str) -> None:
    (tmp_path / "any.json").write_text(text)
    assert "any.json: " in table_fails(tmp_path / "any.json", tmp_path / "any.json")


def test_table_of_two_engines(table_fails: Callable[..., str], tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", SUMMARY)
    write_sealed(tmp_path / "b.json", {**SUMMARY, "mode": "throughput", "engine": {"sha256": "2"}})
    assert "b.json: is of another engine than" in table_fails(tmp_path / "a.json", tmp_path / "b.json")
    assert "/dev/zero: is a pipe or a device" in table_fails("/dev/zero", tmp_path / "b.json")


@pytest.mark.parametrize(("computed", "requested", "cell"), [
    ("int8+bf16", "int8", "int8+bf16"), ("int8", "int8", "int8"), ("bf16", "bf16", "bf16"),
    ("bf16", "int8", "bf16 (asked: int8)"), ("fp32", "bf16", "fp32 (asked: bf16)")])
def test_precision_in_a_row(computed: str, requested: str, cell: str) -> None:
    assert precision({**SUMMARY, "precision": computed, "requested_precision": requested}) == cell


def test_notes() -> None:
    assert notes(SUMMARY) == []
    assert notes({**SUMMARY, "missed_targets": ["--acc_target 0.9 with 0.3"]}) == ["missed --acc_target 0.9 with 0.3"]
    (note,) = notes({**SUMMARY, "inputs": {"a": "2" * 64}})
    assert note.startswith("calibrated on the data set that it is measured on")


def test_clear_output_removes_what_the_kit_wrote(tmp_path: Path) -> None:
    ours = ["summary.json", "keypoints.json", "pictures/worst_1.jpg", "pictures/best_12.jpg", "pictures/overview.jpg",
            "agreement/overview.jpg", "loadgen/mlperf_log_detail.txt", "skeleton.jpg"]
    for name in (*ours, "mine.txt", "pictures/mine.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear_output(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"mine.txt", "pictures", "mine.jpg"}
    clear_output(tmp_path / "nowhere")
