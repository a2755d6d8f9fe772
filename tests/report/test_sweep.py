"""scripts/benchmark.sh: a small sweep, a re-run, its reports and its page."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, page_text

import sweep
from rtmpose.engines.build import PRECISIONS
from rtmpose.files import write_sealed
from rtmpose.machine import versions
from rtmpose.report import charts, compare, summary
from rtmpose.report.compare import Report
from rtmpose.report.page import draw_page
from rtmpose.report.results import Cell, cell_folder, read_cells
from rtmpose.report.summary import clear_output, speed, table
from rtmpose.report.text import describe_conditions

CELLS = [("fp32", 1), ("fp32", 2), ("fp16", 1), ("fp16", 2)]


def benchmark(model: Path, datasets: Path, output: Path, *options: str, extra: tuple[str, ...] = ()
              ) -> subprocess.CompletedProcess[str]:
    """Run the script with very short measurements."""
    command = ["bash", ROOT / "scripts/benchmark.sh", "--model", model, "--datasets", datasets, "--output", output,
               "--batches", "1 2", "--backend", "onnxruntime", "--repeats", "2", *options,
               "--", "--warmup", "1", "--iterations", "3", "--duration", "0.1", *extra]
    return subprocess.run(list(map(str, command)), cwd=output.parent, env={**os.environ, "VENV": sys.prefix},
                          capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def swept(model_files: dict[str, Path], drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep over FP32 and FP16, at batch sizes 1 and 2."""
    output = tmp_path_factory.mktemp("sweep") / "out"
    done = benchmark(model_files["onnx"], drawn, output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^round [12]: fp\d\d, batch [12]: throughput: ", done.stdout, re.M)) == 8
    assert re.findall(r"^round \d/\d", done.stdout, re.M) == ["round 1/2", "round 2/2"]
    return output


def read(output: Path, precision: str, batch: int) -> Cell:
    (cell,) = read_cells(cell_folder(output, precision, batch))
    return cell


def test_reports_agree_with_the_summaries(swept: Path) -> None:
    cells = [read(swept, *cell) for cell in CELLS]
    # A process that has built on a GPU still uses it, so that what is measured beside it is busy.
    assert all("build_engine.py --model_path" in cell.accuracy["engine"]["command"] for cell in cells)
    assert (swept / "table.md").read_text() == table(*(cell.summary for cell in cells)) + "\n"
    with open(swept / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["BatchSize"]), float(row["FPS"]), float(row["AP@0.5:0.95"]), float(row["p99 ms"]))
            for row in rows] == [(cell.batch, cell.throughput["fps"], cell.accuracy["AP"],
                                  cell.throughput["latency_ms"]["p99"]) for cell in cells]
    assert [row["Precision"] for row in rows] == ["fp32"] * 2 + ["fp32 (asked: fp16)"] * 2
    assert [([float(row["FPS low"]), float(row["FPS high"])], row["Conditions"]) for row in rows] == [
        (cell.throughput["repeats"]["interval"], cell.throughput["conditions"]["verdict"]) for cell in cells]
    assert json.loads((swept / "results.json").read_text()) == [
        {"precision": cell.precision, "batch": cell.batch, "failure": "", "accuracy": cell.accuracy,
         "throughput": cell.throughput} for cell in cells]
    for cell in cells:
        reference = cell.accuracy.get("agreement", {}).get("reference", {}).get("sha256")
        assert reference == (None if cell.precision == "fp32" else
                             read(swept, "fp32", cell.batch).accuracy["engine"]["sha256"])
        percentiles = cell.throughput["percentiles_ms"]
        assert len(percentiles) == 101 and percentiles == sorted(percentiles)
        assert percentiles[50] == pytest.approx(cell.throughput["latency_ms"]["median"], abs=1e-4)


def page_of(*cells: Cell) -> str:
    """The text of these cells' page."""
    return page_text(draw_page(Report(list(cells))))


