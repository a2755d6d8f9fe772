"""scripts/check_result.py and scripts/results_table.py, on a small sweep's folder made of real summaries."""

import common

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import ROOT

import inference
from rtmpose.files import read_sealed, write_sealed


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_result, results_table = load("check_result"), load("results_table")


@pytest.fixture(scope="module")
def runs(engine_file: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folders of an accuracy and of a throughput run."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for mode, options in (("accuracy", ()), ("throughput", ("--perf_only", "--duration", "0"))):
            patch.setattr(sys, "argv", ["inference.py", "--engine", str(engine_file), "--datasets", str(drawn),
                                        "--output", str(folder / mode), *options])
            inference.main()
    return folder


@pytest.fixture
def write(runs: Path, tmp_path: Path) -> Callable[..., Path]:
    """A machine's folder with clean conditions; the arguments change its two summaries in place."""
    def make(change: Callable[[dict[str, Any], dict[str, Any]], object] = lambda accuracy, throughput: None) -> Path:
        folder = tmp_path / "machine"
        shutil.copytree(runs, folder / "cells/fp32_bs4")
        accuracy, throughput = (read_sealed(runs / mode / "summary.json", "summary.json")
                                for mode in ("accuracy", "throughput"))
        throughput["conditions"] = {"verdict": "clean", "reasons": []}
        change(accuracy, throughput)
        for mode, summary in (("accuracy", accuracy), ("throughput", throughput)):
            write_sealed(folder / f"cells/fp32_bs4/{mode}/summary.json", summary)
        (folder / "results.json").write_text(json.dumps(
            [{"precision": "fp32", "batch": 4, "failure": "", "accuracy": accuracy, "throughput": throughput}]))
        return folder

    return make


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """check_result.py: exit code, standard output and standard error."""
    def main(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["check_result.py", *map(str, arguments)])
        return common.exit_code(check_result.main), *capfd.readouterr()

    return main


def test_result_in_order(write: Callable, check: Callable, drawn: Path) -> None:
    folder = write()
    assert check(folder) == (0, f"{folder}: 1 cells, all in order\n", "")
    assert check(folder, "--annotations", drawn / "annotations/person_keypoints_val2017.json")[0] == 0


@pytest.mark.parametrize(("change", "message"), [
    (lambda accuracy, throughput: accuracy.update(AR75=accuracy["AR75"] + 0.001), "gives AR75 "),
    (lambda accuracy, throughput: throughput.update(conditions={"verdict": "busy", "reasons": ["load 3"]}),
     "conditions busy (load 3), expected clean"),
    (lambda accuracy, throughput: throughput["engine"].update(sha256="0" * 64), "of different engines"),
    (lambda accuracy, throughput: throughput.update(scenario="offline", loadgen={
        "version": "6", "mode": "PerformanceOnly", "logs": ".", "errors": []}, valid=True), "measures LoadGen offline"),
])
def test_each_fault_is_a_line(write: Callable, check: Callable, change: Callable, message: str) -> None:
    code, output, errors = check(write(change))
    assert (code, errors) == (1, "") and len(output.splitlines()) == 2
    assert message in output and output.endswith("1 problems\n")


def test_summary_beside_the_keypoints_must_be_the_one_in_results_json(write: Callable, check: Callable) -> None:
    folder = write()
    path = folder / "cells/fp32_bs4/throughput/summary.json"
    write_sealed(path, {**read_sealed(path, "summary.json"), "fps": 1e6})
    code, output, _ = check(folder)
    assert code == 1 and f"{path} is not what results.json says" in output


def test_missing_files_and_broken_summaries_are_user_errors(write: Callable, check: Callable) -> None:
    folder = write(lambda accuracy, throughput: accuracy.update(
        inputs={path.replace("person_", "other_"): digest for path, digest in accuracy["inputs"].items()}))
    code, _, errors = check(folder)
    assert code == 2 and "give --annotations" in errors
    shutil.rmtree(folder)
    code, _, errors = check(write(lambda accuracy, throughput: throughput.pop("fps")))
    assert code == 2 and "'fps' is a required property" in errors and len(errors.splitlines()) == 1


def test_table_has_a_row_a_cell(write: Callable) -> None:
    folder = write(lambda accuracy, throughput: throughput.update(
        fps=100.0, repeats={"values": [99, 100, 102], "interval": [98, 102], "confidence": 0.95, "method": "t"}))
    accuracy = json.loads((folder / "cells/fp32_bs4/accuracy/summary.json").read_text())
    rows = results_table.results_table(folder.parent).splitlines()
    assert len(rows) == 3
    assert [text.strip() for text in rows[2].split("|")[1:8]] == [
        "machine", "rtmpose-t", "4", "fp32", accuracy["engine"]["runtime"], "100 ± 2", f"{accuracy['AP50']:.3f}"]


def test_folder_without_results(tmp_path: Path) -> None:
    assert results_table.results_table(tmp_path) == results_table.EMPTY


def test_page_holds_the_table_of_results() -> None:
    page = (ROOT / "docs/results.md").read_text()
    table = results_table.results_table(ROOT / "results")
    assert results_table.put_between(page, table) == page
    assert results_table.put_between(results_table.put_between(page, "other"), table) == page
    assert "other" in results_table.put_between(page, "other")


def test_results_in_the_repository_were_measured_under_clean_conditions() -> None:
    for path in (ROOT / "results").glob("*/results.json"):
        cells = check_result.read_cells(str(path.parent), path.parent.name)
        assert {cell.runs["engine alone"].conditions for cell in cells} == {"clean"}, path
