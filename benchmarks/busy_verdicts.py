"""Verdicts on runs of one engine with and without a busy process beside them, in turns.

    python3 benchmarks/busy_verdicts.py --engine rtmpose-t.engine
"""

from common import Parser, amount, positive, run

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from rtmpose.evaluate.repeats import measure_in_new_process
from rtmpose.report.text import describe_conditions

INFERENCE = str(Path(__file__).resolve().parents[1] / "inference.py")


def main() -> int:
    """Run the engine, and print each run's speed and verdict, and their number."""
    parser = Parser(description=__doc__.splitlines()[0],
                    example="python3 benchmarks/busy_verdicts.py --engine rtmpose_bs_32_fp16.engine")
    parser.add_argument("--engine", required=True, metavar="FILE", help="engine that build_engine.py wrote")
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="of each kind; default: %(default)s")
    parser.add_argument("--duration", type=amount, default=2.0, metavar="S",
                        help="seconds of timing in each run; default: %(default)g")
    args = parser.parse_args()
    command = [INFERENCE, "--engine", args.engine, "--perf_only", "--duration", str(args.duration)]
    found: dict[str, list[dict]] = {"quiet": [], "loaded": []}
    for _ in range(args.runs):
        found["quiet"].append(measure_in_new_process(command))
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            try:
                found["loaded"].append(measure_in_new_process(command))
            finally:
                busy.kill()
        for kind, runs in found.items():
            print(f"{kind}: {runs[-1]['fps']:.2f} persons a second; {describe_conditions(runs[-1]['conditions'])}",
                  flush=True)
    for kind, runs in found.items():
        verdicts = Counter(summary["conditions"]["verdict"] for summary in runs)
        others = [summary["conditions"]["cpu"]["others_share"] for summary in runs]
        median = np.median([summary["fps"] for summary in runs])
        print(f"{kind}: {dict(verdicts)}; median {median:.2f} persons a second; others {min(others):.1%} to "
              f"{max(others):.1%} of the cores")
    return 0


if __name__ == "__main__":
    run(main)
