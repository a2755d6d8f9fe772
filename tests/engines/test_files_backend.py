"""Devices that only take files: ONNX Runtime is the vendor's tool, and runs over the folder as a script of a user."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import ROOT, build_engine, draw_people, page_text, ran, refused

from rtmpose.data.preprocess import MEAN, NORMALIZED, STD
from rtmpose.engines.files import encode
from rtmpose.engines.record import read_record
from rtmpose.model.graph import OUTPUTS, count_types, open_session


def build(network: Path, data_set: Path, folder: Path, *options: object) -> tuple[object, ...]:
    return ("build_engine.py", "--model_path", network, "--batch", 8, "--backend", "files", "--datasets", data_set,
            "--engine_path", folder, *options)


def run_vendors_tool(folder: Path, network: bytes) -> None:
    """What README.md in the folder asks for."""
    session = open_session(network)
    (folder / "outputs").mkdir()
    for path in sorted((folder / "inputs").iterdir()):
        if path.suffix == ".npy":
            crops = np.load(path)
        elif path.stat().st_size == 8 * 256 * 192 * 3:
            crops = np.fromfile(path, np.uint8).reshape(8, 256, 192, 3)
        else:
            crops = np.fromfile(path, np.float32).reshape(8, 3, 256, 192)
        if crops.dtype == np.uint8:
            crops = (crops.astype(np.float32) - MEAN) / STD
            crops = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
        for name, logits in zip(OUTPUTS, session.run(OUTPUTS, {"input": crops}), strict=True):
            output = folder / "outputs" / f"{path.stem}_{name}{path.suffix}"
            np.save(output, logits) if path.suffix == ".npy" else logits.tofile(output)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("files") / "people", 12, 3)


@pytest.fixture(scope="module")
def onnxruntime_engine(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(demo_onnx, tmp_path_factory.mktemp("files") / "onnxruntime.engine", 8, "fp32", "onnxruntime")


@pytest.fixture(scope="module")
def expected(people: Path, onnxruntime_engine: Path) -> bytes:
    """``keypoints.json`` of ONNX Runtime."""
    output = onnxruntime_engine.with_name("expected")
    ran("inference.py", "--engine", onnxruntime_engine, "--datasets", people, "--output", output)
    return (output / "keypoints.json").read_bytes()


@pytest.fixture(scope="module")
def finished(people: Path, demo_onnx: Path, onnxruntime_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs."""
    folder = tmp_path_factory.mktemp("files") / "finished"
    ran(*build(demo_onnx, people, folder, "--precision", "int8"))
    run_vendors_tool(folder, onnxruntime_engine.read_bytes())
    return folder


@pytest.fixture
def device(finished: Path, tmp_path: Path) -> Path:
    """A copy of :func:`finished` that a test may break."""
    return Path(shutil.copytree(finished, tmp_path / "device"))


