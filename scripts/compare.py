"""Compare results, or engines that are measured now in turns, with the first of them: faster, slower, or can't tell.
Of one result, print the table.

scripts/compare.sh runs it.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, amount, between, positive, run

import argparse
import shutil
from collections.abc import Sequence
from functools import partial

from rtmpose.engines.record import INDEX, record_path
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_OK, EXIT_SLOWER, KitError
from rtmpose.evaluate.repeats import measure_in_new_process, measure_in_turns
from rtmpose.files import check_output, make_folder, write_sealed, write_text
from rtmpose.report.compare import compare, exit_code, parse_prices, report_text
from rtmpose.report.page import draw_page
from rtmpose.report.results import read_results
from rtmpose.report.turns import describe_turns, round_line, turns_text
from rtmpose.turns import LEAST_ROUNDS

ROOT = Path(__file__).resolve().parents[1]
# Options that only one of the two kinds takes: the other refuses them.
OF_RESULTS = ("annotations", "price", "fail_if_worse")
OF_ENGINES = ("within", "rounds", "minutes", "duration", "end_to_end", "kit", "python")


def parse_arguments() -> argparse.Namespace:
    """The command line. Raises KitError if its options contradict each other."""
    parser = Parser(description="Compare results with the first of them: speed, AP, keypoints, energy, cost. Of one "
                                "result, print the table. Engines are measured now, in turns.",
                    epilog="Exit codes: 0 done, 2 user error or something can't be compared, "
                           f"{EXIT_ACCURACY_MISSED} --fail_if_worse, {EXIT_SLOWER} --fail_if_slower, 130 interrupted.",
                    example="python3 scripts/compare.py results/base results/new --fail_if_slower\n"
                            "  python3 scripts/compare.py fp32.engine int8.engine --minutes 2")
    parser.add_argument("results", nargs="+", metavar="RESULT",
                        help="summary.json or its folder, or a sweep's folder; the first is the base. The accuracy and "
                             "the throughput run of one engine are one result: two files, or a folder with both. Or "
                             "else: engines that build_engine.py wrote")
    parser.add_argument("--output", metavar="DIR", type=Path,
                        help="write compare.html and compare.md; of engines, compare.md and turns.json")
    parser.add_argument("--fail_if_slower", action="store_true",
                        help=f"exit code {EXIT_SLOWER} if a result is slower than the base; \"can't tell\" is not")
    results = parser.add_argument_group("results")
    results.add_argument("--annotations", metavar="FILE",
                         help="annotation file that AP was measured on; default: the path in the summaries")
    results.add_argument("--price", action="append", default=[], metavar="NAME=USD_PER_HOUR",
                         help="price of a result's machine, for persons a dollar; NAME as in the table; repeatable")
    results.add_argument("--fail_if_worse", type=between(0, 1), metavar="AP",
                         help=f"exit code {EXIT_ACCURACY_MISSED} if AP is more than this below the base's, e.g. 0.005")
    engines = parser.add_argument_group("engines")
    engines.add_argument("--within", type=between(0.1, 100), default=2.0, metavar="PERCENT",
                         help="measure until every ratio's interval reaches at most so far to either side; default: "
                              "%(default)g")
    engines.add_argument("--rounds", type=positive, default=100, metavar="N",
                         help=f"at most N turns of each engine, at least {LEAST_ROUNDS}; default: %(default)s")
    engines.add_argument("--minutes", type=amount, default=5.0, metavar="N",
                         help=f"at most so long, but {LEAST_ROUNDS} rounds; default: %(default)g")
    engines.add_argument("--duration", type=between(0, 1e6), default=1.0, metavar="S",
                         help="seconds of timing in each turn; default: %(default)g")
    engines.add_argument("--end_to_end", metavar="DIR",
                         help="measure from this data set's image files to keypoints, not the engine alone")
    engines.add_argument("--kit", nargs="+", metavar="DIR",
                         help="the kit that runs each engine, another checkout say: as many as engines, in their order")
    engines.add_argument("--python", nargs="+", metavar="FILE",
                         help="the interpreter that runs each engine, another environment's say; as --kit")
    args = parser.parse_args()
    measured = any(Path(path).is_file() and record_path(path).is_file() or Path(path, INDEX).is_file()
                   for path in args.results)
    kind, others = ("engines", OF_RESULTS) if measured else ("results", OF_ENGINES)
    for name in others:
        if getattr(args, name) != parser.get_default(name):
            raise KitError(f"--{name}: has no effect on {kind}, leave it out")
    args.measured = measured
    return args


def main() -> int:
    """Compare, print the table, write the page."""
    args = parse_arguments()
    if args.output:
        check_output(args.output / "compare.md", parents=True)
    if args.measured:
        mode = ["--datasets", args.end_to_end] if args.end_to_end else ["--perf_only", "--duration", str(args.duration)]
        sides = name_sides(args.results, args.kit, args.python)
        return compare_engines(sides, mode, args.within / 100, args.rounds, args.minutes, args.output,
                               args.fail_if_slower)
    results = read_results(args.results)
    if len(results) == 1 and (args.fail_if_slower or args.fail_if_worse is not None):
        raise KitError("one result, expected two or more: the base, and what to compare with it")
    report = compare(results, args.annotations, parse_prices(args.price, [cells[0].label for cells in results]))
    text = report_text(report)
    print(text)
    if args.output:
        write_text(make_folder(args.output) / "compare.md", f"{text}\n")
        write_text(args.output / "compare.html", draw_page(report))
        print(f"\nPage: {args.output / 'compare.html'}; also compare.md")
    return exit_code(report, args.fail_if_slower, args.fail_if_worse)


def name_sides(engines: Sequence[str], kits: Sequence[str] | None, pythons: Sequence[str] | None
               ) -> list[dict[str, str]]:
    """Engine of each side, and kit and interpreter if they are given. Raises KitError if one isn't there or can't be
    measured."""
    for option, given in (("--kit", kits), ("--python", pythons)):
        if given and len(given) != len(engines):
            raise KitError(f"{option} {' '.join(given)}: expected one for each engine, in their order: {len(engines)}")
    for engine in engines:
        if Path(engine).is_dir() or Path(engine).name == INDEX:
            raise KitError(f"{engine}: expected an engine file that runs here; a folder of --backend files or of "
                           "results has nothing to run")
        if not record_path(engine).is_file():
            raise KitError(f"{engine}: is no engine with its record beside it, as the others are; build it with "
                           "build_engine.py")
    for kit in kits or []:
        if not Path(kit, "inference.py").is_file():
            raise KitError(f"--kit {kit}: has no inference.py, expected a checkout of the kit")
    for python in pythons or []:
        if shutil.which(python) is None:
            raise KitError(f"--python {python}: can't be run, expected an environment's interpreter, e.g. "
                           ".venv/bin/python")
    columns = {name: given for name, given in (("engine", engines), ("kit", kits), ("python", pythons)) if given}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def compare_engines(sides: Sequence[dict[str, str]], mode: Sequence[str], within: float, rounds: int, minutes: float,
                    output: Path | None, fail_if_slower: bool) -> int:
    """Measure engines in turns, print the table, write it, and return the exit code."""
    if len(sides) == 1:
        raise KitError("one engine, expected two or more: the base, and what to compare with it")
    if rounds < LEAST_ROUNDS:
        raise KitError(f"--rounds {rounds}: expected at least {LEAST_ROUNDS}, fewer have no interval")
    measures = [partial(measure_in_new_process, [str(Path(side.get("kit", ROOT), "inference.py")), "--engine",
                                                 side["engine"], *mode], side.get("python", sys.executable))
                for side in sides]
    for turns in measure_in_turns(measures, rounds, within, minutes):
        print(round_line(turns, [" with ".join(side.values()) for side in sides], rounds), flush=True)
    content = describe_turns(turns, sides)
    text = turns_text(content)
    print(f"\n{text}")
    if output:
        write_text(make_folder(output) / "compare.md", f"{text}\n")
        write_sealed(output / "turns.json", content)
        print(f"\nAll turns: {output / 'turns.json'}; also compare.md")
    slower = any(engine["verdict"] == "slower" for engine in content["engines"])
    return EXIT_SLOWER if fail_if_slower and slower else EXIT_OK


if __name__ == "__main__":
    run(main)
