"""Fixtures of the fuzzer: a network smaller than any published, so that many runs fit."""

from pathlib import Path

import pytest
from fuzz.runner import run
from helpers import save_random_checkpoint, small_config


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.py, model.pth and model.onnx."""
    folder = tmp_path_factory.mktemp("small_model")
    (folder / "config.py").write_text(small_config(widen=0.25))
    save_random_checkpoint(folder / "config.py", folder / "model.pth")
    exported = run("export", "--weight", folder / "model.pth", "--cfg", folder / "config.py", "--output",
                   folder / "model.onnx", "--simplify")
    assert exported.code == 0, exported
    return folder


@pytest.fixture(scope="session")
def small_engine(small_model: Path) -> Path:
    """An FP32 engine for the CPU, batch 4."""
    engine = small_model / "model.engine"
    built = run("build_engine", "--model_path", small_model / "model.onnx", "--input", "input:4,3,256,192",
                "--precision", "fp32", "--backend", "onnxruntime", "--engine_path", engine)
    assert built.code == 0, built
    return engine
