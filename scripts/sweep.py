"""Build and measure every precision at every batch size; write a table, a CSV, a JSON and a page of the results.

scripts/benchmark.sh runs it with defaults for its options.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, positive, run

import argparse
import itertools
import math
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from inference import MODES
from rtmpose import startup
from rtmpose.data.coco import load_persons
from rtmpose.engines.build import PRECISIONS, is_built, plan_build
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.evaluate.repeats import combine, measure_in_turns
from rtmpose.files import check_output, make_folder, sha256, write_json, write_sealed, write_text
from rtmpose.machine.versions import describe_machine, describe_versions
from rtmpose.model import graph
from rtmpose.report.compare import Report
from rtmpose.report.page import draw_page
from rtmpose.report.results import Cell, cell_folder, read_summary
from rtmpose.report.summary import count_devices, csv_text, table
from rtmpose.turns import LEAST_ROUNDS, WITHIN

EXIT_CELL_FAILED = 1
ROUNDS = 14  # at most
BUILDS = 3  # of TensorRT, whose engines differ by a few percent from build to build
PICTURES = 2  # of the worst persons, and of the best
ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="Build and measure every precision at every batch size.",
                    example="python3 scripts/sweep.py --model rtmpose_opt.onnx --datasets coco --precisions fp32 fp16 "
                            "--batches 1 8 32 --output benchmark")
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="graph that export.py wrote")
    parser.add_argument("--datasets", metavar="DIR", help="set that AP is measured on; without it, only speed is")
    parser.add_argument("--calibration", metavar="DIR", help="set for int8, see build_engine.py")
    parser.add_argument("--precisions", required=True, nargs="+", choices=PRECISIONS)
    parser.add_argument("--batches", required=True, nargs="+", type=positive, metavar="N")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="see build_engine.py")
    parser.add_argument("--device", metavar="NAME", help="see build_engine.py")
    parser.add_argument("--skeleton", metavar="NAME", choices=("coco",), help="see build_engine.py")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--repeats", type=positive, metavar="N",
                        help="throughput: at most N rounds, in each of which every cell takes a turn in a fresh "
                             f"process; {LEAST_ROUNDS} are enough if the ratios to the first cell are known within "
                             f"{100 * WITHIN:g} %%; default: {ROUNDS}, with several --devices or LoadGen 1")
    parser.add_argument("--devices", type=positive, default=1, metavar="N",
                        help="measure on N devices at once, by torchrun; default: %(default)s")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION",
                        help="for inference.py; each run takes those of its mode")
    args = parser.parse_args()
    if "int8" in args.precisions and not args.calibration:
        parser.error("--precisions int8 needs --calibration DIR")
    if args.devices > 1 and (args.repeats or 1) > 1:
        parser.error("--repeats: doesn't work with several --devices, which torchrun starts once")
    args.repeats = args.repeats or (ROUNDS if args.devices == 1 and "--scenario" not in args.extra else 1)
    return args


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
    """Measure every cell, and report them. After a failure the sweep continues with the next cell."""
    args = parse_arguments()
    check_output(args.output / "table.md", parents=True)
    if args.datasets:
        load_persons(args.datasets)  # an error in it or in the graph would come up once a cell
    graph.find_input(graph.load_model(args.model), args.model, args.batches[0])
    engines = make_folder(args.output / "engines")  # in one folder: the INT8 calibration in it serves every batch size
    extra = split_options(args.extra)
    cells = [Cell(precision, batch, make_folder(cell_folder(args.output, precision, batch)) / "accuracy")
             for precision in sorted(dict.fromkeys(args.precisions), key=lambda name: name != "fp32")  # to compare with
             for batch in dict.fromkeys(args.batches)]
    references: dict[int, list[str]] = {}  # the option for the FP32 engine of a batch size
    timed: dict[Cell, list[str]] = {}  # the options of its throughput run
    for number, cell in enumerate(cells, 1):
        progress = f"cell {number}/{len(cells)}: {cell.name}"
        engine = engines / f"{cell.precision}_bs{cell.batch}.engine"
        arguments = ["--engine", str(engine), *(["--datasets", args.datasets] if args.datasets else [])]
        try:
            print(f"{progress}: build", flush=True)
            calibration = args.calibration if cell.precision == "int8" else None
            plan = plan_build(args.model, engine, cell.batch, cell.precision, args.backend, calibration,
                              device=args.device, skeleton=args.skeleton, builds=BUILDS)
            if not is_built(plan):
                given = {"model_path": args.model, "engine_path": engine, "batch": cell.batch, "device": args.device,
                         "precision": cell.precision, "backend": args.backend, "calibration": calibration,
                         "skeleton": args.skeleton, "builds": plan.candidates[0].builds}
                build(cell.folder.with_name("build.txt"), [
                    word for name, value in given.items() if value for word in (f"--{name}", str(value))])
            if args.datasets:
                cell.accuracy = run_inference(cell.folder, cell, progress, args.devices, [
                    *extra["accuracy"], *arguments, "--visualize", str(PICTURES), *references.get(cell.batch, [])])
        except KitError as error:
            report_failure(cell, error)
        else:
            timed[cell] = [*extra["throughput"], *arguments, "--perf_only", "True"]
            if cell.precision == "fp32":
                references[cell.batch] = ["--reference", str(engine)]
    time_in_turns(timed, args.devices, args.repeats)
    return write_reports(cells, args.output)


def report_failure(cell: Cell, error: KitError) -> None:
    """Note the error of a cell, and print it."""
    cell.failure = str(error)
    print(f"{cell.name}: failed: {error}", flush=True)


def build(log: Path, arguments: Sequence[str]) -> None:
    """Run build_engine.py in a process of its own: one that has built on a GPU still uses it. Raises KitError if it
    fails."""
    log.unlink(missing_ok=True)
    code, error = run_script(ROOT / "build_engine.py", arguments, log)
    if code:
        raise KitError(error)


def run_script(script: Path, arguments: Sequence[str], log: Path, launcher: Sequence[str] = ()) -> tuple[int, str]:
    """Run a script of the kit, and append its output to ``log``. Returns its exit code, and the error that explains it.
    """
    with open(log, "ab") as output:
        before = output.tell()
        command = startup.child([sys.executable, *launcher, os.path.relpath(script), *arguments])
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
                              ).returncode
    lines = log.read_bytes()[before:].decode(errors="replace").strip().splitlines() or [script.name]
    last = next((line for line in reversed(lines) if line.startswith(f"{script.name}: error: ")), lines[-1])
    return code, f"{last} (exit code {code} of {script.name}; its output is in {log})"


def time_in_turns(timed: dict[Cell, list[str]], devices: int, rounds: int) -> None:
    """Throughput of cells, in rounds, with the options of each. A cell that fails is left out of all rounds."""
    while timed := {cell: options for cell, options in timed.items() if not cell.failure}:
        keep_whole_rounds(timed, devices, rounds)
        try:
            for turns in measure_in_turns([partial(take_turn, cell, options, devices, itertools.count(1))
                                           for cell, options in timed.items()], rounds):
                known = max((ratio.reach for ratio in turns.ratios), default=0.0)
                print(f"round {len(turns.rounds)}/{rounds}: " + (
                    f"ratios to {next(iter(timed)).name} known within {known:.1%}, " if 0 < known < math.inf else "")
                    + f"up to {turns.seconds_left / 60:.1f} min left", flush=True)
        except KitError:
            continue
        starts = [min(summary["measured_at"] for summary in one) for one in turns.rounds]
        for cell, summaries in zip(timed, zip(*turns.rounds, strict=True), strict=True):
            cell.throughput = combine(summaries, starts) if rounds > 1 else summaries[0]
            write_sealed(cell.folder.with_name("throughput") / "summary.json", cell.throughput)
        return


def take_turn(cell: Cell, options: Sequence[str], devices: int, numbers: Iterator[int]) -> dict[str, Any]:
    """Throughput of a cell in the next round. Raises KitError if it fails, which is noted."""
    number = next(numbers)
    try:
        return run_inference(turn_folder(cell, number), cell, f"round {number}: {cell.name}", devices, options)
    except KitError as error:
        report_failure(cell, error)
        raise


def turn_folder(cell: Cell, number: int) -> Path:
    """Output folder of a cell's turn in a round."""
    return cell.folder.with_name("throughput") / f"round_{number}"


