"""Argument parsing, errors and interrupts, for all scripts.

The scripts import it first, so that outside the kit's environment they end with a one-line error.
"""

import argparse
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from rtmpose.errors import EXIT_USER_ERROR, KitError
from rtmpose.files import remove_pending


def require(*packages: str) -> None:
    """Exit with a one-line error and code 2 if a package is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        print(f"{os.path.basename(sys.argv[0])}: error: {', '.join(missing)} not installed for {sys.executable}; run "
              "scripts/setup.sh, then: source .venv/bin/activate", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


require("cv2", "numpy", "onnx", "pycocotools", "simplejpeg", "tqdm")


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message} (see --help)\n")


def positive(text: str) -> int:
    """Argparse type: an integer above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def amount(text: str) -> float:
    """Argparse type: a number above zero, at most a million."""
    number = float(text)
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above zero and at most a million")
    return number


def boolean(text: str) -> bool:
    """Argparse type: true, 1, yes, on or false, 0, no, off."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def input_shape(text: str) -> tuple[str, tuple[int, int, int, int]]:
    """Argparse type: name and shape of the input, as ``name:N,3,H,W``."""
    name, _, sizes = text.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:N,3,H,W, e.g. input:32,3,256,192")
    return name, shape


def run(main: Callable[[], int]) -> None:
    """Run a script's ``main`` and exit with its code (see :func:`exit_code`).

    Ctrl-C and SIGTERM end the process at once, with code 130 and 143, even while native code runs: a thread waits for
    the signal, removes temporary files and exits.
    """
    _exit_on_signals()
    sys.exit(exit_code(main))


def exit_code(main: Callable[[], int]) -> int:
    """The code that ``main`` returns; after a KitError one line on standard error, and 2."""
    try:
        return main()
    except KitError as error:
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:  # the reader of the output is gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _exit_on_signals() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        number = os.read(reader, 1)[0]
        remove_pending()
        os.write(sys.stderr.fileno(), f"\n{os.path.basename(sys.argv[0])}: interrupted\n".encode())
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()
