"""compare.py, check_result.py and results_table.py on real summaries of every mode, and on edited copies of them."""

import common

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, build_engine, page_text
from scipy import stats

import check_result
import compare as script
import inference
import results_table
from rtmpose.errors import KitError
from rtmpose.files import read_sealed, write_sealed
from rtmpose.report import compare
from rtmpose.report.results import read_results

MODES = {
    "accuracy": ("--reference", "{other}"), "fp16": ("--engine", "{other}"), "flip": ("--flip_test",),
    "limit": ("--limit", "2"), "boxes": ("--detections", "{boxes}"),
    "throughput": ("--perf_only", "--warmup", "1", "--iterations", "3", "--duration", "0"),
    "loadgen": ("--scenario", "offline", "--perf_only", "--min_duration", "0.1"),
    "loadgen_accuracy": ("--scenario", "offline")}
Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def measured(engine_file: Path, model_files: dict[str, Path], drawn: Path, tmp_path_factory: pytest.TempPathFactory
             ) -> dict[str, Path]:
    """Output folders of inference.py in every mode, and of a second engine (``fp16``) of the same network."""
    pytest.importorskip("mlperf_loadgen")
    folder = tmp_path_factory.mktemp("measured")
    other = build_engine(model_files["onnx"], folder / "fp16.engine", 4, "fp16", "onnxruntime")
    annotations = json.loads((drawn / "annotations/person_keypoints_val2017.json").read_text())["annotations"]
    boxes = folder / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"], "score": 0.5}
                                 for one in annotations]))
    with pytest.MonkeyPatch.context() as patch:
        for mode, options in MODES.items():
            patch.setattr(sys, "argv", ["inference.py", "--engine", str(engine_file), "--datasets", str(drawn),
                                        *(option.format(other=other, boxes=boxes) for option in options),
                                        "--output", str(folder / mode)])
            inference.main()
    return {mode: folder / mode for mode in MODES}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """compare.py, or another script: exit code, standard output and standard error."""
    def main(*arguments: object, script: ModuleType = script) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        return common.exit_code(script.main), *capfd.readouterr()

    return main


def refusal(done: tuple[int, str, str]) -> str:
    """The one line of a user error."""
    code, output, errors = done
    assert code == 2 and output == "" and len(errors.splitlines()) == 1
    return errors


def read(folder: Path) -> dict[str, Any]:
    return read_sealed(folder / "summary.json", "summary.json")


