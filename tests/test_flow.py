"""The commands of the README, one after the other, as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from helpers import ROOT, ran

from rtmpose.engines.record import read_record
from rtmpose.model.export import EXPORT_TOLERANCE


def run_bash(script: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """What one of the kit's bash scripts prints, with the Python that runs the tests."""
    return subprocess.run(["bash", ROOT / "scripts" / script, *arguments], cwd=cwd, text=True, timeout=300, check=True,
                          env={**os.environ, "VENV": sys.prefix, **environment}, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="module")
def folder(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rtmpose.onnx, and rtmpose_opt.onnx made of it by onnxsim's own command."""
    folder = tmp_path_factory.mktemp("flow")
    shown = ran("export.py", "--weight", model_files["checkpoint"], "--cfg", model_files["config"], cwd=folder)
    assert f"at most {EXPORT_TOLERANCE:.0e} passes" in shown and "simcc_y, batch 3: " in shown
    onnxsim = Path(sys.executable).with_name("onnxsim")
    subprocess.run([onnxsim, "rtmpose.onnx", "rtmpose_opt.onnx"], cwd=folder, check=True, capture_output=True)
    return folder


def test_both_scripts_build_once_and_run(folder: Path, drawn: Path) -> None:
    accuracy = run_bash("infer_rtmpose_fp16_accuracy.sh", "--bs", "3", cwd=folder, DATASETS_DIR=str(drawn))
    assert "Built rtmpose_bs_3_fp16.engine" in accuracy and "Average Precision" in accuracy
    performance = run_bash("infer_rtmpose_fp16_performance.sh", "--bs", "3", "--", "--duration", "1", cwd=folder)
    assert "nothing to do" in performance and "* Mean inference time: " in performance


def test_the_record_names_model_build_and_machine(folder: Path, model_files: dict[str, Path]) -> None:
    engine = folder / "named.engine"
    shown = ran("build_engine.py", "--model_path", "rtmpose_opt.onnx", "--batch", 3, "--backend", "onnxruntime",
                "--engine_path", engine, cwd=folder)
    record = read_record(engine)
    assert record.source["checkpoint"] == "rtmpose-t.pth" and len(record.source["checkpoint_sha256"]) == 64
    assert record.onnx == "rtmpose_opt.onnx" and "build_engine.py --model_path rtmpose_opt.onnx" in record.command
    # ONNX Runtime has no FP16 kernels for the CPU, and the record must not claim any.
    assert (record.requested_precision, record.precision) == ("fp16", "fp32")
    assert "fp16 was asked for, but onnxruntime computes in fp32 here" in shown
    assert set(record.arithmetic) == {"fp32"}
    assert "| stays in fp32, because " in shown and "cls_x/MatMul, cls_y/MatMul " in shown


def test_other_facts_rebuild_the_engine(folder: Path, tmp_path: Path) -> None:
    engine, other = tmp_path / "a.engine", tmp_path / "other.onnx"

    def build(model: Path = folder / "rtmpose.onnx", batch: int = 1, precision: str = "fp32") -> str:
        shown = ran("build_engine.py", "--model_path", model, "--batch", batch, "--precision", precision, "--backend",
                    "onnxruntime", "--engine_path", engine)
        return "kept" if "nothing to do" in shown else "built" if "Built" in shown else shown

    model = onnx.load(folder / "rtmpose.onnx")
    model.producer_name = "other"
    onnx.save(model, other)
    assert (build(), build()) == ("built", "kept")
    assert (build(batch=2), read_record(engine).batch, build()) == ("built", 2, "built")
    assert (build(precision="fp16"), build()) == ("built", "built")
    assert (build(other), build()) == ("built", "built")
    engine.write_bytes(engine.read_bytes()[:-1])
    assert (build(), build()) == ("built", "kept")
