"""Persons a second of several engines, batch after batch in turn, on one machine in one run.

    python3 benchmarks/side_by_side.py fp32.engine int8.engine

The others are compared with the first engine. Batches are timed as by `inference.py --perf_only`.
"""

from common import Parser, positive, run

import itertools
import os
from collections.abc import Callable

import numpy as np

from rtmpose.engines import Engine, headline_timer, load_engine
from rtmpose.evaluate.throughput import throughput_input
from rtmpose.report.summary import figure, markdown
from rtmpose.timing import finish
from rtmpose.turns import Ratio, compare_sides, take_turns


def batch_timer(engine: Engine, folder: str | None) -> Callable[[], float]:
    """A function that times one batch and returns persons a second."""
    crops, _ = throughput_input(folder, engine)
    timer = headline_timer(engine, crops)

    def time_batch() -> float:
        timer()  # not counted: the previous engine's threads may still be busy waiting for work
        milliseconds = timer()
        finish(timer)
        return engine.record.batch / milliseconds * 1e3

    return time_batch


def main() -> int:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("engines", nargs="+", metavar="ENGINE", help="engine that build_engine.py wrote")
    parser.add_argument("--datasets", metavar="DIR", help="data set that crops are taken from; default: random input")
    parser.add_argument("--rounds", type=positive, default=30, metavar="N",
                        help="batches an engine; default: %(default)s")
    args = parser.parse_args()
    engines = [load_engine(path) for path in args.engines]
    speeds = list(itertools.islice(take_turns([batch_timer(engine, args.datasets) for engine in engines]), args.rounds))
    ratios, medians = [Ratio(1, None), *compare_sides(speeds)], np.median(speeds, axis=0)
    print(markdown([{
        "engine": engine.path, "runtime": engine.record.runtime, "precision": engine.record.precision,
        "batch": str(engine.record.batch), "median persons a second": f"{median:.1f}",
        "ratio to the first": figure(ratio.value, ".2f", ratio.interval)}
        for engine, median, ratio in zip(engines, medians, ratios, strict=True)]))
    print(f"{args.rounds} batches each, in turn; load average {os.getloadavg()[0]:.2f}")
    return 0


if __name__ == "__main__":
    run(main)
