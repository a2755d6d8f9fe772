"""Fixtures of the tests."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
from helpers import BASELINE, ROOT, ran


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fuzz N``."""
    parser.addoption("--fuzz", type=int, metavar="N", help="run N random examples in tests/fuzz, not CI's fixed 200")


def pytest_configure(config: pytest.Config) -> None:
    """Pass ``--fuzz`` on to the decorators of tests/fuzz."""
    if config.getoption("--fuzz"):
        os.environ["FUZZ_EXAMPLES"] = str(config.getoption("--fuzz"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a process of pytest-xdist's ended that crashed; it says nothing itself if a signal or exit() ended it."""
    if error:
        try:
            code = f"exit code {node.gateway._io.popen.wait(10)}"  # a signal's is its number, negative
        except subprocess.TimeoutExpired:
            code = "still there"
        print(f"\n{node.gateway.id}: {code}", flush=True)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Config, checkpoint and ONNX file of a random RTMPose-t, made by export.py."""
    folder = tmp_path_factory.mktemp("model")
    config = folder / "rtmpose-t.py"
    config.write_text(helpers.small_config())
    checkpoint = helpers.save_random_checkpoint(config, folder / "rtmpose-t.pth")
    onnx = folder / "rtmpose-t.onnx"
    ran("export.py", "--weight", checkpoint, "--cfg", config, "--output", onnx, "--simplify")
    return {"config": config, "checkpoint": checkpoint, "onnx": onnx}


@pytest.fixture(scope="session")
def engine_file(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 engine for the CPU, batch 4, of :func:`model_files`, made by build_engine.py."""
    engine = tmp_path_factory.mktemp("engine") / "rtmpose-t_bs4.engine"
    return helpers.build_engine(model_files["onnx"], engine, 4, "fp32", "onnxruntime")


@pytest.fixture(scope="session")
def demo_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint's ONNX file, made by export.py."""
    onnx = tmp_path_factory.mktemp("demo") / "demo.onnx"
    (checkpoint,) = (ROOT / "demo").glob("*.pth")
    ran("export.py", "--weight", checkpoint, "--cfg", ROOT / "demo/rtmpose-t_drawn-people-256x192.py", "--output", onnx,
        "--simplify")
    return onnx


@pytest.fixture(scope="session")
def people_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixed small set of drawn people that baseline.json is about."""
    return helpers.draw_people(tmp_path_factory.mktemp("people") / "people", BASELINE["images"], BASELINE["seed"])


@pytest.fixture(scope="session")
def calibration_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other drawn people than :func:`people_folder`'s."""
    return helpers.draw_people(tmp_path_factory.mktemp("calibration") / "calibration", 25, BASELINE["seed"] + 1)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set that needs no download (see :func:`draw_dataset`)."""
    folder = tmp_path_factory.mktemp("drawn")
    helpers.draw_dataset(folder)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[], tuple[Path, dict]]:
    """A fresh small data set that a test may break: its folder, and its annotations as a dict."""
    def make() -> tuple[Path, dict]:
        folder = tmp_path / "dataset"
        return folder, helpers.draw_dataset(folder)
    return make


@pytest.fixture(scope="session")
def software_gpu() -> dict[str, str]:
    """Environment of a process that sees the GPU in software."""
    from software_gpu import build
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
    try:
        return {**os.environ, **build.build()}
    except build.Unavailable as error:
        pytest.skip(f"software GPU: {error}")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """79 images of COCO val2017, which are not part of the project."""
    return helpers.shared("coco-mini")


@pytest.fixture(scope="session")
def coco_four() -> Path:
    """Four images of COCO val2017 and a detector's boxes for them, which are not part of the project."""
    return helpers.shared("coco-four")
