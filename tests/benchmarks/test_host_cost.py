"""benchmarks/host_cost.py, on a few images."""

from pathlib import Path

import pytest
from helpers import run_script

pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
pytest.importorskip("mlperf_loadgen")


@pytest.mark.slow
def test_table(model_files: dict[str, Path], drawn: Path) -> None:
    done = run_script("benchmarks/host_cost.py", "--model_path", model_files["onnx"], "--datasets", drawn, "--batch", 4,
                      "--rounds", 1)
    if "the software GPU can't be built" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in done.stdout.splitlines()
            if line.startswith(("| main", "| reading", "| LoadGen"))]
    costs = {name: float(cost) for name, cost in rows}
    parts = sum(cost for name, cost in costs.items() if name.startswith("main thread:"))
    assert parts == pytest.approx(costs["main thread, total"], abs=1)
    assert 0 < costs["reading threads: read and decode images"] < costs["reading threads, total"]
    assert "the host's cost only" in done.stdout and "ms a batch" in done.stdout
