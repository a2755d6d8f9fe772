"""Files: nothing half-written is left behind, and every file can be named by its content."""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError

_pending: set[Path] = set()
_pending_lock = threading.Lock()


@contextlib.contextmanager
def temporary_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of an empty temporary file in the folder of ``path``; delete it afterwards, if it is still there.

    Raises:
        KitError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise KitError(f"{path}: is a folder, expected the name of a file to write; choose another name")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise KitError(f"{path}: can't be written ({error.strerror}); choose a writable folder") from error
    temporary = Path(name)
    with _pending_lock:
        _pending.add(temporary)
    try:
        yield temporary
    except OSError as error:
        if error.filename is not None and Path(error.filename) != temporary:
            raise
        raise KitError(f"{path}: can't be written ({error.strerror}); free some space or choose another folder"
                       ) from error
    finally:
        temporary.unlink(missing_ok=True)
        with _pending_lock:
            _pending.discard(temporary)


def put_in_place(temporary: Path, path: str | os.PathLike[str]) -> None:
    """Give a temporary file its name, and the permissions that new files have."""
    # mkstemp makes files that only their owner can read; what is left should be as the umask says.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(path)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it into place on success, delete it otherwise.

    Raises:
        KitError: as :func:`temporary_beside`.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        put_in_place(temporary, path)


def remove_pending() -> None:
    """Delete every temporary file that is being written: called when the process is interrupted."""
    for temporary in list(_pending):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` in one step (see :func:`atomic_write`)."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON in one step (see :func:`atomic_write`)."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def make_folder(folder: Path) -> Path:
    """Make a folder if it is not there, and give it back.

    Raises:
        KitError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"{folder}: can't be made ({error.strerror}); choose another folder") from error
    return folder


def read_json(path: str | os.PathLike[str], what: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
              ) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: names its content in the error, e.g. ``"COCO annotations"``.
        object_hook: as :func:`json.load` takes it.

    Raises:
        KitError: the file is missing, unreadable or not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror}), expected {what}") from error
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path}: is not valid JSON ({error}), expected {what}; fetch it again") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits.

    Raises:
        KitError: the file is missing or unreadable.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror})") from error
    return digest.hexdigest()
