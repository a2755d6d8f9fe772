"""Files that are never left half-written, files that are safe to read, and digests of their content."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError

_SEAL = "content_sha256"  # of the rest of the file


def check_output(path: str | os.PathLike[str], *inputs: str | os.PathLike[str], parents: bool = False) -> None:
    """Raise KitError, before any work, if the file ``path`` can't be written, or is one of the inputs.

    With ``parents``, its folder may be missing. Nothing is created.
    """
    path = Path(path)
    while parents and not os.path.exists(path.parent):
        path = path.parent
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise KitError(f"{path}: is {'a folder' if os.path.isdir(path) else 'no regular file'}, expected the name "
                           "of a file to write; choose another name")
        if any(os.path.exists(given) and os.path.samefile(path, given) for given in inputs):
            raise KitError(f"{path}: is an input as well, and would be lost; choose another name")
    with _folder_beside(path):
        pass


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name of a file to write, in an empty folder beside ``path``; on success it becomes ``path``.

    The folder is deleted at the end. Raises KitError if the file can't be written.
    """
    path = Path(path)
    with _folder_beside(path) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    prefix = f".{path.name}."
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=path.parent) as folder:
            yield Path(folder)
    except OSError as error:
        if error.filename and prefix not in str(error.filename):
            raise
        raise KitError(f"{path}: can't be written ({error.strerror}); choose a writable folder, or free some space"
                       ) from error


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` in one step (see :func:`atomic_write`)."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8 in one step; bytes of file names that are not valid UTF-8 are escaped."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON in one step (see :func:`atomic_write`)."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_sealed(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write ``content`` as :func:`write_json` does, with a digest of it, for :func:`read_sealed`."""
    write_json(path, {**content, _SEAL: _digest(content)})


def read_sealed(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a ``kind`` that :func:`write_sealed` wrote; raises KitError if it can't be read or is not exactly that."""
    content = read_json(path, f"a {kind}")
    if not isinstance(content, dict) or content.pop(_SEAL, None) != _digest(content):
        raise KitError(f"{path}: is no {kind} of this version of the kit, or was changed since; make it again")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_folder(folder: Path) -> Path:
    """Create a folder if it is missing, and return it; raises KitError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"{folder}: can't be created ({error.strerror}); choose another folder") from error
    return folder


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], what: str) -> Iterator[BufferedReader]:
    """A file of ``what`` to read. Raises KitError if it can't be read, or is a pipe or device, which may never end."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KitError(f"{path}: is a pipe or a device, expected a regular file of {what}; save it as a file")
            yield file
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror}), expected {what}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else it waits until someone writes into a pipe


def read_json(path: str | os.PathLike[str], what: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
              ) -> Any:
    """Read a JSON file of ``what``, e.g. ``"COCO annotations"``; raises KitError if it can't be read or is not JSON."""
    try:
        with open_regular(path, what) as file:
            return json.load(file, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path}: is not valid JSON ({error}), expected {what}; replace the file") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; raises KitError if it can't be read or is no regular file."""
    with open_regular(path, "a file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