def edited(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of an output folder with another summary.json."""
    shutil.copytree(source, target)
    summary = read(source)
    change(summary)
    write_sealed(target / "summary.json", summary)
    return target


CLEAN = [100.0, 101.0, 99.0]


def repeated(values: list[float], conditions: str = "clean") -> Callable[[dict[str, Any]], object]:
    return lambda summary: summary.update(
        fps=float(np.median(values)),
        repeats={"values": values, "interval": [min(values), max(values)], "confidence": 0.95, "method": "t"},
        conditions={"verdict": conditions, "reasons": ["others took 38 % of the cores"]})


@pytest.mark.parametrize(("mode", "change", "message"), [
    ("accuracy", lambda s: s.pop("schema"), "'schema' is a required property"),
    ("accuracy", lambda s: s.update(schema=1), "schema: 2 was expected"),
    ("accuracy", lambda s: s.pop("AP"), "'AP' is a required property"),
    ("accuracy", lambda s: s.pop("fps"), "'fps' is a required property"),
    ("throughput", lambda s: s.pop("percentiles_ms"), "'percentiles_ms' is a required property"),
    ("loadgen", lambda s: s.pop("valid"), "'valid' is a required property"),
    ("throughput", lambda s: s.update(fps=-1), "fps: -1 is less than"),
    ("throughput", lambda s: s["engine"].update(sha256="0"), "engine.sha256: '0' does not match"),
    ("throughput", lambda s: s.pop("conditions"), "'conditions' is a dependency of 'fps'"),
    ("throughput", lambda s: [repeated(CLEAN)(s), s["repeats"].update(values=[])], r"repeats.values: \[\]"),
    ("throughput", lambda s: s.update(conditions={"verdict": "fine", "reasons": []}), "conditions.verdict: 'fine'"),
    ("throughput", lambda s: s.update(energy={"joules_per_person": 1, "source": "guess", "seconds": 1}),
     "energy.source: 'guess'")])
def test_other_summaries_are_refused_in_one_line(
        measured: dict[str, Path], run: Main, tmp_path: Path, mode: str, change: Callable, message: str) -> None:
    broken = edited(measured[mode], tmp_path / "broken", change)
    line = refusal(run(measured[mode], broken))
    assert re.search(message, line) and str(broken / "summary.json") in line and "measure it again" in line


@pytest.mark.parametrize(("values", "conditions", "verdict", "code"), [
    ([100.5, 99.5, 101.0], "clean", "can't tell", 0), ([150.0, 151.0, 149.0], "clean", "faster", 0),
    ([50.0, 51.0, 49.0], "clean", "slower", 6), ([50.0, 51.0, 49.0], "unknown", "slower", 6),
    ([50.0, 51.0, 49.0], "busy", "can't tell", 0), ([150.0, 151.0, 149.0], "throttled", "can't tell", 0),
    ([150.0, 300.0, 70.0], "clean", "can't tell", 0)])
def test_verdict_and_exit_code(measured: dict[str, Path], run: Main, tmp_path: Path, values: list[float],
                               conditions: str, verdict: str, code: int) -> None:
    base = edited(measured["throughput"], tmp_path / "base", repeated(CLEAN))
    other = edited(measured["throughput"], tmp_path / "other", repeated(values, conditions))
    found, output, errors = run(base, other, "--fail_if_slower")
    assert (found, errors) == (code, "")
    assert f"| {verdict} " in output.splitlines()[3] and f"| {np.median(values) / 100:.3f}" in output
    bad = conditions in ("busy", "throttled")
    assert (f": {conditions}: others took 38 % of the cores; not a result" in output) == bad
    assert run(base, other)[0] == 0


def test_one_process_gives_no_verdict(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    copied = edited(measured["throughput"], tmp_path / "copy",
                    lambda s: s.update(conditions={"verdict": "unknown", "reasons": []}))
    code, output, _ = run(measured["throughput"], copied, "--fail_if_slower")
    assert code == 0 and "| can't tell | unknown " in output


def test_ratio_interval_is_wider_than_welchs_and_covers() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        base, other = random.lognormal(0, 0.01, 3), random.lognormal(np.log(1.02), 0.03, 3)
        low, high = compare.ratio_interval(base, other)
        welch = stats.ttest_ind(np.log(other), np.log(base), equal_var=False).confidence_interval(0.95)
        assert low <= np.exp(welch.low) * (1 + 1e-12) and np.exp(welch.high) <= high * (1 + 1e-12)
        covered += low <= 1.02 <= high
    assert covered >= 0.945 * 1000
    assert compare.ratio_interval([1.0], [1.0, 2.0]) is None
    assert compare.ratio_interval([2.0, 2.0], [4.0, 4.0]) == pytest.approx((2, 2))


@pytest.mark.parametrize(("mode", "message"), [
    ("flip", "flip test: True, but False in the base"), ("limit", "--limit: 2, but None in the base"),
    ("boxes", "batch 4: boxes: "),
    ("loadgen", "measures LoadGen offline, throughput, fp16 measures files to keypoints of a different engine; measure "
     "both in the same mode, or an accuracy and a throughput run of one engine"),
    ("loadgen_accuracy", "measures LoadGen offline, accuracy, fp16 measures files to keypoints")])
def test_runs_of_other_settings_are_refused(measured: dict[str, Path], run: Main, mode: str, message: str) -> None:
    assert message in refusal(run(measured["fp16"], measured[mode]))


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s["engine"]["source"].update(checkpoint_sha256="0" * 64), "is another network"),
    (lambda s: s["engine"].update(source={}), "is another network"),
    (lambda s: s.update(inputs={path: "0" * 64 for path in s["inputs"]}), "annotation file: 0000")])
def test_other_networks_and_sets_are_refused(measured: dict[str, Path], run: Main, tmp_path: Path, change: Callable,
                                             message: str) -> None:
    other = edited(measured["accuracy"], tmp_path / "other", change)
    assert message in refusal(run(measured["accuracy"], other))


def test_refused_beside_compared(measured: dict[str, Path], run: Main) -> None:
    code, output, errors = run(measured["accuracy"], measured["fp16"], measured["flip"], "--fail_if_worse", "1")
    assert (code, errors) == (2, "") and output.count("\n- Not compared: flip: fp32, batch 4: flip test") == 1


def test_keypoints_agree_as_inference_says(measured: dict[str, Path]) -> None:
    """``accuracy`` was run with ``--reference`` of the engine of ``fp16``."""
    expected = read(measured["accuracy"])["agreement"]
    row = compare.compare(read_results([str(measured["fp16"]), str(measured["accuracy"])])).rows[1]
    assert expected["counted"] and expected["max_px"] > 0
    for key in ("counted", "within_bin", "within_1px", "median_px", "p99_px", "max_px"):
        assert row.agreement[key] == pytest.approx(expected[key], abs=2e-4)
    assert row.ap_difference == pytest.approx(expected["ap_difference"], abs=1e-12)
    assert row.ap_interval is not None and row.ap_interval[0] <= row.ap_difference <= row.ap_interval[1]


def test_limited_runs_are_scored_on_their_images(measured: dict[str, Path], drawn: Path, tmp_path: Path) -> None:
    """Keypoints equal to the ground truth of two images have AP 1 there, and less on the whole set."""
    content = json.loads((drawn / "annotations/person_keypoints_val2017.json").read_text())
    perfect = [{key: one[key] for key in ("image_id", "category_id", "keypoints", "bbox")} | {"score": 1.0}
               for one in content["annotations"]
               if one["image_id"] in (1, 2) and one["num_keypoints"] and not one["iscrowd"]]
    folders = [edited(measured["limit"], tmp_path / name, lambda s: s.update(AP=1.0)) for name in ("a", "b")]
    for folder in folders:
        (folder / "keypoints.json").write_text(json.dumps(perfect))
    assert compare.compare(read_results(list(map(str, folders)))).rows[1].ap_interval == (0, 0)


def test_ap_that_is_not_that_of_the_keypoints(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    wrong = edited(measured["accuracy"], tmp_path / "wrong", lambda s: s.update(AP=s["AP"] + 0.01))
    assert f"{wrong / 'keypoints.json'}: gives AP" in refusal(run(measured["accuracy"], wrong))


@pytest.mark.parametrize(("limit", "code"), [("0.005", 3), ("0.02", 0)])
def test_fail_if_worse(measured: dict[str, Path], run: Main, tmp_path: Path, limit: str, code: int) -> None:
    worse = edited(measured["accuracy"], tmp_path / "worse", lambda s: s.update(AP=s["AP"] - 0.01))
    (worse / "keypoints.json").unlink()
    found, output, _ = run(measured["accuracy"], worse, "--fail_if_worse", limit)
    assert found == code and "-0.0100" in output and "no interval of AP, as keypoints.json is missing" in output
    found, _, errors = run(measured["throughput"], edited(measured["throughput"], tmp_path / "t", lambda s: None),
                           "--fail_if_worse", limit)
    assert found == 2 and "no two AP were compared" in errors


def test_annotations_are_found_given_or_missed(measured: dict[str, Path], drawn: Path, run: Main, tmp_path: Path
                                               ) -> None:
    def move(summary: dict[str, Any]) -> None:
        summary["inputs"] = {path.replace(str(drawn), "/nowhere"): digest for path, digest in summary["inputs"].items()}
    folders = [edited(measured["accuracy"], tmp_path / name, move) for name in ("a", "b")]
    file = drawn / "annotations/person_keypoints_val2017.json"
    code, output, _ = run(*folders)
    assert code == 0 and "no interval of AP, as /nowhere/" in output and "give --annotations" in output
    assert "+0.0000 [+0.0000, +0.0000]" in run(*folders, "--annotations", file)[1]
    line = refusal(run(*folders, "--annotations", folders[0] / "summary.json"))
    assert "is another file than AP was measured on" in line


def sweep(measured: dict[str, Path], folder: Path, speeds: dict[int, float],
          change: Callable[[dict[str, Any], dict[str, Any]], object] = lambda accuracy, throughput: None) -> Path:
    """A sweep's folder of FP32 at batch sizes, from real summaries, edited: batch size -> persons a second."""
    cells = []
    for batch, fps in speeds.items():
        accuracy, throughput = ({**read(measured[mode]), "batch": batch} for mode in ("accuracy", "throughput"))
        repeated([fps * 0.99, fps, fps * 1.01])(throughput)
        throughput["energy"] = {"joules_per_person": 40 / fps, "source": "RAPL, processor packages", "seconds": 10}
        change(accuracy, throughput)
        for mode, summary in (("accuracy", accuracy), ("throughput", throughput)):
            target = folder / f"cells/fp32_bs{batch}/{mode}"
            shutil.copytree(measured[mode], target, dirs_exist_ok=True)
            write_sealed(target / "summary.json", summary)
        cells.append({"precision": "fp32", "batch": batch, "failure": "", "accuracy": accuracy,
                      "throughput": throughput})
    cells.append({"precision": "int8", "batch": 1, "failure": "it broke", "accuracy": {}, "throughput": {}})
    (folder / "results.json").write_text(json.dumps(cells))
    return folder


def test_sweeps_are_matched_cell_by_cell_and_drawn(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    base = sweep(measured, tmp_path / "one", {1: 100, 4: 200})
    other = sweep(measured, tmp_path / "<b>two", {4: 300, 8: 400})
    code, output, errors = run(base, other, "--output", tmp_path / "out", "--price", "one=0.36",
                               "--price", "<b>two=3.6")
    assert (code, errors) == (0, "")
    lines = [[text.strip() for text in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    assert [(row["Result"], row["Batch"], row["Verdict"]) for row in rows] == [
        ("one", "1", "base"), ("one", "4", "base"), ("<b>two", "4", "faster")]
    assert rows[2]["Ratio [95 %]"].startswith("1.500 [") and rows[2]["Persons a dollar"] == "300,000"
    assert rows[2]["J a person"] == "0.133" and rows[2]["AP difference [95 %]"] == "+0.0000 [+0.0000, +0.0000]"
    assert rows[2]["Conditions"] == "clean" and rows[2]["Keypoints: at most one bin off, p99"] == "100.00%, 0.00 px"
    assert "Only in <b>two: fp32 batch 8" in output
    page = (tmp_path / "out/compare.html").read_text()
    assert page_text(page) and "<b>two" not in page
    ap = f"AP {read(measured['accuracy'])['AP']:.3f}"
    assert re.findall(r'<p class="headline">(.*?)</p>', " ".join(page.split())) == [
        f"Fastest: 400 ± 4 persons a second in &lt;b&gt;two: fp32, batch 8, with {ap}. ",
        f"Most persons a joule: 10 in &lt;b&gt;two: fp32, batch 8, with {ap}.",
        f"Most persons a dollar: 2,000,000 in one: fp32, batch 4, with {ap}."]
    # AP, agreement, speed and latency of each, the distribution of each batch size
    assert page.count('role="img"') == 1 + 1 + 4 + 4
    assert (tmp_path / "out/compare.md").read_text().strip() in output


def test_differences_are_marked(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        summary["versions"].update(kit="0123456789ab", numpy="1.0")
        summary["machine"].update(cpu="Made-up CPU")
        summary["engine"].update(runtime="made-up 1")
        summary.update(batch=8)
    _, output, _ = run(measured["throughput"], edited(measured["throughput"], tmp_path / "other", change))
    assert "batch, runtime, kit, versions, cpu |" in output
    for text in ("-> made-up 1;", "batch 4 -> 8;", "-> 0123456789ab;", "version of numpy ", "-> Made-up CPU"):
        assert text in output


def test_one_engine_is_one_row(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    """Of its accuracy and its throughput run, in any order, as files or in one folder."""
    accuracy, throughput = (measured[mode] for mode in ("accuracy", "throughput"))
    code, output, errors = run(throughput, accuracy / "summary.json")
    fps, ap = f"| {read(throughput)['fps']:.2f} ", f"| {read(accuracy)['AP']:.3f} "
    assert (code, errors) == (0, "") and len(output.splitlines()) == 5
    assert "| engine alone |" in output and fps in output and ap in output
    assert run(accuracy.parent) == (0, output, "")
    for mode in ("accuracy", "fp16"):
        shutil.copytree(measured[mode], tmp_path / mode / "accuracy")
        shutil.copytree(throughput, tmp_path / mode / "throughput")
    _, output, _ = run(tmp_path / "accuracy", accuracy, throughput, "--output", tmp_path)
    assert "| can't tell |" in output and "+0.0000 [+0.0000, +0.0000]" in output
    assert "was measured with a different engine than" in refusal(run(tmp_path / "fp16"))
    assert "throughput measures engine alone of a different engine;" in refusal(run(throughput, measured["fp16"]))
    assert "expected two or more" in refusal(run(accuracy, throughput, "--fail_if_slower"))


@pytest.mark.parametrize(("options", "message"), [
    (("--price", "nobody=1"), "expected NAME=USD_PER_HOUR"), (("--price", "fp16=free"), "expected NAME=USD_PER_HOUR"),
    (("--fail_if_worse", "2"), "from 0 to 1")])
def test_options(measured: dict[str, Path], run: Main, options: tuple, message: str) -> None:
    assert message in refusal(run(measured["accuracy"], measured["fp16"], *options))


def test_arguments_that_are_no_results(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1]")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for argument, message in ((measured["accuracy"], "is given twice"), (tmp_path, "is no sweep's results.json"),
                              (tmp_path / "nowhere.json", "nowhere.json"), (pipe, "is a pipe or a device"),
                              (tmp_path.parent, "has neither results.json nor")):
        assert message in refusal(run(measured["accuracy"], argument))


@pytest.mark.parametrize("text", [
    "", "null", "3", "{}", "[" * 200_000, '{"mode": "accuracy"}', '{"mode": [1]}', "\x00",
    '{"mode": "accuracy", "content_sha256": 5, "AP": NaN}'])
def test_files_of_any_content(run: Main, tmp_path: Path, text: str) -> None:
    (tmp_path / "any.json").write_text(text)
    assert "any.json: " in refusal(run(tmp_path / "any.json"))


def test_result_in_order(measured: dict[str, Path], drawn: Path, run: Main, tmp_path: Path) -> None:
    folder = sweep(measured, tmp_path / "machine", {4: 100})
    assert run(folder, script=check_result) == (0, f"{folder}: 1 cells, all in order\n", "")
    annotations = drawn / "annotations/person_keypoints_val2017.json"
    assert run(folder, "--annotations", annotations, script=check_result)[0] == 0
    path = folder / "cells/fp32_bs4/throughput/summary.json"
    write_sealed(path, {**read(path.parent), "fps": 1e6})
    code, output, _ = run(folder, script=check_result)
    assert code == 1 and f"{path} is not what results.json says" in output


def test_speed_alone_is_in_order_and_has_a_row(measured: dict[str, Path], run: Main, tmp_path: Path) -> None:
    folder = sweep(measured, tmp_path / "machine", {4: 100}, lambda accuracy, throughput: accuracy.clear())
    assert run(folder, script=check_result) == (0, f"{folder}: 1 cells, all in order\n", "")
    assert "| 100 ± 1 | -           | -      | -  " in results_table.results_table(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    (lambda accuracy, throughput: accuracy.update(AR75=accuracy["AR75"] + 0.001), "gives AR75 "),
    (lambda accuracy, throughput: throughput.update(conditions={"verdict": "busy", "reasons": ["load 3"]}),
     "conditions busy (load 3), expected clean"),
    (lambda accuracy, throughput: throughput["engine"].update(device="cuda"), "on cuda, expected at least 30 s"),
    (lambda accuracy, throughput: throughput["engine"].update(sha256="0" * 64), "of different engines"),
    (lambda accuracy, throughput: throughput.update(scenario="offline", loadgen={
        "version": "6", "mode": "PerformanceOnly", "logs": ".", "errors": []}, valid=True),
     "and LoadGen offline, throughput, expected")])
def test_each_fault_is_a_line(measured: dict[str, Path], run: Main, tmp_path: Path, change: Callable, message: str
                              ) -> None:
    code, output, errors = run(sweep(measured, tmp_path, {4: 100}, change), script=check_result)
    assert (code, errors) == (1, "") and len(output.splitlines()) == 2
    assert message in output and output.endswith("1 problems\n")


@pytest.mark.parametrize(("change", "message"), [
    (lambda accuracy, throughput: accuracy.update(inputs={
        path.replace("person_", "other_"): digest for path, digest in accuracy["inputs"].items()}),
     "give --annotations"),
    (lambda accuracy, throughput: throughput.pop("fps"), "'fps' is a required property")])
def test_missing_files_and_broken_summaries_are_user_errors(
        measured: dict[str, Path], run: Main, tmp_path: Path, change: Callable, message: str) -> None:
    assert message in refusal(run(sweep(measured, tmp_path, {4: 100}, change), script=check_result))


def test_table_has_a_row_a_cell(measured: dict[str, Path], tmp_path: Path) -> None:
    assert results_table.results_table(tmp_path) == results_table.EMPTY
    accuracy = read(measured["accuracy"])
    sweep(measured, tmp_path / "machine", {4: 100})
    (tmp_path / "machine/roofline.json").write_text('{"shortest_ms": {"fp32_bs4": 10.0}}')
    rows = results_table.results_table(tmp_path).splitlines()
    assert len(rows) == 3 and [text.strip() for text in rows[2].split("|")[1:-1]] == [
        "machine", "rtmpose-t", "4", "fp32", accuracy["engine"]["runtime"], "100 ± 1", "25%", f"{accuracy['AP50']:.3f}",
        f"{accuracy['AP']:.3f}", "0.4", accuracy["measured_at"][:10], accuracy["versions"]["kit"]]


def test_page_holds_the_table_of_results() -> None:
    page = (ROOT / "docs/results.md").read_text()
    table = results_table.both_tables(ROOT / "results")
    assert results_table.put_between(page, table) == page
    readme = (ROOT / "README.md").read_text()
    assert results_table.put_between(readme, results_table.readme_table(ROOT / "results")) == readme
    assert table.count("[link](https://") == len(json.loads((ROOT / "results/published.json").read_text())) > 10
    assert results_table.put_between(results_table.put_between(page, "other"), table) == page
    assert "other" in results_table.put_between(page, "other")


def test_a_published_figure_without_a_source_is_refused(tmp_path: Path) -> None:
    figures = json.loads((ROOT / "results/published.json").read_text())
    for changed in ({**figures[1], "source": ""}, {key: text for key, text in figures[1].items() if key != "timed"}):
        (tmp_path / "published.json").write_text(json.dumps([figures[0], changed]))
        with pytest.raises(KitError, match=r"published.json: entry 2 has .*, expected a text for each of machine, "):
            results_table.both_tables(tmp_path)


def test_results_in_the_repository_were_measured_under_clean_conditions() -> None:
    for path in (ROOT / "results").glob("*/results.json"):
        cells = check_result.read_cells(path.parent)
        assert {cell.timed["conditions"]["verdict"] for cell in cells} == {"clean"}, path


@pytest.mark.slow
def test_engines_are_measured_in_turns(engine_file: Path, model_files: dict[str, Path], drawn: Path, run: Main,
                                       tmp_path: Path) -> None:
    """Of two batch sizes, the second by another checkout's inference.py; the same engine twice, from files."""
    other = build_engine(model_files["onnx"], tmp_path / "other.engine", 1, "fp32", "onnxruntime")
    code, output, errors = run(engine_file, other, "--rounds", 8, "--minutes", 0.001, "--duration", 0, "--kit", ROOT,
                               ROOT, "--python", sys.executable, sys.executable, "--output", tmp_path / "out")
    assert (code, errors) == (0, "")
    content = read_sealed(tmp_path / "out/turns.json", "turns.json")
    speeds = np.array([[turn["fps"] for turn in one] for one in content["rounds"]])
    assert speeds.shape == (7, 2) and len({*speeds.ravel()}) == 14
    first, second = content["engines"]
    ratios = speeds[:, 1] / speeds[:, 0]
    assert second["interval"] == pytest.approx([ratios.min(), ratios.max()])
    assert (first["verdict"], first["batch"], second["batch"], second["kit"]) == ("base", 4, 1, str(ROOT))
    assert [first["fps"], second["fps"]] == pytest.approx(np.median(speeds, axis=0))
    assert f"{second['ratio']:.3f} [{ratios.min():.3f}, {ratios.max():.3f}] | {second['verdict']}" in output
    assert output.count("\nround ") == 6 and "round 7/8: " in output
    conditions = re.search(r"^- conditions of the turns: (.*)$", output, re.M)[1]
    assert sum(map(int, re.findall(r"\d+", conditions))) == 14
    assert (tmp_path / "out/compare.md").read_text().strip() in output
    code, output, _ = run(engine_file, other, "--rounds", 7, "--end_to_end", drawn, "--fail_if_slower")
    assert "persons a second from image files to keypoints" in output
    assert code == (6 if "| slower " in output else 0)


def test_engines_that_cant_be_compared(engine_file: Path, measured: dict[str, Path], run: Main, tmp_path: Path
                                       ) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "files.engine").touch()
    broken = tmp_path / "broken.engine"
    broken.write_bytes(b"cut off")
    shutil.copy(f"{engine_file}.json", f"{broken}.json")
    for arguments, message in (
            ([engine_file], "one engine, expected two or more"),
            ([engine_file, measured["throughput"]], "expected an engine file that runs here"),
            ([engine_file, folder], f"{folder}: expected an engine file that runs here"),
            ([engine_file, tmp_path / "none.engine"], "is no engine with its record beside it"),
            ([engine_file, broken], "broken.engine: is not the file that broken.engine.json describes"),
            ([engine_file, engine_file, "--rounds", 6], "--rounds 6: expected at least 7"),
            ([engine_file, engine_file, "--price", "a=1"], "--price: has no effect on engines"),
            ([measured["throughput"], measured["fp16"], "--within", 1], "--within: has no effect on results"),
            ([engine_file, engine_file, "--kit", ROOT], "expected one for each engine, in their order: 2"),
            ([engine_file, engine_file, "--kit", ROOT, tmp_path], f"--kit {tmp_path}: has no inference.py"),
            ([engine_file, engine_file, "--python", sys.executable, "nopython"], "--python nopython: can't be run")):
        assert message in refusal(run(*arguments))
