"""Files that can be read, and those that can't."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtmpose.engines.record import read_record
from rtmpose.errors import KitError
from rtmpose.files import is_folder, read_json, sha256, write_bytes

READERS: list[Callable[[Path], object]] = [lambda path: read_json(path, "a test"), sha256]


@pytest.mark.parametrize("read", READERS, ids=["read_json", "sha256"])
@pytest.mark.parametrize("kind", ["pipe", "device", "terminal", "substitution"])
def test_pipes_and_devices_are_refused_not_waited_for(tmp_path: Path, read: Callable, kind: str) -> None:
    path = tmp_path / "named"
    reader, writer = os.pipe()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path({"device": "/dev/zero", "terminal": "/dev/ptmx", "substitution": f"/dev/fd/{reader}"}[kind])
    with pytest.raises(KitError, match="is a pipe or a device, expected a regular file of a .*; save it as a file"):
        read(path)
    os.close(reader)
    os.close(writer)


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to("file")
    assert read_json(tmp_path / "link", "a test") == [1]
    assert sha256(tmp_path / "link") == hashlib.sha256(b"[1]").hexdigest()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that can't be searched; nothing is safe from root, so root becomes another user for a while."""
    folder, user = tmp_path / "locked", os.geteuid()
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/file.json").write_text("[]")
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


@pytest.mark.parametrize("read", [*READERS, is_folder, read_record, lambda path: write_bytes(path, b"")],
                         ids=["read_json", "sha256", "is_folder", "read_record", "write_bytes"])
def test_folder_that_cannot_be_searched(locked: Path, read: Callable) -> None:
    with pytest.raises(KitError, match=r"locked/inner/file.json: can't be read \(Permission denied\)"):
        read(locked / "inner/file.json")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "1" * 5000, "", "nul", '"\\x"', "[1"])
def test_broken_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(KitError, match=r"broken.json: is not valid JSON \(.*\), expected a test"):
        read_json(tmp_path / "broken.json", "a test")


def test_json_in_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps("ä", ensure_ascii=False).encode("latin-1"))
    with pytest.raises(KitError, match="a.json: is not valid JSON"):
        read_json(tmp_path / "a.json", "a test")
    (tmp_path / "b.json").write_bytes(json.dumps("ä", ensure_ascii=False).encode("utf-8-sig"))
    assert read_json(tmp_path / "b.json", "a test") == "ä"
