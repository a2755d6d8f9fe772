"""Build and measure every precision at every batch size; write a table, a CSV, a JSON and a page of the results.

scripts/benchmark.sh runs it with defaults for its options.
"""

from common import Parser, positive, run

from pathlib import Path

from rtmpose.engines import BACKENDS
from rtmpose.errors import EXIT_OK, KitError
from rtmpose.files import write_bytes, write_json
from rtmpose.report.page import draw_page
from rtmpose.report.summary import csv_text, table
from rtmpose.report.sweep import Settings, run_sweep

EXIT_CELL_FAILED = 1


def parse_arguments() -> Settings:
    """Parse the command line."""
    parser = Parser(description="Build and measure every precision at every batch size.")
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="graph that export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="set that AP is measured on")
    parser.add_argument("--calibration", metavar="DIR", help="set for int8, see build_engine.py")
    parser.add_argument("--precisions", required=True, nargs="+", choices=("fp32", "fp16", "int8"))
    parser.add_argument("--batches", required=True, nargs="+", type=positive, metavar="N")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="see build_engine.py")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N",
                        help="fresh processes of each throughput run; default: %(default)s")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION", help="for every run of inference.py")
    args = parser.parse_args()
    if "int8" in args.precisions and not args.calibration:
        parser.error("--precisions int8 needs --calibration DIR")
    args.precisions, args.batches = list(dict.fromkeys(args.precisions)), list(dict.fromkeys(args.batches))
    return Settings(**vars(args))


def main() -> int:
    """Run the sweep, write its four reports, and print the table and the failures."""
    settings = parse_arguments()
    cells = run_sweep(settings)
    summaries = [cell.summary for cell in cells if not cell.failure]
    failed = [cell for cell in cells if cell.failure]
    if not summaries:
        raise KitError(f"{settings.output}: all {len(cells)} cells failed; the first: {failed[0].failure}")
    report = "\n".join([table(*summaries), *(f"\nFailed: {cell.name}: {cell.failure}" for cell in failed)]) + "\n"
    write_bytes(settings.output / "table.md", report.encode())
    write_bytes(settings.output / "results.csv", csv_text(summaries).encode())
    write_json(settings.output / "results.json", [
        {"precision": cell.precision, "batch": cell.batch, "failure": cell.failure, "accuracy": cell.accuracy,
         "throughput": cell.throughput} for cell in cells])
    write_bytes(settings.output / "report.html", draw_page(cells).encode())
    print(f"\n{report}\nPage: {settings.output / 'report.html'}; also table.md, results.csv and results.json")
    return EXIT_CELL_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    run(main)
