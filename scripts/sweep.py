"""Build and measure every precision at every batch size; write a table, a CSV, a JSON and a page of the results.

scripts/benchmark.sh runs it with defaults for its options.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, positive, run

from collections.abc import Sequence

from inference import MODES
from rtmpose.data.coco import load_persons
from rtmpose.engines import BACKENDS
from rtmpose.engines.build import PRECISIONS
from rtmpose.errors import EXIT_OK, KitError
from rtmpose.files import check_output, write_json, write_text
from rtmpose.report.page import draw_page
from rtmpose.report.summary import csv_text, table
from rtmpose.report.sweep import Settings, run_sweep

EXIT_CELL_FAILED = 1
REPEATS = 3


def parse_arguments() -> Settings:
    """Parse the command line."""
    parser = Parser(description="Build and measure every precision at every batch size.",
                    example="python3 scripts/sweep.py --model rtmpose_opt.onnx --datasets coco --precisions fp32 fp16 "
                            "--batches 1 8 32 --output benchmark")
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="graph that export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="set that AP is measured on")
    parser.add_argument("--calibration", metavar="DIR", help="set for int8, see build_engine.py")
    parser.add_argument("--precisions", required=True, nargs="+", choices=PRECISIONS)
    parser.add_argument("--batches", required=True, nargs="+", type=positive, metavar="N")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="see build_engine.py")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--repeats", type=positive, metavar="N",
                        help=f"fresh processes of each throughput run; default: {REPEATS}, with several --devices 1")
    parser.add_argument("--devices", type=positive, default=1, metavar="N",
                        help="measure on N devices at once, by torchrun; default: %(default)s")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION",
                        help="for inference.py; each run takes those of its mode")
    args = parser.parse_args()
    if "int8" in args.precisions and not args.calibration:
        parser.error("--precisions int8 needs --calibration DIR")
    if args.devices > 1 and (args.repeats or 1) > 1:
        parser.error("--repeats: doesn't work with several --devices, which torchrun starts once")
    args.repeats = args.repeats or (REPEATS if args.devices == 1 else 1)
    args.precisions, args.batches = list(dict.fromkeys(args.precisions)), list(dict.fromkeys(args.batches))
    args.extra = split_options(args.extra)
    return Settings(**vars(args))


def split_options(extra: Sequence[str]) -> dict[str, list[str]]:
    """Options of inference.py by the mode that takes them; others go to both modes."""
    runs: dict[str, list[str]] = {"accuracy": [], "throughput": []}
    takes = [*runs]
    for word in extra:
        if word.startswith("--"):
            option = word[2:].partition("=")[0]
            takes = [mode for mode in runs if option in MODES[mode]] or [*runs]
        for mode in takes:
            runs[mode].append(word)
    return runs


def main() -> int:
    """Run the sweep, write its four reports, and print the table and the failures."""
    settings = parse_arguments()
    check_output(settings.output / "table.md", parents=True)
    load_persons(settings.datasets)  # an error in it would come up only after the first build
    cells = run_sweep(settings)
    summaries = [cell.summary for cell in cells if not cell.failure]
    failed = [cell for cell in cells if cell.failure]
    if not summaries:
        raise KitError(f"{settings.output}: all {len(cells)} cells failed; the first: {failed[0].failure}")
    report = "\n".join([table(*summaries), *(f"\nNote: {cell.name}: {note}" for cell in cells for note in cell.notes),
                        *(f"\nFailed: {cell.name}: {cell.failure}" for cell in failed)]) + "\n"
    write_text(settings.output / "table.md", report)
    write_text(settings.output / "results.csv", csv_text(summaries))
    write_json(settings.output / "results.json", [
        {"precision": cell.precision, "batch": cell.batch, "failure": cell.failure, "accuracy": cell.accuracy,
         "throughput": cell.throughput} for cell in cells])
    write_text(settings.output / "report.html", draw_page(cells))
    print(f"\n{report}\nPage: {settings.output / 'report.html'}; also table.md, results.csv and results.json")
    return EXIT_CELL_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    run(main)
