"""A summary.json's digest and its precision for people, and what an output folder keeps."""

import json
from pathlib import Path

import pytest

from rtmpose.errors import KitError
from rtmpose.files import read_sealed, write_sealed
from rtmpose.report.summary import clear_output, precision


def test_digest_survives_a_round_trip_and_notices_an_edit(tmp_path: Path) -> None:
    path, content = tmp_path / "summary.json", {"AP": 0.1 + 0.2, "AP50": 1e-300, "inputs": {"ä": "0" * 64}}
    write_sealed(path, content)
    assert read_sealed(path, "summary.json") == content
    found = json.loads(path.read_text())
    for edited in ({**found, "AP": 0.9}, {**found, "new": 1}, *({k: v for k, v in found.items() if k != left}
                                                                 for left in ("AP50", "content_sha256"))):
        path.write_text(json.dumps(edited))
        with pytest.raises(KitError, match="is no summary.json of this version of the kit, or was changed since"):
            read_sealed(path, "summary.json")


@pytest.mark.parametrize(("computed", "requested", "cell"), [
    ("int8+bf16", "int8", "int8+bf16"), ("int8", "int8", "int8"), ("bf16", "bf16", "bf16"),
    ("bf16", "int8", "bf16 (asked: int8)"), ("fp32", "bf16", "fp32 (asked: bf16)")])
def test_precision_in_a_row(computed: str, requested: str, cell: str) -> None:
    assert precision({"precision": computed, "requested_precision": requested}) == cell


def test_clear_output_removes_what_the_kit_wrote(tmp_path: Path) -> None:
    ours = ["summary.json", "keypoints.json", "pictures/worst_1.jpg", "pictures/best_12.jpg", "pictures/overview.jpg",
            "agreement/overview.jpg", "loadgen/mlperf_log_detail.txt", "skeleton.jpg"]
    for name in (*ours, "mine.txt", "pictures/mine.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear_output(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"mine.txt", "pictures", "mine.jpg"}
    clear_output(tmp_path / "nowhere")
