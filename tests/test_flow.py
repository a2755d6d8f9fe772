"""The commands of the README, one after the other, as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from helpers import ROOT, run_script, save_random_checkpoint, small_config

from rtmpose.engines.record import read_record
from rtmpose.model.export import EXPORT_TOLERANCE


def run_bash(script: str, *arguments: object, cwd: Path, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run one of the kit's bash scripts with the Python that runs the tests."""
    variables = {**os.environ, "VENV": sys.prefix, **{key: str(value) for key, value in environment.items()}}
    return subprocess.run(["bash", str(ROOT / "scripts" / script), *map(str, arguments)], cwd=cwd, env=variables,
                          capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def folder(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rtmpose.onnx, and rtmpose_opt.onnx made of it by onnxsim's own command."""
    folder = tmp_path_factory.mktemp("flow")
    done = run_script("export.py", "--weight", model_files["checkpoint"], "--cfg", model_files["config"], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"at most {EXPORT_TOLERANCE:.0e} passes" in done.stdout and "simcc_y, batch 3: " in done.stdout
    onnxsim = Path(sys.executable).with_name("onnxsim")
    subprocess.run([onnxsim, "rtmpose.onnx", "rtmpose_opt.onnx"], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_exported_graph_is_one_file_with_a_dynamic_batch(folder: Path) -> None:
    graph = onnx.load(folder / "rtmpose.onnx").graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["input", "simcc_x", "simcc_y"]
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in (*graph.input, *graph.output))
    assert sorted(path.name for path in folder.glob("*.onnx*")) == ["rtmpose.onnx", "rtmpose_opt.onnx"]


def test_both_scripts_build_once_and_run(folder: Path, drawn: Path) -> None:
    accuracy = run_bash("infer_rtmpose_fp16_accuracy.sh", "--bs", 3, cwd=folder, DATASETS_DIR=drawn)
    assert accuracy.returncode == 0, accuracy.stderr
    assert "Built rtmpose_bs_3_fp16.engine" in accuracy.stdout and "Average Precision" in accuracy.stdout
    performance = run_bash("infer_rtmpose_fp16_performance.sh", "--bs", 3, "--", "--duration", 1, cwd=folder)
    assert performance.returncode == 0, performance.stderr
    assert "nothing to do" in performance.stdout and "* Mean inference time: " in performance.stdout


def test_the_record_names_model_build_and_machine(folder: Path, model_files: dict[str, Path]) -> None:
    engine = folder / "named.engine"
    done = run_script("build_engine.py", "--model_path", "rtmpose_opt.onnx", "--batch", 3,
                      "--backend", "onnxruntime", "--engine_path", engine, cwd=folder)
    assert done.returncode == 0, done.stderr
    record = read_record(engine)
    assert record.source["checkpoint"] == "rtmpose-t.pth" and len(record.source["checkpoint_sha256"]) == 64
    assert record.onnx == "rtmpose_opt.onnx" and "build_engine.py --model_path rtmpose_opt.onnx" in record.command
    # ONNX Runtime has no FP16 kernels for the CPU, and the record must not claim any.
    assert (record.requested_precision, record.precision) == ("fp16", "fp32")
    assert "fp16 was asked for, but onnxruntime computes in fp32 here" in done.stdout
    assert set(record.arithmetic) == {"fp32"}
    assert "| stays in fp32, because " in done.stdout and "cls_x/MatMul, cls_y/MatMul " in done.stdout


def test_other_facts_rebuild_the_engine(folder: Path, tmp_path: Path) -> None:
    engine, other = tmp_path / "a.engine", tmp_path / "other.onnx"

    def build(model: Path = folder / "rtmpose.onnx", batch: int = 1, precision: str = "fp32") -> str:
        done = run_script("build_engine.py", "--model_path", model, "--input", f"input:{batch},3,256,192",
                          "--precision", precision, "--backend", "onnxruntime", "--engine_path", engine)
        assert done.returncode == 0, done.stderr
        return "kept" if "nothing to do" in done.stdout else "built" if "Built" in done.stdout else done.stdout

    model = onnx.load(folder / "rtmpose.onnx")
    model.producer_name = "other"
    onnx.save(model, other)
    assert (build(), build()) == ("built", "kept")
    assert (build(batch=2), read_record(engine).batch, build()) == ("built", 2, "built")
    assert (build(precision="fp16"), build()) == ("built", "built")
    assert (build(other), build()) == ("built", "built")
    engine.write_bytes(engine.read_bytes()[:-1])
    assert (build(), build()) == ("built", "kept")


@pytest.mark.slow
def test_a_config_that_names_mmdet_and_syncbn_gives_the_same_graph(model_files: dict[str, Path], tmp_path: Path
                                                                   ) -> None:
    config = tmp_path / "published.py"
    config.write_text(small_config().replace("type='CSPNeXt'", "_scope_='mmdet', type='CSPNeXt'")
                      .replace("type='BN'", "type='SyncBN'"))
    done = run_script("export.py", "--weight", model_files["checkpoint"], "--cfg", config, "--output",
                      tmp_path / "published.onnx", "--simplify")
    assert done.returncode == 0, done.stderr
    assert onnx.load(tmp_path / "published.onnx").graph == onnx.load(model_files["onnx"]).graph


@pytest.mark.slow
def test_other_keypoints_and_crops_go_all_the_way_to_throughput(tmp_path: Path) -> None:
    config = tmp_path / "other.py"
    config.write_text(small_config(133, (288, 384), widen=0.25))
    checkpoint = save_random_checkpoint(config, tmp_path / "other.pth")
    for command in (
            ["export.py", "--weight", checkpoint, "--cfg", config, "--output", "other.onnx"],
            ["build_engine.py", "--model_path", "other.onnx", "--input", "input:2,3,384,288", "--backend",
             "onnxruntime", "--engine_path", "other.engine"],
            ["inference.py", "--engine", "other.engine", "--perf_only", "--duration", 0, "--iterations", 2,
             "--output", "out"]):
        done = run_script(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["fps"] > 0
    assert read_record(tmp_path / "other.engine").num_keypoints == 133
