"""Share of 95 % intervals over five processes that cover the median of forty.

    python3 benchmarks/interval_coverage.py --engine rtmpose-t.engine

One engine is timed in forty fresh processes, one after the other, as by `inference.py --perf_only --repeats 40`. Then
`--repeats 5` is imitated twice: by any five processes, and by five in a row. Five in a row share the machine's state of
those minutes, so their interval is narrower, and misses more often where that state drifts.
"""

from common import Parser, amount, positive, run

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rtmpose.errors import KitError
from rtmpose.evaluate.repeats import mean_interval, measure_in_new_process

INFERENCE = str(Path(__file__).resolve().parents[1] / "inference.py")
SUBSETS = 10000


def coverage(subsets: Iterable[np.ndarray], median: float) -> str:
    """Share of subsets whose interval covers the median, and the median width of the intervals."""
    intervals = np.array([mean_interval(subset) for subset in subsets])
    covered = (intervals[:, 0] <= median) & (median <= intervals[:, 1])
    width = np.median(intervals[:, 1] - intervals[:, 0]) / 2 / median
    return f"{covered.mean():.1%} of {len(intervals)}, median half-width {width:.1%}"


def main() -> int:
    """Time the engine, and print each speed and the coverage."""
    parser = Parser(description=__doc__.splitlines()[0],
                    example="python3 benchmarks/interval_coverage.py --engine rtmpose_bs_32_fp16.engine")
    parser.add_argument("--engine", required=True, metavar="FILE", help="engine that build_engine.py wrote")
    parser.add_argument("--processes", type=positive, default=40, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N",
                        help="processes of an interval; default: %(default)s")
    parser.add_argument("--duration", type=amount, default=5.0, metavar="S",
                        help="seconds of timing in each process; default: %(default)g")
    args = parser.parse_args()
    if not 1 < args.repeats < args.processes:
        raise KitError(f"--repeats {args.repeats}: expected a number from 2 to {args.processes - 1}")
    summaries = []
    for number in range(1, args.processes + 1):
        summaries.append(measure_in_new_process([INFERENCE, "--engine", args.engine, "--perf_only",
                                                 "--duration", str(args.duration)]))
        print(f"{number}/{args.processes}: {summaries[-1]['fps']:.2f} {summaries[-1]['conditions']['verdict']}",
              flush=True)
    values, random = np.array([summary["fps"] for summary in summaries]), np.random.default_rng(0)
    median = float(np.median(values))
    print(f"median {median:.2f} persons a second, {values.min():.2f} to {values.max():.2f}; conditions: "
          f"{dict(Counter(summary['conditions']['verdict'] for summary in summaries))}")
    any_five = (random.choice(values, args.repeats, replace=False) for _ in range(SUBSETS))
    in_a_row = (values[i:i + args.repeats] for i in range(len(values) - args.repeats + 1))
    print(f"intervals of any {args.repeats} that cover it: {coverage(any_five, median)}")
    print(f"intervals of {args.repeats} in a row that cover it: {coverage(in_a_row, median)}")
    return 0


if __name__ == "__main__":
    run(main)
