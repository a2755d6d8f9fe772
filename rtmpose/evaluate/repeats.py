"""Measurements in fresh processes: one repeated, with its median and how far chance moves it, or several in turns."""

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose import startup
from rtmpose.errors import EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.files import read_sealed
from rtmpose.machine.monitor import VERDICTS, add_findings, combine_conditions
from rtmpose.turns import LEAST_ROUNDS, WITHIN, Ratio, compare_sides, take_turns

CONFIDENCE = 0.95
METHOD = "Student's t on the mean of the processes"
_WIDEST = 0.05  # share of the speed: a wider interval is no result


@dataclass(frozen=True)
class Turns:
    """What was measured in turns so far."""

    rounds: list[list[dict[str, Any]]]  # the summaries of each, in the order of the sides
    ratios: list[Ratio]  # of the sides but the first to the first
    seconds_left: float  # at most


def measure_in_new_process(command: Sequence[str], python: str = sys.executable) -> dict[str, Any]:
    """Run a command of inference.py in a process of its own, by this ``python``, and return its ``summary.json``.

    Raises KitError with its last line if it fails; a missed target is no failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        again = [python, *command, "--repeats", "1", "--output", folder]
        done = subprocess.run(startup.child(again), check=False, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace")
        if done.returncode not in (EXIT_OK, EXIT_THROUGHPUT_MISSED):
            lines = done.stderr.strip().splitlines() or [f"inference.py ended with code {done.returncode}"]
            raise KitError(lines[-1].removeprefix("inference.py: error: "))
        summary = read_sealed(Path(folder) / "summary.json", "summary.json")
        del summary["missed_targets"]  # the median counts
        return summary


def measure_in_turns(sides: Sequence[Callable[[], dict[str, Any]]], rounds: int, within: float = WITHIN,
                     minutes: float = math.inf) -> Iterator[Turns]:
    """Let sides, which return a summary each, take turns; yields what is known after each round.

    It ends when no ratio's interval reaches further than ``within``, after so many rounds, or before a round that would
    end after so many minutes; the first and the last count from :data:`LEAST_ROUNDS` on.
    """
    start, passed, done = time.perf_counter(), 0.0, []
    for found in take_turns(sides):
        done.append(found)
        ratios = compare_sides([[summary["fps"] for summary in one] for one in done])
        a_round = time.perf_counter() - start - passed  # the last one: those of a sweep that goes on took no time
        passed, least = passed + a_round, max(0, LEAST_ROUNDS - len(done))
        left = max(least * a_round, min(60 * minutes - passed, (rounds - len(done)) * a_round))
        yield Turns(done, ratios, left)
        if len(done) >= rounds or not least and (left < a_round or all(ratio.reach <= within for ratio in ratios)):
            return


def combine(summaries: Sequence[dict[str, Any]], rounds: Sequence[str] = ()) -> dict[str, Any]:
    """The summary of several processes.

    ``fps`` is their median, ``conditions`` are the worst but for a quarter of them, which hardly moves the median, with
    the reasons of all; ``repeats`` holds all speeds, their interval, and the conditions of each. The rest is of the
    process whose speed is nearest to the median. Whether the speed is steady is told by the interval, not by their
    warm-ups. ``rounds`` says when each one's round began, if they took turns with others.
    """
    values = [summary["fps"] for summary in summaries]
    median = float(np.median(values))
    nearest = min(summaries, key=lambda summary: abs(summary["fps"] - median))
    conditions, interval = [summary["conditions"] for summary in summaries], mean_interval(values)
    combined = combine_conditions(conditions, "process", 1)
    verdicts = sorted((one["verdict"] for one in conditions if one["verdict"] != "unsteady"), key=VERDICTS.index)
    combined["verdict"] = (verdicts[:len(verdicts) - len(conditions) // 4] or ["clean"])[-1]
    width = (interval[1] - interval[0]) / median
    wide = [("unsteady", f"the interval is {100 * width:.0f} % of the speed wide")] if width > _WIDEST else []
    return {**nearest, "fps": median, "conditions": add_findings(combined, wide),
            "repeats": {"values": values, "interval": interval, "confidence": CONFIDENCE, "method": METHOD,
                        "conditions": conditions, "rounds": list(rounds)}}


def mean_interval(values: Sequence[float]) -> list[float]:
    """Lower and upper end of the 95 % interval of the mean of at least two independent values, by Student's t.

    See Georges, Buytaert, Eeckhout, "Statistically Rigorous Java Performance Evaluation", OOPSLA 2007, section 3.
    """
    half = students_t(len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def students_t(degrees: int) -> float:
    """Standard errors on either side of a mean that make its 95 % interval, by degrees of freedom."""
    from scipy.special import stdtrit
    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
