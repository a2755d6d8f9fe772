"""Compare results of one machine or of several with the first of them: faster, slower, or can't tell. Of one result,
print the table.

scripts/compare.sh runs it.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, run

import argparse

from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_SLOWER, KitError
from rtmpose.files import check_output, make_folder, write_text
from rtmpose.report.compare import compare, exit_code, parse_prices, report_text
from rtmpose.report.page import draw_page
from rtmpose.report.results import read_results


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Compare results with the first of them: speed, AP, keypoints, energy, cost. Of one "
                                "result, print the table.",
                    epilog="Exit codes: 0 done, 2 user error or something can't be compared, "
                           f"{EXIT_ACCURACY_MISSED} --fail_if_worse, {EXIT_SLOWER} --fail_if_slower, 130 interrupted.",
                    example="python3 scripts/compare.py results/base results/new --fail_if_slower")
    parser.add_argument("results", nargs="+", metavar="RESULT",
                        help="summary.json or its folder, or a sweep's folder; the first is the base. The accuracy and "
                             "the throughput run of one engine are one result: two files, or a folder with both")
    parser.add_argument("--output", metavar="DIR", type=Path, help="write compare.html and compare.md")
    parser.add_argument("--annotations", metavar="FILE",
                        help="annotation file that AP was measured on; default: the path in the summaries")
    parser.add_argument("--price", action="append", default=[], metavar="NAME=USD_PER_HOUR",
                        help="price of a result's machine, for persons a dollar; NAME as in the table; repeatable")
    parser.add_argument("--fail_if_slower", action="store_true",
                        help=f"exit code {EXIT_SLOWER} if a result is slower than the base; \"can't tell\" is not")
    parser.add_argument("--fail_if_worse", type=float, metavar="AP",
                        help=f"exit code {EXIT_ACCURACY_MISSED} if AP is more than this below the base's, e.g. 0.005")
    args = parser.parse_args()
    if args.fail_if_worse is not None and not 0 <= args.fail_if_worse <= 1:
        parser.error(f"--fail_if_worse {args.fail_if_worse:g}: expected a difference of AP from 0 to 1")
    return args


def main() -> int:
    """Compare, print the table, write the page."""
    args = parse_arguments()
    if args.output:
        check_output(args.output / "compare.md", parents=True)
    results = read_results(args.results)
    if len(results) == 1 and (args.fail_if_slower or args.fail_if_worse is not None):
        raise KitError("one result, expected two or more: the base, and what to compare with it")
    prices = parse_prices(args.price, [cells[0].label for cells in results])
    report = compare(results, args.annotations, prices)
    text = report_text(report)
    print(text)
    if args.output:
        write_text(make_folder(args.output) / "compare.md", f"{text}\n")
        write_text(args.output / "compare.html", draw_page(report))
        print(f"\nPage: {args.output / 'compare.html'}; also compare.md")
    return exit_code(report, args.fail_if_slower, args.fail_if_worse)


if __name__ == "__main__":
    run(main)
