"""Signals and streams of a running script, set up before anything that is slow to import."""

import ctypes
import io
import os
import signal
import sys
from collections.abc import Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_CHILD = (f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {signal.SIGTERM.value}); "
          "os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])")


def set_up() -> None:
    """Let signals end this process at once, even while native code runs, and let its streams take any text."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python leaves the others alone; nohup ignores SIGHUP
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)


def child(command: Sequence[str]) -> list[str]:
    """A command line that runs ``command``, and is ended by the system when this process ends, however that happens."""
    return [sys.executable, "-I", "-S", "-c", _CHILD, str(os.getpid()), *command]


def end_with_parent() -> None:
    """Let this child of multiprocessing end at once by a signal, and when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


# A test that imports a script keeps its own signals and streams.
if os.path.dirname(os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "/")) in (
        ROOT, *(os.path.join(ROOT, folder) for folder in ("scripts", "demo", "benchmarks"))):
    set_up()
