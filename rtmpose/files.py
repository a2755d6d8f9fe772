"""Files that are never left half-written, files that are safe to read, and digests of their content."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rtmpose.errors import KitError

_SEAL = "content_sha256"  # of the rest of the file


@contextlib.contextmanager
def temporary_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty temporary file in the folder of ``path``, deleted at the end; raises KitError if it can't be written."""
    path = Path(path)
    check_name(path)
    try:
        _remove_leftovers(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks: it is never taken for a leftover
            fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed, also by a killed process
    except OSError as error:
        raise KitError(f"{path}: can't be written ({error.strerror}); choose a writable folder") from error
    temporary = Path(name)
    try:
        yield temporary
    except OSError as error:
        if error.filename is not None and Path(error.filename) != temporary:
            raise
        raise KitError(f"{path}: can't be written ({error.strerror}); free some space or choose another folder"
                       ) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Delete the temporary files of ``path`` that no process holds: those of killed ones."""
    for leftover in path.parent.iterdir():
        if leftover.name.startswith(f".{path.name}.") and leftover.suffix == ".tmp":
            with contextlib.suppress(OSError), open(leftover, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()


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


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder in the system's folder for temporary files, deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="rtmpose-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` in one step (see :func:`atomic_write`)."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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


def check_name(path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Raise KitError if ``path`` is no name for a file to write, or is one of the inputs; nothing is written."""
    if (mode := file_mode(path)) and not stat.S_ISREG(mode):
        raise KitError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}, expected the name of a "
                       "file to write; choose another name")
    if mode and any(is_regular(given) and os.path.samefile(path, given) for given in inputs):
        raise KitError(f"{path}: is an input as well, and would be lost; choose another name")
    try:
        os.stat(f"{Path(path).parent}/.")  # with the dot, a file is an error as well
    except OSError as error:
        raise KitError(f"{path}: can't be written ({error.strerror}); choose a writable folder") from error


def check_output(path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Raise KitError, before any work, if ``path`` can't be written, or is one of the inputs."""
    check_name(path, *inputs)
    with temporary_beside(path):
        pass


def make_folder(folder: Path) -> Path:
    """Create a folder if it is missing, and return it; raises KitError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"{folder}: can't be created ({error.strerror}); choose another folder") from error
    return folder


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], what: str) -> Iterator[BinaryIO]:
    """A file of ``what`` to read. Raises KitError if it can't be read, or is a pipe or device, which may never end."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KitError(f"{path}: is a pipe or a device, expected a regular file of {what}; save it as a file")
            yield file
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror}), expected {what}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # open(2) waits until someone writes into a pipe


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a folder; raises KitError as :func:`file_mode` does."""
    return stat.S_ISDIR(file_mode(path))


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a regular file; raises KitError as :func:`file_mode` does."""
    return stat.S_ISREG(file_mode(path))


def file_mode(path: str | os.PathLike[str]) -> int:
    """A file's ``st_mode``, 0 if there is none; raises KitError if a folder above it can't be searched."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror}); check the path and its permissions") from error


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise KitError if files can't be written into a folder, which may be missing; nothing is created."""
    folder = Path(folder)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise KitError(f"{folder}: can't be written ({error.strerror}), expected a folder; choose another one"
                       ) from error


def read_json(path: str | os.PathLike[str], what: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
              ) -> Any:
    """Read a JSON file of ``what``, e.g. ``"COCO annotations"``; raises KitError if it can't be read or is not JSON."""
    try:
        with open_regular(path, what) as file:
            return json.load(file, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path}: is not valid JSON ({error}), expected {what}; fetch it again") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; raises KitError if it can't be read or is no regular file."""
    digest = hashlib.sha256()
    with open_regular(path, "a file") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