def keep_whole_rounds(timed: dict[Cell, list[str]], devices: int, rounds: int) -> None:
    """Remove the summaries of all rounds from the first on in which not every cell has one that is up to date."""
    whole = True
    for number in range(1, rounds + 1):
        folders = {turn_folder(cell, number): options for cell, options in timed.items()}
        whole = whole and all(read_current(folder, options, devices) for folder, options in folders.items())
        for folder in () if whole else folders:
            (folder / "summary.json").unlink(missing_ok=True)


def run_inference(folder: Path, cell: Cell, progress: str, devices: int, arguments: Sequence[str]) -> dict[str, Any]:
    """Run inference.py in a process of its own for each device, unless ``folder/summary.json`` is up to date, and
    return that summary.

    The output is appended to ``accuracy.txt`` or ``throughput.txt`` of the cell. Raises KitError if inference.py fails.
    """
    mode = folder.relative_to(cell.folder.parent).parts[0]
    summary, log = folder / "summary.json", cell.folder.with_name(f"{mode}.txt")
    if kept := read_current(folder, arguments, devices):
        print(f"{progress}: {mode}: kept, nothing that it depends on has changed", flush=True)
        return kept
    print(f"{progress}: {mode}", end="", flush=True)
    summary.unlink(missing_ok=True)
    start = time.perf_counter()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)] if devices > 1 else []
    code, error = run_script(ROOT / "inference.py", [*arguments, "--output", str(folder)], log, launcher)
    print(f": {time.perf_counter() - start:.0f} s; {log}", flush=True)
    # torchrun has one code for any failure, a missed target included; only a run that is done has a summary.
    done = summary.is_file() if devices > 1 else code in (0, EXIT_ACCURACY_MISSED, EXIT_THROUGHPUT_MISSED)
    if not done:
        summary.unlink(missing_ok=True)  # LoadGen's INVALID writes one, too
        raise KitError(error)
    return read_summary(summary)


