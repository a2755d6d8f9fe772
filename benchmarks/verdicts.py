"""Verdicts on an engine beside itself, and beside itself slowed by 3 % and by 10 %: how many are right.

    python3 benchmarks/verdicts.py --model_path rtmpose-t.onnx --record verdicts.jsonl --minutes 40
    python3 benchmarks/verdicts.py --model_path rtmpose-t.onnx --record verdicts.jsonl --minutes 40 --load
    python3 benchmarks/verdicts.py --record verdicts.jsonl

Measured twice for so many minutes each: in turns, as `scripts/compare.sh A.engine B.engine` does, with all four in each
round, and in a row, as `inference.py --repeats 5` of one after the other. With --load another process keeps one core
busy, 20 s on and 30 s off. Every turn is recorded, a run adds to what there is, and the table is that of all. A verdict
takes rounds that no other takes, as many as its rule says, at most 5 minutes. If the rounds are too few for so many
verdicts, they begin at even distances and share rounds; the table says so.
"""

from common import Parser, amount, positive, run

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose import startup
from rtmpose.engines.build import build_engine, plan_build
from rtmpose.errors import KitError
from rtmpose.evaluate.repeats import measure_in_new_process, measure_in_turns
from rtmpose.report.compare import ratio_interval
from rtmpose.report.summary import markdown
from rtmpose.turns import LEAST_ROUNDS, WITHIN, Ratio, take_turns

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"the engine": 0, "itself": 0, "slowed by 3 %": 3, "slowed by 10 %": 10}
IN_A_ROW, MOST_SECONDS = 5, 300
LOAD = "import time\nwhile True:\n end = time.time() + 20\n while time.time() < end: pass\n time.sleep(30)"
Turn = tuple[float, float]  # persons a second, seconds that it took


def measure(engine: Path, duration: float, number: int = 1) -> list[Turn]:
    """So many turns of an engine, each in a fresh process."""
    turns = []
    for _ in range(number):
        start = time.perf_counter()
        summary = measure_in_new_process([str(ROOT / "inference.py"), "--engine", str(engine), "--perf_only",
                                          "--duration", str(duration)])
        turns.append((summary["fps"], time.perf_counter() - start))
    return turns


def record_rounds(model: str, duration: float, minutes: float, load: bool, record: Path) -> None:
    """Add rounds to the record: for so many minutes in turns, and for as many in a row."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as beside:
        engines = [Path(folder) / f"slowed_{percent}.engine" for percent in SIDES.values()]
        for engine in dict.fromkeys(engines):
            build_engine(plan_build(model, engine, 8, "fp32", str(ROOT / "benchmarks/slowed.py")))
        if load:
            busy = subprocess.Popen(startup.child([sys.executable, "-c", LOAD]))
            beside.callback(busy.kill)
        for way, number in (("in turns", 1), ("in a row", IN_A_ROW)):
            start, seed = time.perf_counter(), len(read_rounds(record))
            for found in take_turns([partial(measure, engine, duration, number) for engine in engines], seed):
                with open(record, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"way": way, "load": load, "duration": duration, "turns": found}) + "\n")
                passed = (time.perf_counter() - start) / 60
                print(f"{way}: {passed:.1f} of {minutes:g} min", flush=True)
                if passed >= minutes:
                    break


def read_rounds(record: Path) -> list[dict[str, Any]]:
    """The recorded rounds."""
    return [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []


def judge_turns(rounds: Sequence[tuple[Turn, Turn]]) -> tuple[str, float, int] | None:
    """The verdict on two sides that take turns until the rule ends it or 5 minutes are used up, its seconds and its
    rounds; None if the record ends before."""
    seconds = np.cumsum([one[1] + two[1] for one, two in rounds])
    most = min(len(rounds), max(LEAST_ROUNDS, int(np.searchsorted(seconds, MOST_SECONDS, "right"))))
    sides = [partial(next, iter([{"fps": turns[side][0]} for turns in rounds])) for side in (0, 1)]
    *_, last = measure_in_turns(sides, most)
    (ratio,), used = last.ratios, len(last.rounds)
    ended = ratio.reach <= WITHIN or used == most < len(rounds)
    return (ratio.verdict, float(seconds[used - 1]), used) if ended else None


def judge_row(one: Sequence[Turn], two: Sequence[Turn]) -> Ratio:
    """The ratio of two results of --repeats, as compare.py compares them."""
    base, other = ([fps for fps, _ in turns] for turns in (one, two))
    return Ratio(float(np.median(other) / np.median(base)), ratio_interval(base, other))


def judge_all(rounds: Sequence[dict[str, Any]], side: int, number: int) -> tuple[list[tuple[str, float]], str]:
    """At most ``number`` verdicts on a side, each with the seconds that it took, and a note if they share rounds."""
    if rounds[0]["way"] == "in a row":
        rows = [(one["turns"][0], one["turns"][side]) for one in rounds[:number]]
        return [(judge_row(*row).verdict, sum(turn[1] for turns in row for turn in turns)) for row in rows], ""
    pairs = [(one["turns"][0][0], one["turns"][side][0]) for one in rounds]
    verdicts, begin = [], 0
    while len(verdicts) < number and begin < len(pairs) and (found := judge_turns(pairs[begin:])):
        verdicts.append(found)
        begin += found[2]
    note = ""
    if len(verdicts) < number:
        begins = np.unique(np.linspace(0, len(pairs) - 1, number).astype(int))
        verdicts, note = [found for begin in begins if (found := judge_turns(pairs[begin:]))], " (share rounds)"
    return [found[:2] for found in verdicts], note


def table(record: Path, number: int) -> str:
    """The verdicts of all that was recorded, as a Markdown table."""
    rows, rounds = [], read_rounds(record)
    for load in (False, True):
        for way in ("in turns", "in a row"):
            chosen = [one for one in rounds if (one["load"], one["way"]) == (load, way)]
            for side, name in list(enumerate(SIDES))[1:] if chosen else []:
                judged, note = judge_all(chosen, side, number)
                found = Counter(verdict for verdict, _ in judged)
                rows.append({"Load beside": "20 s of 50" if load else "none", "Measured": way, "Engine beside": name,
                             "Verdicts": f"{len(judged)}{note}", **{verdict: str(found[verdict]) for verdict in
                                                              ("faster", "slower", "can't tell")},
                             "Median s": f"{np.median([seconds for _, seconds in judged]):.0f}" if judged else "-"})
    if not rows:
        raise KitError(f"{record}: has no round, expected some; give --model_path and --minutes")
    return markdown(rows)


def main() -> int:
    """Measure, if asked to, and print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model_path", metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--record", required=True, type=Path, metavar="FILE", help="every turn, one round a line")
    parser.add_argument("--minutes", type=amount, metavar="N", help="of each of the two ways; default: only the table")
    parser.add_argument("--load", action="store_true", help="a process beside keeps a core busy, 20 s on and 30 s off")
    parser.add_argument("--duration", type=amount, default=1.0, metavar="S",
                        help="seconds of timing in each turn; default: %(default)g")
    parser.add_argument("--verdicts", type=positive, default=40, metavar="N", help="at most; default: %(default)s")
    args = parser.parse_args()
    if (args.model_path is None) != (args.minutes is None):
        raise KitError("--model_path FILE.onnx and --minutes N: belong together")
    if args.minutes:
        record_rounds(args.model_path, args.duration, args.minutes, args.load, args.record)
    print(table(args.record, args.verdicts))
    return 0


if __name__ == "__main__":
    run(main)
