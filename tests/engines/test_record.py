"""The record beside an engine: whatever is wrong with it is one line at load, and no obstacle to a new build."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rtmpose.engines import CPU_BACKENDS, installed_packages, load_engine, open_engine
from rtmpose.engines.build import build_engine, is_built, plan_build
from rtmpose.engines.record import Record, read_record, record_path
from rtmpose.errors import KitError

WRONG = (None, True, -1, 1.5, "text", [], {}, [[1]], {"a": 1}, "0" * 64)


@pytest.fixture
def engine(engine_file: Path, tmp_path: Path) -> Path:
    """An engine with its record that a test may break."""
    for path in (engine_file, record_path(engine_file)):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / engine_file.name


def refusal(engine: Path) -> str:
    with pytest.raises(KitError) as raised:
        load_engine(engine)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Record)])
def test_fields_that_were_changed(engine: Path, field: str) -> None:
    path = record_path(engine)
    content = json.loads(path.read_text())
    for value in WRONG:
        if value != content[field]:
            path.write_text(json.dumps({**content, field: value}))
            assert f"{path}: is no record of this version of the kit, or was changed since" in refusal(engine)
    for others in ({key: value for key, value in content.items() if key != field}, {**content, f"{field}s": 1}):
        path.write_text(json.dumps(others))
        assert "is no record of this version of the kit" in refusal(engine)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "{", '{"a": 1}', "[" * 10**5, '{"a":' * 10**5, "\udcff", "NaN",
                                  '{"engine_bytes": ' + "9" * 10**5 + "}", "null"])
def test_text_that_is_no_record_is_refused_and_built_again(engine: Path, model_files: dict[str, Path], text: str
                                                           ) -> None:
    record_path(engine).write_bytes(text.encode(errors="surrogateescape"))
    assert f"{record_path(engine)}: is no" in refusal(engine).replace("is not valid", "is no")
    plan = plan_build(model_files["onnx"], engine, 4, "fp32", "onnxruntime")
    assert not is_built(plan)
    if len(text) < 3:
        build_engine(plan)
        assert is_built(plan) and load_engine(engine).record == read_record(engine)


def test_a_folder_in_place_of_the_record(engine: Path, model_files: dict[str, Path]) -> None:
    record_path(engine).unlink()
    record_path(engine).mkdir()
    assert "has no record" in refusal(engine)
    with pytest.raises(KitError, match="is a folder, expected the name of a file"):
        build_engine(plan_build(model_files["onnx"], engine, 4, "fp32", "onnxruntime"))


def test_the_skeleton_of_the_config_is_in_the_record(engine: Path) -> None:
    record = read_record(engine)
    assert record.skeleton == "coco" and record.keypoints[:3] == ("nose", "left_eye", "right_eye")
    assert len(record.keypoints) == 17 and "keypoints" not in record.source


@pytest.mark.parametrize("name", [name for name in CPU_BACKENDS if installed_packages(name)])
def test_an_engine_file_that_the_runtime_cant_load_or_run(engine: Path, name: str, tmp_path: Path,
                                                          model_files: dict[str, Path]) -> None:
    """Past the check of its digest, as if it had been damaged before the record was written."""
    plan = plan_build(model_files["onnx"], tmp_path / "a.engine", 4, "fp32", name)
    record = build_engine(plan).record
    with pytest.raises(KitError, match="b.engine: .* can't load it .*; build it again") as raised:
        open_engine(b"damaged", tmp_path / "b.engine", record)
    assert "\n" not in str(raised.value)
    with pytest.raises(KitError, match="a.engine: .* can't run it .*; build it again") as raised:
        load_engine(tmp_path / "a.engine").infer(np.zeros((4, 3, 200, 192), np.float32))
    assert "\n" not in str(raised.value)
    with pytest.raises(KitError, match="a.engine: .* can't run it") as raised:
        content = (tmp_path / "a.engine").read_bytes()
        open_engine(content, tmp_path / "a.engine", dataclasses.replace(record, input_name="image")).infer(
            np.zeros((4, 3, 256, 192), np.float32))
    assert "\n" not in str(raised.value)