def read_current(folder: Path, arguments: Sequence[str], devices: int) -> dict[str, Any] | None:
    """The ``summary.json`` of an output folder if it comes from these arguments, as many devices, the same files, this
    machine and these versions, else None."""
    try:
        found = read_summary(folder / "summary.json")
        current = (shlex.split(found["command"])[4 if devices > 1 else 2:] == [
                       *arguments, "--output", str(folder)]
                   and count_devices(found) == devices and found["machine"] == describe_machine()
                   and found["versions"] == describe_versions()
                   and all(sha256(path) == digest for path, digest in found["inputs"].items()))
    except KitError:
        return None
    return found if current else None


def write_reports(cells: Sequence[Cell], output: Path) -> int:
    """Write the four reports, print the table and the failures, and return the exit code. Raises KitError if every cell
    failed."""
    measured, failed = ([cell for cell in cells if bool(cell.failure) == bad] for bad in (False, True))
    if not measured:
        raise KitError(f"{output}: all {len(cells)} cells failed; the first: {failed[0].failure}")
    summaries = [cell.summary for cell in measured]
    report = "\n".join([
        table(*summaries), *(f"\nNote: {cell.name}: {note}" for cell in measured for note in cell.notes),
        *(f"\nFailed: {cell.name}: {cell.failure}" for cell in failed)]) + "\n"
    write_text(output / "table.md", report)
    write_text(output / "results.csv", csv_text(summaries))
    write_json(output / "results.json", [
        {"precision": cell.precision, "batch": cell.batch, "failure": cell.failure, "accuracy": cell.accuracy,
         "throughput": cell.throughput} for cell in cells])
    write_text(output / "report.html", draw_page(Report(list(cells))))
    print(f"\n{report}\nPage: {output / 'report.html'}; also table.md, results.csv and results.json")
    return EXIT_CELL_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    run(main)
