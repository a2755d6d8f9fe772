"""The error that a user can fix, and the exit codes that scripts can test."""

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_ACCURACY_MISSED = 3
EXIT_THROUGHPUT_MISSED = 4
EXIT_INVALID = 5
EXIT_SLOWER = 6


class KitError(Exception):
    """A problem that the user can fix; the scripts print its message and exit with :data:`EXIT_USER_ERROR`.

    The message is one line. It names the file or argument, what was found, what was expected and what to do.
    """
