"""Files that can be read, and those that can't."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtmpose.errors import KitError
from rtmpose.files import atomic_write, check_output, read_json, read_sealed, sha256, write_bytes, write_sealed

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


@pytest.mark.parametrize("use", [*READERS, lambda path: write_bytes(path, b""), check_output],
                         ids=["read_json", "sha256", "write_bytes", "check_output"])
def test_folder_that_cannot_be_searched(locked: Path, use: Callable) -> None:
    with pytest.raises(KitError, match=r"locked/inner/file.json: can't be (read|written) \(Permission denied\)"):
        use(locked / "inner/file.json")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode
    for error, raised in ((OSError(28, "No space left on device"), KitError), (OSError(5, "No", "other"), OSError)):
        with (pytest.raises(raised, match="file: can't be written .No space|other"),
              atomic_write(tmp_path / "file") as new):
            new.write_bytes(b"half")
            raise error
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other"}
    assert (tmp_path / "file").read_bytes() == b"old"
    with atomic_write(tmp_path / "file") as first, atomic_write(tmp_path / "file") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_an_output_is_checked_without_a_trace(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    check_output(tmp_path / "a/b/new", parents=True)
    assert list(tmp_path.iterdir()) == []
    for path, parents in ((tmp_path / "a/new", False), ("/proc/a/new", True), (tmp_path / ("x" * 300), False)):
        with pytest.raises(KitError, match="can't be written"):
            check_output(path, parents=parents)


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


def test_digest_survives_a_round_trip_and_notices_an_edit(tmp_path: Path) -> None:
    path, content = tmp_path / "summary.json", {"AP": 0.1 + 0.2, "AP50": 1e-300, "inputs": {"ä": "0" * 64}}
    write_sealed(path, content)
    assert read_sealed(path, "summary.json") == content
    found = json.loads(path.read_text())
    for edited in ({**found, "AP": 0.9}, {**found, "new": 1}, *({k: v for k, v in found.items() if k != left}
                                                                 for left in ("AP50", "content_sha256"))):
        path.write_text(json.dumps(edited))
        with pytest.raises(KitError, match="is no summary.json of this version of the kit, or was changed since"):
            read_sealed(path, "summary.json")
