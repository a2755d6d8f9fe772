"""One measurement repeated in fresh processes: the median, and an interval that says how far chance moves it."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose import startup
from rtmpose.errors import EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.files import read_sealed
from rtmpose.machine.monitor import VERDICTS, add_findings, combine_conditions

CONFIDENCE = 0.95
METHOD = "Student's t on the mean of the processes"
_WIDEST = 0.05  # share of the speed: a wider interval is no result


def measure_in_new_process(command: Sequence[str]) -> dict[str, Any]:
    """Run a command of inference.py once more in a process of its own, and return its ``summary.json``.

    Raises KitError with its last line if it fails; a missed target is no failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, *command, "--repeats", "1", "--output", folder]
        done = subprocess.run(startup.child(again), check=False, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace")
        if done.returncode not in (EXIT_OK, EXIT_THROUGHPUT_MISSED):
            lines = done.stderr.strip().splitlines() or [f"a process of --repeats ended with code {done.returncode}"]
            raise KitError(lines[-1].removeprefix("inference.py: error: "))
        summary = read_sealed(Path(folder) / "summary.json", "summary.json")
        del summary["missed_targets"]  # the median counts
        return summary


def combine(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of several processes.

    ``fps`` is their median, ``conditions`` are the worst, with the reasons of all; ``repeats`` holds all speeds, their
    interval, and the conditions of each. The rest is of the process whose speed is nearest to the median. Whether the
    speed is steady is told by the interval, not by their warm-ups.
    """
    values = [summary["fps"] for summary in summaries]
    median = float(np.median(values))
    nearest = min(summaries, key=lambda summary: abs(summary["fps"] - median))
    conditions, interval = [summary["conditions"] for summary in summaries], mean_interval(values)
    combined = combine_conditions(conditions, "process", 1)
    if combined["verdict"] == "unsteady":
        steady = [one["verdict"] for one in conditions if one["verdict"] != "unsteady"]
        combined["verdict"] = max(steady, key=VERDICTS.index, default="clean")
    width = (interval[1] - interval[0]) / median
    wide = [("unsteady", f"the interval is {100 * width:.0f} % of the speed wide")] if width > _WIDEST else []
    return {**nearest, "fps": median, "conditions": add_findings(combined, wide),
            "repeats": {"values": values, "interval": interval, "confidence": CONFIDENCE, "method": METHOD,
                        "conditions": conditions}}


def mean_interval(values: Sequence[float]) -> list[float]:
    """Lower and upper end of the 95 % interval of the mean of at least two independent values, by Student's t.

    So few processes leave no other choice: the order statistics of fewer than six values can't bracket a median with
    95 % (three do it with 75 %, five with 94 %). Fresh processes as the unit, and Student's t for fewer than thirty:
    Georges, Buytaert, Eeckhout, "Statistically Rigorous Java Performance Evaluation", OOPSLA 2007, section 3.
    """
    half = students_t(len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def students_t(degrees: int) -> float:
    """Standard errors on either side of a mean that make its 95 % interval, by degrees of freedom."""
    from scipy.special import stdtrit
    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
