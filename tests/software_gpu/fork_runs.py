"""Run inference.py many times from one process that has imported everything: fork_runs.py VARIABLE N... -- arguments.

Each run has another value N of an environment variable; prints a JSON line with its exit code and standard error.
"""

import common

import atexit
import json
import os
import sys
import tempfile

import inference


def run(variable: str, value: str, arguments: list[str]) -> dict[str, object]:
    """Fork, run inference.py, and return its exit code and standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.environ[variable] = value
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["inference.py", *arguments]
            code = common.exit_code(inference.main)
            atexit._run_exitfuncs()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return {"value": int(value), "code": os.waitstatus_to_exitcode(status), "errors": errors.read()}


if __name__ == "__main__":
    split = sys.argv.index("--")
    for number in sys.argv[2:split]:
        print(json.dumps(run(sys.argv[1], number, sys.argv[split + 1:])), flush=True)
