"""Engine -> keypoint AP on COCO or throughput, timed here or by MLPerf's LoadGen."""

from common import Parser, amount, boolean, positive, run

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rtmpose.data.annotations import NUM_KEYPOINTS
from rtmpose.data.dataset import ANNOTATIONS, PersonSet, load_persons
from rtmpose.engines import Engine, load_engine
from rtmpose.environment import command_line, now
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_INVALID, EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.evaluate import loadgen, repeats
from rtmpose.evaluate.accuracy import check_comparable, compare, measure_accuracy, summarize_accuracy
from rtmpose.evaluate.coco_eval import write_keypoints
from rtmpose.evaluate.throughput import measure_throughput
from rtmpose.files import make_folder, sha256, write_json
from rtmpose.report import text
from rtmpose.report.summary import summarize, table
from rtmpose.report.visualize import write_crops, write_pictures


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Run an engine over COCO: keypoint AP by default, throughput with --perf_only.",
                    epilog=f"Exit codes: 0 done and targets reached, 2 user error, {EXIT_ACCURACY_MISSED} --acc_target "
                           f"missed, {EXIT_THROUGHPUT_MISSED} --fps_target missed, {EXIT_INVALID} LoadGen calls the "
                           "run INVALID, 130 interrupted.")
    parser.add_argument("--engine", required=True, metavar="FILE", help="engine that build_engine.py wrote")
    parser.add_argument("--batchsize", type=positive, metavar="N", help="must match the engine; default: the engine's")
    parser.add_argument("--input_name", metavar="NAME", help="must match the engine; default: the engine's")
    parser.add_argument("--datasets", nargs="?", default=os.environ.get("DATASETS_DIR"), metavar="DIR",
                        help="folder with annotations/ and images/val2017/; default: $DATASETS_DIR")
    parser.add_argument("--output", metavar="DIR", help="write summary.json, and keypoints.json of an accuracy run")
    parser.add_argument("--fps_target", type=float, metavar="N", help="persons a second to reach")
    accuracy = parser.add_argument_group("accuracy")
    accuracy.add_argument("--detections", metavar="FILE",
                          help="a detector's boxes in COCO result format; default: ground-truth boxes")
    accuracy.add_argument("--flip_test", action="store_true", help="average with the mirrored crop")
    accuracy.add_argument("--limit", type=positive, metavar="N", help="only the first N images with persons")
    accuracy.add_argument("--reference", metavar="FILE", help="another engine to compare keypoints with, e.g. FP32")
    accuracy.add_argument("--visualize", type=positive, metavar="N",
                          help="draw the N worst and the N best images, prediction beside ground truth, into --output")
    accuracy.add_argument("--acc_target", type=float, metavar="AP", help="AP@0.5:0.95 to reach, e.g. 0.773")
    throughput = parser.add_argument_group("throughput")
    throughput.add_argument("--perf_only", nargs="?", type=boolean, const=True, default=False, metavar="True",
                            help="time the engine, on crops of --datasets or else on random input")
    throughput.add_argument("--warmup", type=positive, default=5, metavar="N",
                            help="least number of batches before timing, which begins when the speed is steady, or "
                                 "after 10 s or twice --duration; default: %(default)s")
    throughput.add_argument("--iterations", type=positive, default=20, metavar="N",
                            help="minimum number of timed batches; default: %(default)s")
    throughput.add_argument("--duration", type=float, default=5.0, metavar="S",
                            help="minimum seconds of timing; default: %(default)s")
    throughput.add_argument("--repeats", type=positive, default=1, metavar="N",
                            help="time in N fresh processes; gives their median and a 95 %% interval; default: "
                                 "%(default)s")
    mlperf = parser.add_argument_group("MLPerf")
    mlperf.add_argument("--scenario", choices=loadgen.SCENARIOS, metavar="NAME",
                        help=f"run MLPerf's LoadGen: {', '.join(loadgen.SCENARIOS)}; performance with --perf_only, "
                             "else accuracy; its logs go into --output/loadgen")
    mlperf.add_argument("--min_duration", type=amount, default=600.0, metavar="S",
                        help="minimum seconds of a performance run; default: %(default)g, MLPerf's")
    mlperf.add_argument("--target_qps", type=amount, metavar="N",
                        help="samples a second: server's rate, offline's expected rate; default: from a short "
                             "measurement of the engine")
    mlperf.add_argument("--target_latency", type=amount, default=100.0, metavar="MS",
                        help="server: latency limit for 99 %% of the queries; default: %(default)g, LoadGen's")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    args = parse_arguments()
    check_options(args)
    output = Path(args.output) if args.output else None
    summary = measure_repeatedly(args.repeats) if args.repeats > 1 else measure_once(args, output)
    print()
    print(table(summary))
    if output:
        write_json(make_folder(output) / "summary.json", summary)
    return check_targets(args, summary)


def measure_once(args: argparse.Namespace, output: Path | None) -> dict[str, Any]:
    """Load the engine, measure in the mode that the options ask for, and print the figures. Returns the summary."""
    engine = load_engine(args.engine)
    check_engine(args, engine)
    if args.scenario:
        measured = run_loadgen(args, engine, Path(args.output))
    elif args.perf_only:
        measured = measure_throughput(engine, args.datasets, args.warmup, args.iterations, args.duration)
        print(text.throughput_lines(measured, engine.record.batch))
    else:
        measured = run_accuracy(args, engine, output)
    if "conditions" in measured:
        print(text.conditions_line(measured["conditions"]))
    return summarize(engine.record, args.engine, measured, input_files(args))


