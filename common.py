"""Arguments and errors of all scripts.

The scripts import it first. It imports :mod:`rtmpose.startup` first, which sets up signals and streams; and outside the
kit's environment it ends them with a one-line error.
"""

import rtmpose.startup

import argparse
import contextlib
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rtmpose.errors import EXIT_USER_ERROR, KitError, one_line

if TYPE_CHECKING:
    from rtmpose.data.coco import DataSet


def fail(message: object) -> int:
    """Print an error as one line on standard error, and return code 2."""
    line = f"{os.path.basename(sys.argv[0])}: error: {one_line(str(message))}\n"
    with contextlib.suppress(OSError):  # nobody can read it
        os.write(2, line.encode(sys.stderr.encoding, "backslashreplace"))
    return EXIT_USER_ERROR


def require(*packages: str) -> None:
    """Exit with a one-line error and code 2 if a package is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        sys.exit(fail(f"{', '.join(missing)} not installed for {sys.executable}; run scripts/setup.sh, then: source "
                      ".venv/bin/activate"))


require("cv2", "numpy", "onnx", "psutil", "pycocotools", "simplejpeg", "tqdm")


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, and whose help ends with an example.

    A description of several lines, a module's docstring, has one itself.
    """

    def __init__(self, description: str, example: str = "", **options: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter if "\n" in description else argparse.HelpFormatter
        super().__init__(description=description, allow_abbrev=False, formatter_class=layout, **options)
        self._example = example

    def format_help(self) -> str:
        return super().format_help() + (f"\nexample:\n  {self._example}\n" if self._example else "")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse would say nothing of an output that fails

    def error(self, message: str) -> NoReturn:
        raise KitError(f"{message} (see --help)")


def add_annotations(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add --annotations and --images, which :func:`choose_data_set` takes instead of the option ``folder``."""
    parser.add_argument("--annotations", metavar="FILE",
                        help=f"instead of {folder}, together with --images: COCO person keypoints of any name")
    parser.add_argument("--images", metavar="DIR", help="the images of --annotations")


def choose_data_set(option: str, folder: str | None, annotations: str | None, images: str | None
                    ) -> "DataSet | str | None":
    """The data set that the options name, or None. Raises KitError if ``option`` and the others contradict each other.
    """
    from rtmpose.data.coco import DataSet
    if annotations is None and images is None:
        return folder
    if annotations is None or images is None or folder:
        raise KitError(f"--annotations FILE and --images DIR: belong together, and are given instead of {option}")
    return DataSet(Path(annotations), Path(images))


def choose_measured(folder: str | None, annotations: str | None, images: str | None) -> "DataSet | str | None":
    """The data set of --datasets, or of --annotations and --images, by default that of $DATASETS_DIR; may be None."""
    chosen = choose_data_set("--datasets", folder, annotations, images)
    return os.environ.get("DATASETS_DIR") if chosen is None else chosen


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


def between(least: float, most: float) -> Callable[[str], float]:
    """Argparse type: a number from ``least`` to ``most``."""
    def number(text: str) -> float:
        given = float(text)
        if not least <= given <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least:g} to {most:g}")
        return given

    return number


def boolean(text: str) -> bool:
    """Argparse type: true, 1, yes, on or false, 0, no, off."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def box(text: str) -> list[float]:
    """Argparse type: a box in pixels, as ``x,y,w,h``."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or min(numbers[2:]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,w,h: four numbers in pixels, w and h above zero")
    return numbers


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
    """Run a script's ``main`` and exit with its code (see :func:`exit_code`); signals end it at once."""
    rtmpose.startup.set_up()
    try:
        sys.exit(exit_code(main))
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # Python would try again, fail, and change the exit code
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_code(main: Callable[[], int]) -> int:
    """The code that ``main`` returns; after a KitError or an error of the system one line on standard error, and 2."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()  # here its error is reported
    except KitError as error:
        return fail(error)
    except BrokenPipeError:  # the reader of the output is gone, e.g. `| head`
        return 128 + signal.SIGPIPE
    except OSError as error:
        return fail(f"{error.filename or 'the output'}: {error.strerror or error}")
