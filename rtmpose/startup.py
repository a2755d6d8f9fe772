"""Signals and streams of a running script, set up before anything that is slow to import."""

import contextlib
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # each ends a script, with code 128 + its number
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
cleanups: list[Callable[[], None]] = []  # called when a signal ends the script
_is_set_up = False


def set_up() -> None:
    """Let signals end this process at once, and let its streams take any text; once.

    SIGINT, SIGTERM and SIGHUP end it even while native code runs: a thread waits for the signal, ends
    the child processes, calls :data:`cleanups` and exits.
    """
    global _is_set_up
    if not _is_set_up:
        _is_set_up = True
        _open_streams()
        _exit_on_signals()


def _open_streams() -> None:
    """Open closed streams on /dev/null. Print each line when it is complete, and escape what can't be encoded."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)


def _exit_on_signals() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_exit_on_signal, args=(reader,), daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, lambda *_: time.sleep(60))  # the main thread begins nothing more
    os.register_at_fork(after_in_child=_forget_signals)


def _forget_signals() -> None:
    """Let signals end a forked child as usual: it shares the pipe, and has no thread that waits."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)


def _exit_on_signal(pipe: int) -> None:
    while (number := os.read(pipe, 1)[0]) not in SIGNALS:
        pass
    try:
        _end_children()
        for clean in cleanups:
            clean()
        # A full pipe would block. torchrun itself says so, and each of its ranks would.
        if "RANK" not in os.environ and select.select([], [2], [], 0)[1]:
            name = os.path.basename(sys.argv[0])
            os.write(2, f"\n{name}: interrupted\n".encode(errors="backslashreplace"))
    finally:
        os._exit(128 + number)


def _end_children() -> None:
    """Ask the child processes to end, and kill those that are still there after a second."""
    end = time.monotonic() + 1
    _send(signal.SIGTERM, _children())
    while (left := _children()) and time.monotonic() < end:
        time.sleep(0.02)
    _send(signal.SIGKILL, left)


def _send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children() -> list[int]:
    """Child processes that run, as Linux lists them in /proc."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", errors="replace") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) == os.getpid():
                found.append(int(pid))
    return found


# A test that imports a script keeps its own signals and streams.
if os.path.dirname(os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "/")) in (
        ROOT, *(os.path.join(ROOT, folder) for folder in ("scripts", "demo", "benchmarks"))):
    set_up()
