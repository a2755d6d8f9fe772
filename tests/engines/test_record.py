"""The record beside an engine: whatever is wrong with it is one line at load, and no obstacle to a new build."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import refusal

from rtmpose.engines import BACKENDS, CPU_BACKENDS, load_engine, open_engine
from rtmpose.engines.build import build_engine, is_built, plan_build
from rtmpose.engines.record import Record, read_record, record_path

WRONG = (None, True, -1, 1.5, "text", [], {}, [[1]], {"a": 1}, "0" * 64)


@pytest.fixture
def engine(engine_file: Path, tmp_path: Path) -> Path:
    """An engine with its record that a test may break."""
    for path in (engine_file, record_path(engine_file)):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / engine_file.name


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Record)])
def test_fields_that_were_changed(engine: Path, field: str) -> None:
    path = record_path(engine)
    content = json.loads(path.read_text())
    for value in WRONG:
        if value != content[field]:
            path.write_text(json.dumps({**content, field: value}))
            message = refusal(load_engine, engine)
            assert f"{path}: is no record of this version of the kit, or was changed since" in message
    for others in ({key: value for key, value in content.items() if key != field}, {**content, f"{field}s": 1}):
        path.write_text(json.dumps(others))
        assert "is no record of this version of the kit" in refusal(load_engine, engine)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "{", '{"a": 1}', "[" * 10**5, '{"a":' * 10**5, "\udcff", "NaN",
                                  '{"engine_bytes": ' + "9" * 10**5 + "}", "null"])
def test_text_that_is_no_record_is_refused_and_built_again(engine: Path, model_files: dict[str, Path], text: str
                                                           ) -> None:
    record_path(engine).write_bytes(text.encode(errors="surrogateescape"))
    assert f"{record_path(engine)}: is no" in refusal(load_engine, engine).replace("is not valid", "is no")
    plan = plan_build(model_files["onnx"], engine, 4, "fp32", "onnxruntime")
    assert not is_built(plan)
    if len(text) < 3:
        build_engine(plan)
        assert is_built(plan) and load_engine(engine).record == read_record(engine)


def test_a_folder_in_place_of_the_record(engine: Path, model_files: dict[str, Path]) -> None:
    record_path(engine).unlink()
    record_path(engine).mkdir()
    assert "has no record" in refusal(load_engine, engine)
    plan = plan_build(model_files["onnx"], engine, 4, "fp32", "onnxruntime")
    assert "is a folder, expected the name of a file" in refusal(build_engine, plan)


def test_the_skeleton_of_the_config_is_in_the_record(engine: Path) -> None:
    record = read_record(engine)
    assert record.skeleton == "coco" and record.keypoints[:3] == ("nose", "left_eye", "right_eye")
    assert len(record.keypoints) == 17 and "keypoints" not in record.source


@pytest.mark.parametrize("name", [name for name in CPU_BACKENDS if BACKENDS[name].describe()])
def test_an_engine_file_that_the_runtime_cant_load_or_run(engine: Path, name: str, tmp_path: Path,
                                                          model_files: dict[str, Path]) -> None:
    """Past the check of its digest, as if it had been damaged before the record was written."""
    path = tmp_path / "a.engine"
    record = build_engine(plan_build(model_files["onnx"], path, 4, "fp32", name)).record
    assert re.search("a.engine: .* can't load it .*; build it again", refusal(open_engine, b"damaged", path, record))
    other_name = open_engine(path.read_bytes(), path, dataclasses.replace(record, input_name="image"))
    for loaded, height in ((load_engine(path), 200), (other_name, 256)):
        message = refusal(loaded.infer, np.zeros((4, 3, height, 192), np.float32))
        assert re.search("a.engine: .* can't run it .*; build it again", message)
