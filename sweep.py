"""Every precision and batch size: build, accuracy, throughput; then a table, a CSV, a JSON and a page of them all.

scripts/benchmark.sh runs it with the defaults of the other scripts.
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
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="the set that AP is measured on")
    parser.add_argument("--calibration", metavar="DIR", help="for int8, see build_engine.py")
    parser.add_argument("--precisions", required=True, nargs="+", choices=("fp32", "fp16", "int8"))
    parser.add_argument("--batches", required=True, nargs="+", type=positive, metavar="N")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="see build_engine.py")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION", help="for every run of inference.py")
    args = parser.parse_args()
    if "int8" in args.precisions and not args.calibration:
        parser.error("--precisions int8 needs --calibration DIR")
    for name in ("precisions", "batches"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    return Settings(**vars(args))


def main() -> int:
    """Run the sweep, write its four reports, and say what failed."""
    settings = parse_arguments()
    cells = run_sweep(settings)
    measured = [cell for cell in cells if not cell.failure]
    failed = [cell for cell in cells if cell.failure]
    if not measured:
        raise KitError(f"{settings.output}: all {len(cells)} cells failed; the first: {failed[0].failure}")
    summaries = [cell.summary for cell in measured]
    lines = [table(*summaries), *(f"\nFailed: {cell.precision}, batch {cell.batch}: {cell.failure}" for cell in failed)]
    write_bytes(settings.output / "table.md", ("\n".join(lines) + "\n").encode())
    write_bytes(settings.output / "results.csv", csv_text(summaries).encode())
    write_json(settings.output / "results.json", [
        {"precision": cell.precision, "batch": cell.batch, "failure": cell.failure, "accuracy": cell.accuracy,
         "throughput": cell.throughput} for cell in cells])
    write_bytes(settings.output / "report.html", draw_page(cells).encode())
    print("", *lines, "", f"Page: {settings.output / 'report.html'}; also table.md, results.csv and results.json",
          sep="\n")
    return EXIT_CELL_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    run(main)
