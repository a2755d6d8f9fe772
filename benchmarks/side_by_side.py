"""Persons a second of several engines, batch after batch in turn, on one machine in one run.

    python3 benchmarks/side_by_side.py fp32.engine int8.engine

The others are compared with the first engine. Batches are timed as by `inference.py --perf_only`.
"""

from common import Parser, positive, run

import os
from collections.abc import Callable

import numpy as np
from contest import take_turns

from rtmpose.engines import Engine, headline_timer, load_engine
from rtmpose.evaluate.throughput import throughput_input
from rtmpose.timing import finish


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
    engines = {path: load_engine(path) for path in args.engines}
    timers = {path: batch_timer(engine, args.datasets) for path, engine in engines.items()}
    samples = take_turns(timers, args.rounds)
    first = np.median(samples[args.engines[0]])
    print("| engine | runtime | precision | batch | median persons a second | ratio to the first |")
    print("|---|---|---|---|---|---|")
    for path, engine in engines.items():
        record, median = engine.record, np.median(samples[path])
        print(f"| {path} | {record.runtime} | {record.precision} | {record.batch} | {median:.1f} | "
              f"{median / first:.2f} |")
    print(f"{args.rounds} batches each, in turn; load average {os.getloadavg()[0]:.2f}")
    return 0


if __name__ == "__main__":
    run(main)