def measure_repeatedly(number: int) -> dict[str, Any]:
    """Run this command in ``number`` processes, one after the other, and print each speed. Returns their summary."""
    summaries = []
    for _ in range(number):
        summaries.append(repeats.measure_in_new_process(sys.argv))
        print(text.process_line(len(summaries), number, summaries[-1]), flush=True)
    summary = {**repeats.combine(summaries), "command": command_line(), "measured_at": now()}
    print(text.repeats_lines(summary))
    print(text.conditions_line(summary["conditions"]))
    return summary


def run_accuracy(args: argparse.Namespace, engine: Engine, output: Path | None) -> dict[str, Any]:
    """Accuracy mode: predict, score, print, write keypoints and pictures. Returns the result for ``summary.json``."""
    reference = load_reference(args, engine)
    persons = choose_persons(args, engine)
    accuracy = measure_accuracy(engine, persons, args.flip_test)
    print(accuracy.score.coco_lines)
    if output:
        write_keypoints(make_folder(output) / "keypoints.json", accuracy.score.results)
    if output and args.visualize:
        print(f"Pictures: {write_pictures(output / 'pictures', args.visualize, accuracy.run.predictions, persons)}")
    measured = summarize_accuracy(accuracy, persons, args.flip_test)
    if reference:
        expected = measure_accuracy(reference, persons, args.flip_test)
        measured["agreement"], worst = compare(accuracy, expected)
        print(text.agreement_lines(measured["agreement"]))
        if output and worst:
            written = write_crops(output / "agreement", worst, accuracy.run.predictions, expected.run.predictions,
                                  persons, engine.record.input_size)
            print(f"  {len(worst)} worst crops: {written}")
    return measured


def run_loadgen(args: argparse.Namespace, engine: Engine, output: Path) -> dict[str, Any]:
    """Let LoadGen query the engine; only accuracy needs a data set. Returns the result for ``summary.json``."""
    config = loadgen.LoadGenConfig(args.scenario, not args.perf_only, args.min_duration, args.target_qps,
                                   args.target_latency)
    persons = choose_persons(args, engine) if args.datasets or config.accuracy else None
    plan = loadgen.plan_run(engine, config, persons)
    print(text.loadgen_start_lines(plan, engine.record.batch), flush=True)
    measured, score = loadgen.run_scenario(engine, plan, persons, output)
    if score:
        print(score.coco_lines)
        write_keypoints(output / "keypoints.json", score.results)
    else:
        print(text.loadgen_lines(measured))
    return measured


def input_files(args: argparse.Namespace) -> list[Path]:
    """The files that the result depends on. Images count as part of their annotations."""
    annotations = Path(args.datasets) / ANNOTATIONS if args.datasets else None
    return [Path(path) for path in (args.engine, args.reference, annotations, args.detections) if path]


def load_reference(args: argparse.Namespace, engine: Engine) -> Engine | None:
    """Load the engine of ``--reference``, if one is given. Raises KitError if its keypoints can't be compared."""
    if not args.reference:
        return None
    reference = load_engine(args.reference)
    check_comparable(engine, reference)
    return reference


def choose_persons(args: argparse.Namespace, engine: Engine) -> PersonSet:
    """Load the persons that the options ask for. Prints their number, and a note if INT8 was calibrated on them."""
    persons = load_persons(args.datasets, args.detections, args.limit)
    print(text.persons_line(persons, "Performance" if args.perf_only else "Accuracy", args.flip_test), flush=True)
    calibrated = engine.record.calibration.get("annotations_sha256")
    if calibrated and calibrated == sha256(persons.annotations.path):
        print("Note: this engine was calibrated on this data set; its AP on others may be lower")
    return persons


def check_engine(args: argparse.Namespace, engine: Engine) -> None:
    """Raise KitError if the options contradict the engine."""
    record = engine.record
    if args.batchsize not in (None, record.batch):
        raise KitError(f"{args.engine}: was built for batch {record.batch}, --batchsize says {args.batchsize}; "
                       "build an engine for that batch size")
    if args.input_name not in (None, record.input_name):
        raise KitError(f"{args.engine}: has the input {record.input_name}, --input_name says {args.input_name}")
    if not args.perf_only and record.num_keypoints != NUM_KEYPOINTS:
        raise KitError(f"{args.engine}: gives {record.num_keypoints} keypoints, COCO val2017 has {NUM_KEYPOINTS}; "
                       "only --perf_only works with it")


def check_options(args: argparse.Namespace) -> None:
    """Raise KitError if the options contradict each other."""
    if args.visualize and not args.output:
        raise KitError("--visualize: needs --output DIR, where the pictures go")
    if args.repeats > 1 and (args.scenario or not args.perf_only):
        raise KitError("--repeats: needs --perf_only, without --scenario")
    if not args.scenario:
        return
    if not args.output:
        raise KitError("--scenario: needs --output DIR, where LoadGen's logs go")
    for name in ("flip_test", "reference", "visualize"):
        if getattr(args, name):
            raise KitError(f"--{name}: does not work with --scenario; run inference.py without --scenario for it")
    if args.target_qps and args.scenario == "singlestream":
        raise KitError("--target_qps: singlestream has no rate, each query follows the answer to the one before; "
                       "leave it out")


def check_targets(args: argparse.Namespace, summary: dict[str, Any]) -> int:
    """The exit code: LoadGen's verdict goes before a missed target."""
    code = EXIT_OK
    for name, target, key, missed in (("--fps_target", args.fps_target, "fps", EXIT_THROUGHPUT_MISSED),
                                      ("--acc_target", args.acc_target, "AP", EXIT_ACCURACY_MISSED)):
        if target is None or key not in summary:
            continue
        reached = summary[key] >= target
        print(f"{name} {target:g}: {'reached' if reached else 'missed'} with {summary[key]:.4g}")
        code = code if reached else missed
    return code if summary.get("valid", True) else EXIT_INVALID


if __name__ == "__main__":
    run(main)