def test_page_holds_the_numbers(swept: Path) -> None:
    page = (swept / "report.html").read_text()
    links = re.findall('(?:src|href)="(.*?)"', page)
    shown = page_text(page)
    assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
    for cell in (read(swept, *cell) for cell in CELLS):
        assert len(cell.throughput["repeats"]["values"]) == 2
        for text in (speed(cell.throughput), describe_conditions(cell.throughput["conditions"]),
                     f"{cell.accuracy['AP']:.3f}", cell.throughput["fps_of"],
                     cell.throughput["command"], cell.accuracy["engine"]["command"],
                     f"batch {cell.batch}: {cell.throughput['latency_ms']['median']:.4g} ms"):
            assert text in shown


def test_page_escapes_and_draws_one_cell(swept: Path) -> None:
    """Also without FP32, so that there is nothing to compare with."""
    cell = read(swept, "fp16", 2)
    del cell.accuracy["agreement"]
    cell.accuracy["engine"]["source"]["config"] = "<i>&.py"
    text = page_of(cell, Cell("int8", 2, cell.folder, failure="<script>alert(1)</script>"))
    assert "int8, batch 2 failed: " in text and "<script>alert(1)</script>" in text
    assert "RTMPose sweep: <i>&" in text and "Disagreement" not in text


def test_page_draws_every_precision(swept: Path) -> None:
    content = draw_page(Report([replace(read(swept, "fp16", 2), precision=precision) for precision in PRECISIONS]))
    assert page_text(content) and all(f'class="marker {precision}"' in content for precision in PRECISIONS)
    assert all(f".{precision} {{ --colour" in content for precision in PRECISIONS)


@pytest.mark.parametrize(("verdicts", "headline"), [
    (("clean", "clean", "clean"), "Fastest: 300.00 persons a second in int8, batch 8, with AP 0.750. FP32 at this "
     "batch size: 100.00 persons a second, with AP 0.750; that is 3.00 times as fast."),
    (("clean", "busy", "clean"), "Fastest: 200.00 persons a second in fp16, batch 4, with AP 0.750."),
    (("busy", "busy", "unknown"), "Fastest: 200.00 persons a second in fp16, batch 4, with AP 0.750, conditions "
     "unknown."),
    (("busy", "busy", "throttled"), "No speed here is a result: ")])
def test_headline_names_the_fastest_result(swept: Path, verdicts: tuple[str, ...], headline: str) -> None:
    cells = []
    for precision, batch, fps, verdict in zip(("fp32", "int8", "fp16"), (8, 8, 4), (100, 300, 200), verdicts,
                                              strict=True):
        cell = read(swept, "fp32", 1)
        figures = {"batch": batch, "precision": precision, "requested_precision": precision}
        cell.accuracy.update(figures, AP=0.75)
        cell.throughput.update(figures, fps=fps, conditions={"verdict": verdict, "reasons": []})
        del cell.throughput["repeats"]
        cells.append(replace(cell, precision=precision, batch=batch))
    assert headline in " ".join(page_of(*cells).split())


@pytest.mark.parametrize(("factors", "verdict", "mark", "headline"), [
    ([1.01, 0.99], "clean", 2, "It can't be told apart from"), ([1.01, 1.02], "clean", 1, "Fastest: "),
    ([2, 2.1], "unsteady", 0, "In turns, fp32, batch 1 was 2.05 [2.00, 2.10] times as fast; its own speed is no "
     "result."),
    ([1.065] * 5 + [0.94] + [1.065] * 2, "clean", 0, "In turns, fp32, batch 1 was 1.0")])
