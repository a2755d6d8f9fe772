"""Files that are never left half-written, and digests of their content."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError

_pending: set[Path] = set()
_SEAL = "content_sha256"  # of the rest of the file


@contextlib.contextmanager
def temporary_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty temporary file in the folder of ``path``, deleted at the end; raises KitError if it can't be written."""
    path = Path(path)
    if path.is_dir():
        raise KitError(f"{path}: is a folder, expected the name of a file to write; choose another name")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise KitError(f"{path}: can't be written ({error.strerror}); choose a writable folder") from error
    temporary = Path(name)
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
        _pending.discard(temporary)


def put_in_place(temporary: Path, path: str | os.PathLike[str]) -> None:
    """Rename a temporary file to ``path``, with the permissions that the umask gives to new files."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # mkstemp's files are readable by their owner only
    temporary.replace(path)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file that becomes ``path`` on success; raises KitError as :func:`temporary_beside` does."""
    with temporary_beside(path) as temporary:
        yield temporary
        put_in_place(temporary, path)


def remove_pending() -> None:
    """Delete all temporary files; called when the process is interrupted."""
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


def write_sealed(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write ``content`` as :func:`write_json` does, with a digest of it, for :func:`read_sealed`."""
    write_json(path, {**content, _SEAL: _digest(content)})


def read_sealed(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a ``kind`` that :func:`write_sealed` wrote; raises KitError if it can't be read or is not exactly that."""
    content = read_json(path, f"a {kind}")
    if not isinstance(content, dict) or content.pop(_SEAL, None) != _digest(content):
        raise KitError(f"{path}: is no {kind} of this version of the kit, or was changed since; build the engine again")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_output(path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Raise KitError, before any work, if ``path`` is no name for a new file or that of one of the inputs."""
    path = Path(path)
    try:
        if not path.exists():
            os.stat(f"{path.parent}/.")  # with the dot, a file is an error as well
        elif not path.is_file():
            raise KitError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, expected the name of a "
                           "file to write; choose another name")
        elif any(path.samefile(given) for given in inputs if Path(given).exists()):
            raise KitError(f"{path}: is an input as well, and would be lost; choose another name")
    except OSError as error:
        raise KitError(f"{path}: can't be written ({error.strerror}); choose a folder that is there") from error


def make_folder(folder: Path) -> Path:
    """Create a folder if it is missing, and return it; raises KitError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"{folder}: can't be created ({error.strerror}); choose another folder") from error
    return folder


def read_json(path: str | os.PathLike[str], what: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
              ) -> Any:
    """Read a JSON file of ``what``, e.g. ``"COCO annotations"``; raises KitError if it can't be read or is not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror}), expected {what}") from error
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path}: is not valid JSON ({error}), expected {what}; fetch it again") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; raises KitError if it is missing or unreadable."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror})") from error
    return digest.hexdigest()
