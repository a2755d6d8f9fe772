"""The kit's scripts in this process, and the promises that hold whatever a user gives them."""

import common

import contextlib
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO
from unittest import mock

from hypothesis import HealthCheck, settings

SECONDS = 60  # that a run may take, of a second or three in general


def fuzz(share: float) -> settings:
    """Settings of a test that takes a share of all examples: CI's fixed 200, or as many random ones as --fuzz says."""
    asked = int(os.environ.get("FUZZ_EXAMPLES", 0))
    return settings(max_examples=max(1, round(share * (asked or 200))), derandomize=not asked, deadline=None,
                    database=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Outcome:
    """Exit code and streams of a run."""

    code: int
    out: str
    err: str


def run(script: str, *arguments: object) -> Outcome:
    """Run a script's ``main``; an exception that the script doesn't turn into an exit code is raised."""
    main = importlib.import_module(script).main
    with (mock.patch.object(sys, "argv", [f"{script}.py", *map(str, arguments)]), captured("stdout", 1) as out,
          captured("stderr", 2) as err, time_limit(script)):
        try:
            code = common.exit_code(main)
        except SystemExit as error:  # of argparse
            code = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush()
        return Outcome(code, *(Path(file.name).read_text() for file in (out, err)))


@contextlib.contextmanager
def captured(name: str, descriptor: int) -> Iterator[TextIO]:
    """What Python and libraries write to a stream, in a file."""
    before = os.dup(descriptor)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="backslashreplace") as file:
        os.dup2(file.fileno(), descriptor)
        try:
            with mock.patch.object(sys, name, file):
                yield file
        finally:
            os.dup2(before, descriptor)
            os.close(before)


@contextlib.contextmanager
def time_limit(script: str) -> Iterator[None]:
    """Raise TimeoutError in a run that takes longer than :data:`SECONDS`."""
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{script} took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_safely(folder: Path, output: Path, script: str, *arguments: object) -> Outcome:
    """Run a script whose files lie in ``folder``, and check everything but the result.

    It ends with 0, or with 2 and one line, and it changes nothing in the folder but ``output``, in which it leaves
    nothing half-written.
    """
    before = snapshot(folder, output)
    outcome = run(script, *arguments)
    assert outcome.code in (0, 2), outcome
    if outcome.code == 2:
        # libjpeg's own remark on an odd header, which OpenCV prints
        lines = [line for line in outcome.err.splitlines() if not line.startswith("Warning: unknown JFIF revision")]
        assert len(lines) == 1 and lines[0].startswith(f"{script}.py: error: "), outcome
        assert lines[0].isprintable() and len(lines[0]) < 2000, outcome
    assert snapshot(folder, output) == before
    assert not list(folder.rglob("*.tmp")), list(folder.rglob("*.tmp"))
    return outcome


def snapshot(folder: Path, output: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file that is not in ``output`` nor begins with its name."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")
            if path.is_file() and not os.fspath(path).startswith(os.fspath(output))}
