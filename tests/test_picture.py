"""inference.py --picture: the skeleton on one photograph."""

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import draw_dataset, ran, refused, save_random_checkpoint, small_config

from rtmpose.data.coco import load_persons, to_corners
from rtmpose.data.images import read_photograph
from rtmpose.engines import load_engine
from rtmpose.engines.record import read_record, write_record
from rtmpose.evaluate import predict

LEFT, RIGHT, RED = (20, 140, 255), (255, 130, 40), (0, 0, 255)
# The headers of pictures of 60,000 x 60,000 pixels.
BIG_BMP = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6)
BIG_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)


def command(engine: Path, photo: Path, output: Path, *options: object) -> tuple[object, ...]:
    return "inference.py", "--engine", engine, "--picture", photo, "--output", output.parent, *options


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph of noise, 320 x 240, with a red square."""
    pixels = np.random.default_rng(0).integers(90, 110, (240, 320, 3), np.uint8)
    pixels[100:200, 150:250] = RED
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return tmp_path / "photo.png"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What is written."""
    return tmp_path / "out/skeleton.jpg"


def test_keypoints_are_those_of_a_data_set_with_that_box(engine_file: Path, tmp_path: Path) -> None:
    content, box = draw_dataset(tmp_path, images=1), [10.5, 20, 90, 130]
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": box, "score": 1}]))
    engine = load_engine(engine_file)
    pixels = read_photograph(tmp_path / "images/val2017" / content["images"][0]["file_name"])
    one = predict.predict_person(engine, pixels, to_corners(box))
    among_others = predict.predict_persons(engine, load_persons(tmp_path, tmp_path / "boxes.json"))[0]
    assert np.array_equal(one.keypoints, among_others.keypoints) and np.array_equal(one.scores, among_others.scores)


def test_skeleton_is_drawn_on_the_photograph(engine_file: Path, photo: Path, output: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """On all of it, or on what is around the box."""
    monkeypatch.setenv("DATASETS_DIR", "/nowhere")
    shown = ran(*command(engine_file, photo, output))
    assert f"Picture: {output}" in shown and " of 17 keypoints (coco) score above " in shown
    assert list(output.parent.iterdir()) == [output]
    pictures = [cv2.imread(str(output)).astype(int)]
    assert pictures[0].shape == (46 + 32 + 948 + 38 + 10 + 16, 1280, 3)
    predictions = predict.predict_person(load_engine(engine_file), read_photograph(photo), np.float32([0, 0, 320, 240]))
    drawn, found = pictures[0][46 + 32:][:948, 8:-8], []
    for joint, (point, score) in enumerate(zip(predictions.keypoints[0], predictions.scores[0], strict=True)):
        column, row = np.rint(point * 1264 / 319).astype(int)
        if joint and score > 0 and 8 < column < 1256 and 8 < row < 940:
            around = drawn[row - 8:row + 9, column - 8:column + 9]
            found.append(np.abs(around - (LEFT if joint % 2 else RIGHT)).max(axis=2).min() < 40)
    assert sum(found) >= max(4, len(found) - 2)  # some lie on each other
    for box in ("145,95,110,110", "-40,0,60,60"):
        ran(*command(engine_file, photo, output, f"--bbox={box}"))
        pictures.append(cv2.imread(str(output)).astype(int))
    whole, square, beside = ((np.abs(picture - RED).max(axis=2) < 60).mean() for picture in pictures)
    assert square > 2 * whole and beside < whole


def test_other_skeletons(photo: Path, tmp_path: Path, output: Path) -> None:
    """An engine on which no AP can be measured: 26 keypoints, with their names or without, on larger crops."""
    config, checkpoint, onnx = (tmp_path / f"halpe.{kind}" for kind in ("py", "pth", "onnx"))
    config.write_text(small_config(26, (288, 384), widen=0.25))
    save_random_checkpoint(config, checkpoint)
    ran("export.py", "--cfg", config, "--weight", checkpoint, "--output", onnx)
    engine, pictures = tmp_path / "halpe.engine", set()
    ran("build_engine.py", "--model_path", onnx, "--batch", 2, "--backend", "onnxruntime", "--engine_path", engine)
    for skeleton in ("halpe26", "unknown"):
        shown = ran(*command(engine, photo, output, "--batchsize", 2))
        assert f" of 26 keypoints ({skeleton}) score above 0.2" in shown
        pictures.add(output.read_bytes())
        write_record(engine, dataclasses.replace(read_record(engine), keypoints=(), skeleton="unknown"))
    assert len(pictures) == 2


@pytest.mark.parametrize(("content", "options", "message"), [
    (None, (), "given: can't be read (No such file or directory), expected a photograph"),
    ("folder", (), "can't be read (Is a directory)"),
    ("device", (), "/dev/zero: is a pipe or a device, expected a regular file of a photograph"),
    (b"", (), "given: is no image or was cut off (0 bytes)"),
    (b"not a picture", (), "given: is no image or was cut off"),
    (b"\xff\xd8\xff\xe0", (), "given: is damaged or was cut off"),
    (BIG_PNG, (), "given: is 60000x60000 pixels, expected at most 268435456; reduce it"),
    (BIG_BMP, (), "given: is no image or was cut off"),
    ("photo", ("--bbox", "320,0,10,10"), "--bbox: box is [320.0, 0.0, 10.0, 10.0], not one with a part in the image"),
    *(("photo", (f"--bbox={box}",), "not one with a part in the image of 320x240; expected x,y,w,h in pixels of ")
      for box in ("-20,0,10,10", "1,2,1e-30,4")),
    ("photo", ("--bbox", "1,2,1e30,4"), "not 4 finite numbers below 1e+12"),
    ("photo", ("--batchsize", "9"), "--batchsize says 9"),
    ("output", (), "skeleton.jpg: is an input as well, and would be lost")])
def test_photographs_and_boxes_that_are_refused(engine_file: Path, photo: Path, tmp_path: Path, output: Path,
                                                content: bytes | str, options: tuple[str, ...], message: str) -> None:
    """In one line, and nothing is written."""
    given = {"photo": photo, "folder": tmp_path, "device": Path("/dev/zero"), "output": output}.get(
        content, tmp_path / "given")
    if content == "output":
        output.parent.mkdir()
        shutil.copy(photo, output)
    elif isinstance(content, bytes):
        given.write_bytes(content)
    assert message in refused(*command(engine_file, given, output, *options))
    assert output.read_bytes() == photo.read_bytes() if content == "output" else not output.exists()


def test_boxes_far_larger_than_the_photograph(engine_file: Path, photo: Path, output: Path) -> None:
    for size in ((1, 1), (3000, 10)):
        cv2.imwrite(str(photo), np.full((*size, 3), 100, np.uint8))
        for options in ((), ("--bbox=-5e11,-5e11,9e11,9e11",), ("--bbox", "0.5,0.5,0.1,0.1")):
            ran(*command(engine_file, photo, output, *options))
            assert cv2.imread(str(output)).shape[1] == 1280
