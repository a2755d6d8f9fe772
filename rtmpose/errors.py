"""The error that a user can fix, and the exit codes that scripts can test."""

import contextlib
import re
from collections.abc import Iterator

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_ACCURACY_MISSED = 3
EXIT_THROUGHPUT_MISSED = 4
EXIT_INVALID = 5
EXIT_SLOWER = 6


def one_line(text: str) -> str:
    """``text`` with its control characters escaped, so that it stays one line and can't move a terminal's cursor."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class KitError(Exception):
    """A problem that the user can fix; the scripts print its message and exit with :data:`EXIT_USER_ERROR`.

    The message is one line. It names the file or argument, what was found, what was expected and what to do.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def first_line(error: object, length: int = 200) -> str:
    """The first line of an error of another library, or its type if it has no text, cut to ``length`` characters."""
    text = re.sub(r"^.*/onnxruntime_src/.*\) (?=[A-Z[])", "", str(error))  # ONNX Runtime's C++ signature
    lines = text.strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Exception from "):  # OpenVINO names its source files first, and where its manual is last
        lines = [line.removeprefix("-- ") for line in reversed(lines) if "https:" not in line]
    return lines[0][:length]


@contextlib.contextmanager
def explained(problem: str, advice: str) -> Iterator[None]:
    """Raise KitError for whatever another library, or a config, raises inside: what failed, the reason, what to do."""
    try:
        yield
    except KitError:
        raise
    except BaseException as error:  # a config is Python, it can raise anything and call sys.exit
        kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        raise KitError(f"{problem} ({kind}{first_line(error)}); {advice}") from error
