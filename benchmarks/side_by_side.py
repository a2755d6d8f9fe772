"""Persons a second of several engines, batch after batch in turn, on one machine in one run.

    python3 benchmarks/side_by_side.py fp32.engine int8.engine

The first engine is what the others are compared with. What is timed is what `inference.py --perf_only` times.
"""

from common import Parser, positive, run

import os
from collections.abc import Callable

import numpy as np
from contest import take_turns

from rtmpose.engines import Engine, headline_timer, load_engine
from rtmpose.evaluate.throughput import throughput_input


def batch_timer(engine: Engine, folder: str | None) -> Callable[[], float]:
    """What times one batch and gives persons a second."""
    crops, _ = throughput_input(folder, engine)
    timer = headline_timer(engine, crops)

    def time_batch() -> float:
        # Not counted: the threads of the engine before this one may still be waiting for work at full speed.
        timer()
        return engine.record.batch / timer() * 1e3

    return time_batch


def main() -> int:
    """Measure and print."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="+", metavar="ENGINE", help="what build_engine.py wrote")
    parser.add_argument("--datasets", metavar="DIR", help="take real crops from this set; default: random pixels")
    parser.add_argument("--rounds", type=positive, default=30, metavar="N", help="batches each; default: %(default)s")
    args = parser.parse_args()
    engines = {path: load_engine(path) for path in args.engines}
    timers = {path: batch_timer(engine, args.datasets) for path, engine in engines.items()}
    samples = take_turns(timers, args.rounds)
    first = np.median(samples[args.engines[0]])
    print("| engine | runtime | precision | batch | persons a second, median | to the first |")
    print("|---|---|---|---|---|---|")
    for path, engine in engines.items():
        record, median = engine.record, np.median(samples[path])
        print(f"| {path} | {record.runtime} | {record.precision} | {record.batch} | {median:.1f} | "
              f"{median / first:.2f} |")
    print(f"{args.rounds} batches each, in turn; load average {os.getloadavg()[0]:.2f}")
    return 0


if __name__ == "__main__":
    run(main)