def test_ties_and_what_is_faster_in_turns(swept: Path, factors: list[float], verdict: str, mark: int, headline: str
                                          ) -> None:
    values, cells = [100.0, 30.0, 80.0, 120.0, 50.0, 90.0, 60.0, 100.0], []
    for precision, of_rounds in (("fp32", factors), ("int8", [1, 1])):
        cell = read(swept, "fp32", 1)
        speeds = (np.array(values) * np.resize(of_rounds, 8)).tolist()
        cell.throughput.update(fps=float(np.median(speeds)), precision=precision, requested_precision=precision,
                               repeats={**cell.throughput["repeats"], "values": speeds, "rounds": ["now"] * 8},
                               conditions={"verdict": verdict if precision == "fp32" else "clean", "reasons": []})
        cell.accuracy["AP"] = 0.75
        cells.append(replace(cell, precision=precision))
    page = " ".join(page_of(*cells).split())
    assert headline in page and ("told apart" in page) == (mark == 2) and ("Fastest result: " in page) == (mark == 0)
    assert ("its own speed is no result" in page) == (verdict == "unsteady")
    rows = summary.table_rows([cell.summary for cell in cells])
    assert sum("(best)" in row["FPS"] for row in rows) == mark


def test_ratios_are_paired(swept: Path) -> None:
    """Cells that took turns in the same rounds: the machine's drift moves no ratio, nor does a load beside."""
    values, cells = [100.0, 30.0, 80.0, 120.0, 50.0, 90.0, 60.0], []
    for precision, factor in (("fp32", 1), ("int8", 1.5)):
        cell = read(swept, "fp32", 1)
        repeats = {**cell.throughput["repeats"], "values": [factor * value for value in values], "rounds": ["now"] * 7}
        cell.throughput.update(fps=80 * factor, precision=precision, requested_precision=precision, repeats=repeats,
                               conditions={"verdict": "clean", "reasons": []})
        cells.append(replace(cell, precision=precision))
    base, other = cells
    assert [row["Ratio"] for row in summary.table_rows([cell.summary for cell in cells])] == [
        "1.00", "1.50 [1.50, 1.50]"]
    assert "that is 1.50 [1.50, 1.50] times as fast" in " ".join(page_of(*cells).split())
    base.throughput["conditions"] = other.throughput["conditions"] = {"verdict": "busy", "reasons": []}
    assert "or no speed was measured. Ratios were measured in turns, and hold." in " ".join(page_of(*cells).split())
    row = compare.compare([[base], [other]]).rows[1]
    assert (row.verdict, row.ratio_interval) == ("faster", pytest.approx((1.5, 1.5)))
    other.throughput["repeats"]["rounds"] = ["then"] * 7
    assert compare.compare([[base], [other]]).rows[1].verdict == "can't tell"