@pytest.mark.parametrize("options", [(), ("--raw",), ("--layout", "nhwc_uint8"), ("--layout", "nhwc_uint8", "--raw")])
def test_keypoints_are_those_of_the_outputs(options: tuple, people: Path, demo_onnx: Path, onnxruntime_engine: Path,
                                            expected: bytes, tmp_path: Path) -> None:
    folder, output = tmp_path / "device", tmp_path / "output"
    printed = ran(*build(demo_onnx, people, folder, *options))
    assert "Writing " in printed and "README.md says what that tool has to write" in printed
    assert subprocess.run(["sha256sum", "--check", "--status", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    assert count_types(onnx.load(folder / "model.onnx"))[0] == {"fp32": 45}  # whatever the precision
    run_vendors_tool(folder, onnxruntime_engine.read_bytes())
    shutil.rmtree(folder / "inputs")
    shown = ran("inference.py", "--engine", folder, "--datasets", people, "--reference", onnxruntime_engine,
                "--visualize", 1, "--output", output)
    assert (output / "keypoints.json").read_bytes() == expected and (output / "pictures/overview.jpg").is_file()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["agreement"]["max_px"] == 0 and summary["precision"] == "unknown"
    assert not {"fps", "latency_ms", "conditions", "energy", "cores_per_1000_fps"} & set(summary)
    assert f"on the device that wrote {folder}/outputs" in shown and "Conditions: " not in shown
    figures = [f"{summary[name]:.3f}" for name in ("AP50", "AP")]
    assert [cell.strip() for cell in shown.splitlines()[-1].split("|")] == [
        "", "8", "unknown", "files", "AP", "-", *figures, "-", ""]


def test_graph_beside_the_inputs_is_the_network(finished: Path) -> None:
    graph = open_session((finished / "model.onnx").read_bytes())
    assert graph.get_inputs()[0].shape == [8, 3, 256, 192]
    logits = graph.run(OUTPUTS, {"input": np.load(finished / "inputs/000000.npy")})
    for name, found in zip(OUTPUTS, logits, strict=True):
        np.testing.assert_allclose(np.load(finished / f"outputs/000000_{name}.npy"), found, atol=1e-4)


def test_pixels_are_exact() -> None:
    every = np.broadcast_to(NORMALIZED[None, :, None], (1, 3, 2, 256))
    pixels = np.load(io.BytesIO(encode(every, {"layout": "nhwc_uint8", "suffix": ".npy"})))
    assert pixels.dtype == np.uint8 and (pixels == np.arange(256)[None, None, :, None]).all()


def test_part_of_the_data_set(finished: Path, people: Path, onnxruntime_engine: Path, tmp_path: Path) -> None:
    """Its batches hold other crops together than those that were written."""
    keypoints = []
    for engine in (onnxruntime_engine, finished / "files.engine"):
        ran("inference.py", "--engine", engine, "--datasets", people, "--limit", 7, "--output", tmp_path)
        keypoints.append((tmp_path / "keypoints.json").read_bytes())
    assert keypoints[0] == keypoints[1]


def test_other_crops(finished: Path, drawn: Path) -> None:
    line = refused("inference.py", "--engine", finished, "--datasets", drawn)
    assert f"{finished}/files.engine: has no outputs for some of these crops, only for those of " in line


def test_detections_and_limit(people: Path, demo_onnx: Path, onnxruntime_engine: Path, tmp_path: Path) -> None:
    """They mean what they mean in inference.py."""
    annotations = json.loads((people / "annotations/person_keypoints_val2017.json").read_text())["annotations"]
    (tmp_path / "boxes.json").write_text(json.dumps([
        {"image_id": one["image_id"], "category_id": 1, "bbox": [x + 2, *rest], "score": 0.5}
        for one in annotations for x, *rest in [one["bbox"]]]))
    options, folder = ("--detections", tmp_path / "boxes.json", "--limit", 6), tmp_path / "device"
    ran(*build(demo_onnx, people, folder, *options))
    run_vendors_tool(folder, onnxruntime_engine.read_bytes())
    measure = ("inference.py", "--engine", folder, "--datasets", people)
    ran(*measure, *options, "--reference", onnxruntime_engine, "--output", tmp_path / "output")
    assert json.loads((tmp_path / "output/summary.json").read_text())["agreement"]["max_px"] == 0
    assert "has no outputs for some of these crops" in refused(*measure, "--limit", 6)


def test_reported_speed_is_never_taken_for_a_measured_one(finished: Path, people: Path, onnxruntime_engine: Path,
                                                          tmp_path: Path) -> None:
    shown = ran("inference.py", "--engine", finished, "--datasets", people, "--reported_fps", 1000, "--output",
                tmp_path / "hailo")
    assert "AP; FPS reported by the vendor's tool" in shown.splitlines()[-1] and "int8 (reported)" in shown
    summary = json.loads((tmp_path / "hailo/summary.json").read_text())
    assert (summary["fps"], summary["fps_of"]) == (1000, "reported by the vendor's tool")
    assert summary["conditions"]["verdict"] == "not measured" and "energy" not in summary
    ran("inference.py", "--engine", onnxruntime_engine, "--datasets", people, "--output", tmp_path / "cpu")
    ran("inference.py", "--engine", finished, "--datasets", people, "--output", tmp_path / "silent")
    for first, second in (("cpu", "hailo"), ("hailo", "cpu"), ("cpu", "silent"), ("silent", "cpu"),
                          ("silent", "hailo")):
        compared = ran("scripts/compare.py", tmp_path / first, tmp_path / second, "--output", tmp_path / "compared")
        assert "+0.0000" in compared and "Ratio" not in compared
        page = page_text((tmp_path / "compared/compare.html").read_text())
        for text in (compared, page):
            assert ("1000.00 (AP; FPS reported by the vendor's tool)" in text) == ("hailo" in (first, second))
    shutil.copytree(tmp_path / "hailo", tmp_path / "rival")
    compared = ran("scripts/compare.py", tmp_path / "hailo", tmp_path / "rival", "--output", tmp_path / "compared")
    assert "1.000" in compared and "can't tell" in compared and "the vendor's tool reported the speed; not " in compared
    assert "No speed here is a result" in page_text((tmp_path / "compared/compare.html").read_text())


def test_engine_of_files_as_reference(finished: Path, people: Path, onnxruntime_engine: Path) -> None:
    shown = ran("inference.py", "--engine", onnxruntime_engine, "--datasets", people, "--reference", finished)
    assert "worst 0.00" in shown


def save(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


GOOD = np.zeros((8, 17, 384), np.float32)


@pytest.mark.parametrize(("content", "message"), [
    (None, "no such output, 1 of "),
    (b"", "is not float32 (8, 17, 384), without NaN or infinity (ValueError: EOF"),
    (save(GOOD)[:-1], "is not float32 (8, 17, 384), without NaN or infinity (ValueError: "),
    (save(GOOD[:, :16]), "is not float32 (8, 17, 384), without NaN or infinity (it is float32 (8, 16, 384)); write "),
    (save(GOOD.astype(np.float16)), "is not float32 (8, 17, 384), without NaN or infinity (it is float16 (8, 17, 384)"),
    (save(GOOD.astype(object)), "is not float32 (8, 17, 384), without NaN or infinity (ValueError: Object arrays"),
    (save(np.where(np.arange(384) == 5, np.float32(np.nan), GOOD)),
     "is not float32 (8, 17, 384), without NaN or infinity (136 numbers aren't finite); write that"),
])
def test_broken_output(device: Path, people: Path, content: bytes | None, message: str) -> None:
    path = device / "outputs/000001_simcc_x.npy"
    path.unlink() if content is None else path.write_bytes(content)
    assert f"{path}: {message}" in refused("inference.py", "--engine", device, "--datasets", people)


def test_outputs_that_are_too_many_or_too_old(device: Path, people: Path) -> None:
    measure = ("inference.py", "--engine", device, "--datasets", people)
    extra = device / "outputs/000099_simcc_x.npy"
    extra.touch()
    assert f"{extra}: belongs to none of the " in refused(*measure)
    extra.unlink()
    old = device / "outputs/000002_simcc_y.npy"
    os.utime(old, (1e9, 1e9))
    assert f"{old}: is older than the inputs of {read_record(device / 'files.engine').built_at}" in refused(*measure)


def test_raw_output_of_another_size(people: Path, demo_onnx: Path, onnxruntime_engine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    ran(*build(demo_onnx, people, folder, "--raw", "--limit", 2))
    run_vendors_tool(folder, onnxruntime_engine.read_bytes())
    path = folder / "outputs/000000_simcc_x.bin"
    GOOD.astype(np.float16).tofile(path)
    line = refused("inference.py", "--engine", folder, "--datasets", people, "--limit", 2)
    assert f"{path}: is not float32 (8, 17, 384), without NaN or infinity (ValueError: cannot reshape array" in line


@pytest.mark.parametrize("options", [
    ("--perf_only",), ("--scenario", "offline", "--output", "out"), ("--picture", "a.jpg", "--output", "out"),
    ("--flip_test",), ("--fps_target", 9), ("--perf_only", "--repeats", 2)])
def test_what_needs_the_device(finished: Path, people: Path, options: tuple, tmp_path: Path) -> None:
    given = () if "--picture" in options else ("--datasets", people)
    line = refused("inference.py", "--engine", finished, *given, *options, cwd=tmp_path)
    assert f"{options[0]}: {finished}/files.engine runs nothing, it has the outputs that the vendor's tool" in line


def test_options_of_other_engines(onnxruntime_engine: Path, people: Path, demo_onnx: Path, tmp_path: Path) -> None:
    line = refused("inference.py", "--engine", onnxruntime_engine, "--datasets", people, "--reported_fps", 9)
    assert f"--reported_fps: {onnxruntime_engine} runs here and is timed" in line
    command = ("build_engine.py", "--model_path", demo_onnx, "--batch", 8, "--engine_path", tmp_path / "engine")
    for options in (("--raw",), ("--layout", "nhwc_uint8"), ("--limit", 3), ("--detections", "a"), ("--datasets",)):
        assert f"{options[0]}: is for --backend files alone" in refused(*command, *options)
    assert "--calibration: the vendor's tool calibrates by itself" in refused(
        *build(demo_onnx, people, tmp_path / "device", "--precision", "int8", "--calibration", people))
    assert list(tmp_path.iterdir()) == []


def test_building_again(device: Path, people: Path, demo_onnx: Path, finished: Path) -> None:
    """Outputs for other inputs are never mixed in, and never deleted."""
    assert "nothing to do" in ran(*build(demo_onnx, people, device, "--precision", "int8"))
    before = sorted(device.rglob("*"))
    assert f"{device}: is not empty; " in refused(*build(demo_onnx, people, device, "--limit", 3))
    assert sorted(device.rglob("*")) == before
    (device / "files.engine").unlink()
    assert f"{device}/files.engine: no such engine" in refused("inference.py", "--engine", device, "--datasets", people)


def test_disk_full(people: Path, demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-written stays, if the disk is known to be too small before, or turns out to be."""
    folder = tmp_path / "device"
    script, *options = build(demo_onnx, people, folder)
    done = subprocess.run([sys.executable, ROOT / script, *map(str, options)], capture_output=True, text=True,
                          check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000)))
    assert done.returncode == 2 and f"{folder}: can't be written (File too large)" in done.stderr, done.stderr
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    assert f"{folder}: 24 MB are needed and 1 MB are free; " in refused(script, *options)
    assert list(tmp_path.iterdir()) == []
