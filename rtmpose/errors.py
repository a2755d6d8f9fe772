"""The one error that a user can cause, and the exit codes that scripts can test."""

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_ACCURACY_MISSED = 3
EXIT_THROUGHPUT_MISSED = 4
EXIT_INVALID = 5


class KitError(Exception):
    """Something the user can put right, told in one line.

    The message names the file (or argument), what was found, what was expected and what to do.
    The scripts print it without a traceback and exit with :data:`EXIT_USER_ERROR`.
    """
