"""benchmarks/verdicts.py on records of made-up speeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ran, refused


def write_rounds(record: Path, rounds: int, seconds: float) -> None:
    """Rounds of engines that are off by 1 % from process to process, a fifth of them in a row."""
    random, speeds = np.random.default_rng(0), 100 * np.array([1, 1, 1 / 1.03, 1 / 1.1])
    with open(record, "w", encoding="utf-8") as file:
        for number in range(rounds):
            turns = 5 if number % 5 == 0 else 1
            found = [[[fps * random.lognormal(0, 0.01), seconds] for _ in range(turns)] for fps in speeds]
            file.write(json.dumps({"way": "in a row" if turns > 1 else "in turns", "load": False, "duration": 1,
                                   "turns": found}) + "\n")


def rows(record: Path, *options: object) -> dict[tuple[str, str], list[str]]:
    """Cells of the table by how it was measured and the engine beside."""
    lines = ran("benchmarks/verdicts.py", "--record", record, *options).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]
    return {(way, name): rest for way, name, *rest in cells}


def test_verdicts_are_counted(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    write_rounds(record, 100, 3)
    found = rows(record, "--verdicts", 8)
    assert found["in turns", "slowed by 10 %"] == ["8", "0", "8", "0", "42"]  # of seven rounds of two turns of 3 s
    assert found["in turns", "itself"][:3] == ["8", "0", "0"] and int(found["in turns", "slowed by 3 %"][2]) > 5
    assert found["in a row", "slowed by 10 %"] == ["8", "0", "8", "0", "30"]
    assert rows(record)["in turns", "itself"][0].endswith(" (share rounds)")
    write_rounds(record, 30, 49)  # five minutes are over after three rounds, and a verdict needs seven
    assert rows(record, "--verdicts", 3)["in turns", "slowed by 10 %"] == ["3", "0", "3", "0", "686"]


@pytest.mark.parametrize(("options", "message"), [
    ((), "has no round"), (("--minutes", 1), "--model_path FILE.onnx and --minutes N: belong together")])
def test_user_errors(tmp_path: Path, options: tuple, message: str) -> None:
    assert message in refused("benchmarks/verdicts.py", "--record", tmp_path / "none.jsonl", *options)
