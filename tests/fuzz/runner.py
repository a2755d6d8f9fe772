"""A script on damaged files, and the promises that hold whatever a user gives it."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import FrameType

from helpers import run_script
from hypothesis import HealthCheck, settings

SECONDS = 60  # that a run may take, of a second or three in general


def fuzz(share: float) -> settings:
    """Settings of a test that takes a share of all examples: CI's fixed 200, or as many random ones as --fuzz says."""
    asked = int(os.environ.get("FUZZ_EXAMPLES", 0))
    return settings(max_examples=max(1, round(share * (asked or 200))), derandomize=not asked, deadline=None,
                    database=None, suppress_health_check=list(HealthCheck))


def run_safely(folder: Path, output: Path, script: str, *arguments: object) -> CompletedProcess[str]:
    """Run a script whose files lie in ``folder``, and check everything but the result.

    It ends in time, with 0, or with 2 and one line, and it changes nothing in the folder but ``output``, in which it
    leaves nothing half-written. An exception that it doesn't turn into an exit code is raised.
    """
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{script} took longer than {SECONDS} s")

    before = snapshot(folder, output)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        done = run_script(f"{script}.py", *arguments)
    finally:
        signal.alarm(0)
    assert done.returncode in (0, 2), done
    if done.returncode == 2:
        # libjpeg's own remark on an odd header, which OpenCV prints
        lines = [line for line in done.stderr.splitlines() if not line.startswith("Warning: unknown JFIF revision")]
        assert len(lines) == 1 and lines[0].startswith(f"{script}.py: error: "), done
        assert lines[0].isprintable() and len(lines[0]) < 2000, done
    assert snapshot(folder, output) == before
    assert not list(folder.rglob("*.tmp"))
    return done


def snapshot(folder: Path, output: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of each file that is not in ``output`` nor begins with its name."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")
            if path.is_file() and not os.fspath(path).startswith(os.fspath(output))}


@contextlib.contextmanager
def damaged(path: Path, content: bytes | str) -> Iterator[None]:
    """A file with other content, which it loses at the end."""
    original = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        yield
    finally:
        path.write_bytes(original)