def test_rerun_measures_only_what_changed_and_reports_failures(
        swept: Path, model_files: dict[str, Path], drawn: Path) -> None:
    """One summary is of other files, and one was edited. The first is a turn: its whole round is taken again."""
    stale, edited = (swept / "cells" / name / "summary.json" for name in (
        "fp32_bs2/throughput/round_2", "fp16_bs1/accuracy"))
    content = json.loads(stale.read_text())
    del content["content_sha256"]
    write_sealed(stale, {**content, "inputs": {path: "0" * 64 for path in content["inputs"]}})
    edited.write_text(json.dumps({**read(swept, "fp16", 1).accuracy, "AP": 0.999}))
    results = [*swept.glob("cells/*/accuracy/summary.json"), *swept.glob("cells/*/*/round_*/summary.json"),
               *swept.glob("engines/*")]
    before = {path: path.stat().st_mtime_ns for path in results}
    assert len(before) == 4 + 8 + 8
    done = benchmark(model_files["onnx"], drawn, swept, "--precisions", "fp32 fp16 int8", "--calibration", "nowhere")
    assert done.returncode == 1, done.stderr
    assert {path for path, changed in before.items() if path.stat().st_mtime_ns != changed} == {
        edited, *swept.glob("cells/*/*/round_2/summary.json")}
    assert done.stdout.count(": kept, ") == 3 + 4
    assert json.loads(stale.read_text())["inputs"] == content["inputs"]
    assert done.stdout.count(": failed: nowhere: no such folder") == 2
    lines = (swept / "table.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 4
    assert len([line for line in lines if line.startswith("Failed: int8, batch ")]) == 2
    assert [bool(cell["failure"]) for cell in json.loads((swept / "results.json").read_text())] == [False] * 4 + [
        True] * 2
    assert "int8, batch 2 failed: " in page_text((swept / "report.html").read_text())


@pytest.mark.parametrize("key", ["command", "machine", "versions", "inputs"])
def test_is_current(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.chdir(swept.parent)
    found = read(swept, "fp16", 1).accuracy
    arguments = found["command"].split()[2:-2]
    assert sweep.read_current(swept / "cells/fp16_bs1/accuracy", arguments, 1) == found
    found["command"] = found["command"].replace(str(swept / "cells/fp16_bs1/accuracy"), str(tmp_path))
    other = {"command": found["command"] + " --flip_test", "machine": {**found["machine"], "cores": 1000},
             "versions": {**found["versions"], "onnx": "0"}, "inputs": {**found["inputs"], "nowhere": "0" * 64}}
    path = tmp_path / "summary.json"
    write_sealed(path, found)
    assert sweep.read_current(tmp_path, arguments, 1) and not sweep.read_current(tmp_path, arguments, 2)
    write_sealed(path, {**found, key: other[key]})
    assert not sweep.read_current(tmp_path, arguments, 1)
    for text in ("", "[" * 200_000, "{}", '{"mode": "accuracy", "command": "it\'s"}'):
        path.write_text(text)
        assert sweep.read_current(tmp_path, [], 1) is None


@pytest.fixture
def output(swept: Path, tmp_path: Path) -> Path:
    """A folder for a sweep whose engines are there already."""
    shutil.copytree(swept / "engines", tmp_path / "out/engines")
    return tmp_path / "out"


@pytest.mark.slow
def test_several_devices(swept: Path, model_files: dict[str, Path], drawn: Path, output: Path) -> None:
    """Speed is of all, AP is that of one, a missed target is no failure, and what is done is kept. A cell with fewer
    batches than devices fails with inference.py's line, not with torchrun's last one."""
    def run(batch: int, *extra: str) -> subprocess.CompletedProcess[str]:
        return benchmark(model_files["onnx"], drawn, output, "--precisions", "fp32", "--batches", str(batch),
                         "--devices", "2", "--repeats", "1", extra=("--fps_target", "1e6", *extra))

    for kept in (0, 2):
        done = run(1)
        assert done.returncode == 0 and done.stdout.count(": kept, ") == kept
        cell = read(output, "fp32", 1)
        assert cell.summary["AP"] == read(swept, "fp32", 1).accuracy["AP"]
        ranks = cell.throughput["ranks"]
        assert cell.throughput["fps"] == pytest.approx(sum(ranks["fps"])) and len(ranks["fps"]) == 2
        note = f"missed --fps_target 1e+06 with {cell.throughput['fps']:.4g}"
        assert note in cell.notes and f"Note: fp32, batch 1: {note}" in done.stdout
        assert note in page_text((output / "report.html").read_text())
    assert len((output / "cells/fp32_bs1/throughput.txt").read_text().split("scaling efficiency")) == 2
    assert "engine alone, 2 devices" in done.stdout and f"{ranks['efficiency']:.1%}" in page_of(cell)
    done = run(32, "--limit", "1")
    assert done.returncode == 2 and "inference.py: error: " in done.stderr and "too few for 2 ranks" in done.stderr


def test_int8_calibrated_on_the_measured_set_and_persons_left_out_are_marked(swept: Path) -> None:
    cell = read(swept, "fp16", 2)
    assert cell.notes == []
    annotations = next(digest for path, digest in cell.accuracy["inputs"].items() if path.endswith(".json"))
    cell.accuracy["engine"]["calibration"] = {"annotations_sha256": annotations}
    cell.accuracy["notes"] = {"persons left out": 3}
    left_out, calibrated = cell.notes
    assert left_out == "3 persons left out" and left_out in page_of(cell)
    assert "calibrated on the data set that it is measured on" in calibrated and calibrated in page_of(cell)


def test_kit_digest_covers_the_code_that_can_change_a_number(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "rtmpose", tmp_path / "rtmpose", ignore=shutil.ignore_patterns("__pycache__"))

    def digest(changed: str | None = None) -> str:
        if changed:
            with open(tmp_path / changed, "a") as file:
                file.write("\n")
        code = "from rtmpose.machine.versions import kit_digest; print(kit_digest())"
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                              check=True).stdout.strip()

    assert len(digest()) == 12
    for same in (None, "rtmpose-s_my-own-config.py", "rtmpose/report/page.py"):
        assert digest(same) == versions.kit_digest()
    changes = ("rtmpose/files.py", "rtmpose/data/preprocess.py", "rtmpose/engines/tensorrt/kernels.cu")
    assert len({versions.kit_digest(), *map(digest, changes)}) == 4


@pytest.mark.parametrize(("options", "message"), [
    (("--devices", "2"), "sweep.py: error: --repeats: doesn't work with several"),
    (("--precisions", "int8", "--calibration", "nowhere"), "all 2 cells failed; the first: nowhere: no such folder")])
def test_user_errors(model_files: dict[str, Path], drawn: Path, tmp_path: Path, options: tuple[str, ...],
                     message: str) -> None:
    done = benchmark(model_files["onnx"], drawn, tmp_path / "out", *options)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_points_lie_where_their_values_are() -> None:
    linear = charts.Axis("ms", [0, 50, 200], 100, 300, inset=20)
    assert [linear(value) for value in (0, 50, 100, 200)] == [120, 160, 200, 280]
    log = charts.Axis("batch", [1, 32], 0, 110, inset=5, log=True)
    assert [log(batch) for batch in (1, 2, 8, 32)] == pytest.approx([5, 25, 65, 105])
    assert charts.Axis("one batch", [8], 0, 100)(8) == 50


@pytest.mark.parametrize(("ticks", "low", "high", "expected"), [
    (charts.linear_ticks, 0, 79.4, [0, 20, 40, 60, 80]), (charts.linear_ticks, 0, 0, [0, 0.2]),
    (charts.linear_ticks, 0.8635, 0.8835, [0.86, 0.865, 0.87, 0.875, 0.88, 0.885]),
    (charts.linear_ticks, -1, -1, [-1, -0.8]), (charts.log_ticks, 24, 410, [20, 50, 100, 200, 500]),
    (charts.log_ticks, 10, 10, [10, 20]), (charts.log_ticks, 0.5, 1, [0.5, 1]),
    (charts.log_ticks, 0.3, 9000, [0.1, 1, 10, 100, 1000, 10000])])
def test_ticks(ticks: object, low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_each_run_takes_the_options_of_its_mode():
    extra = ["--limit", "5", "--duration=1", "--flip_test", "--fps_target", "9", "--warmup", "2", "--batchsize", "-1",
             "--min_duration", "3"]
    assert sweep.split_options(extra) == {
        "accuracy": ["--limit", "5", "--flip_test", "--fps_target", "9", "--batchsize", "-1", "--min_duration", "3"],
        "throughput": ["--duration=1", "--fps_target", "9", "--warmup", "2", "--batchsize", "-1",
                       "--min_duration", "3"]}


@pytest.mark.parametrize(("computed", "requested", "cell"), [
    ("int8+bf16", "int8", "int8+bf16"), ("int8", "int8", "int8"), ("bf16", "bf16", "bf16"),
    ("bf16", "int8", "bf16 (asked: int8)"), ("fp32", "bf16", "fp32 (asked: bf16)")])
def test_precision_in_a_row(computed: str, requested: str, cell: str) -> None:
    assert summary.precision({"precision": computed, "requested_precision": requested}) == cell


def test_clear_output_removes_what_the_kit_wrote(tmp_path: Path) -> None:
    ours = ["summary.json", "keypoints.json", "pictures/worst_1.jpg", "pictures/best_12.jpg", "pictures/overview.jpg",
            "agreement/overview.jpg", "loadgen/mlperf_log_detail.txt", "skeleton.jpg"]
    for name in (*ours, "mine.txt", "pictures/mine.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear_output(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"mine.txt", "pictures", "mine.jpg"}
    clear_output(tmp_path / "nowhere")
