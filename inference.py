"""Engine -> keypoint AP on COCO, or timed throughput, by itself or driven by MLPerf's LoadGen."""

from common import Parser, amount, boolean, positive, run

import argparse
import os
from pathlib import Path
from typing import Any

from rtmpose.data.annotations import NUM_KEYPOINTS
from rtmpose.data.dataset import ANNOTATIONS, PersonSet, load_persons
from rtmpose.engines import Engine, load_engine
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_INVALID, EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.evaluate import loadgen
from rtmpose.evaluate.accuracy import check_comparable, measure_accuracy, summarize_accuracy
from rtmpose.evaluate.coco_eval import write_keypoints
from rtmpose.evaluate.throughput import measure_throughput
from rtmpose.files import make_folder, sha256, write_json
from rtmpose.report import text
from rtmpose.report.summary import summarize, table
from rtmpose.report.visualize import write_crops, write_pictures


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Run an engine over COCO: keypoint AP by default, throughput with --perf_only.",
                    epilog=f"Exit codes: 0 done and targets reached, 2 a mistake, {EXIT_ACCURACY_MISSED} --acc_target "
                           f"missed, {EXIT_THROUGHPUT_MISSED} --fps_target missed, {EXIT_INVALID} LoadGen calls the "
                           "run INVALID, 130 interrupted.")
    parser.add_argument("--engine", required=True, metavar="FILE", help="what build_engine.py wrote")
    parser.add_argument("--batchsize", type=positive, metavar="N", help="must be the engine's; default: the engine's")
    parser.add_argument("--input_name", metavar="NAME", help="must be the engine's; default: the engine's")
    parser.add_argument("--datasets", nargs="?", default=os.environ.get("DATASETS_DIR"), metavar="DIR",
                        help="folder with annotations/ and images/val2017/; default: $DATASETS_DIR")
    parser.add_argument("--output", metavar="DIR", help="write summary.json, and keypoints.json of an accuracy run")
    accuracy = parser.add_argument_group("accuracy")
    accuracy.add_argument("--detections", metavar="FILE", help="a detector's boxes in COCO result format, instead of "
                                                               "the ground truth's")
    accuracy.add_argument("--flip_test", action="store_true", help="average with the mirrored crop")
    accuracy.add_argument("--limit", type=positive, metavar="N", help="only the first N images with persons")
    accuracy.add_argument("--reference", metavar="FILE", help="another engine, e.g. FP32: how far the keypoints agree")
    accuracy.add_argument("--visualize", type=positive, metavar="N",
                          help="draw the N worst and the N best images, prediction beside ground truth, into --output")
    accuracy.add_argument("--acc_target", type=float, metavar="AP", help="AP@0.5:0.95 to reach, e.g. 0.773")
    throughput = parser.add_argument_group("throughput")
    throughput.add_argument("--perf_only", nargs="?", type=boolean, const=True, default=False, metavar="True",
                            help="time the engine; needs no data set, but takes real crops from one that is given")
    throughput.add_argument("--warmup", type=positive, default=5, metavar="N", help="batches; default: %(default)s")
    throughput.add_argument("--iterations", type=positive, default=20, metavar="N",
                            help="at least so many batches; default: %(default)s")
    throughput.add_argument("--duration", type=float, default=5.0, metavar="S",
                            help="at least so many seconds; default: %(default)s")
    mlperf = parser.add_argument_group("MLPerf")
    mlperf.add_argument("--scenario", choices=loadgen.SCENARIOS, metavar="NAME",
                        help=f"let MLPerf's LoadGen drive the engine, {', '.join(loadgen.SCENARIOS)}: performance with "
                             "--perf_only, else accuracy; its logs go into --output/loadgen")
    mlperf.add_argument("--min_duration", type=amount, default=600.0, metavar="S",
                        help="least seconds of a performance run; default: %(default)g, MLPerf's; less to try it")
    mlperf.add_argument("--target_qps", type=amount, metavar="N",
                        help="persons a second, asked of server, expected of offline; default: by a short measurement "
                             "of the engine")
    mlperf.add_argument("--target_latency", type=amount, default=100.0, metavar="MS",
                        help="server: 99 %% of the queries must be answered in so many milliseconds; "
                             "default: %(default)g, as LoadGen's")
    parser.add_argument("--fps_target", type=float, metavar="N", help="persons a second to reach")
    return parser.parse_args()


def main() -> int:
    """Load the engine, measure, print, write."""
    args = parse_arguments()
    engine = load_engine(args.engine)
    check_engine(args, engine)
    output = Path(args.output) if args.output else None
    if args.scenario:
        measured = run_loadgen(args, engine, output)
    elif args.perf_only:
        measured = measure_throughput(engine, args.datasets, args.warmup, args.iterations, args.duration)
        print(text.throughput_lines(measured, engine.record.batch))
    else:
        measured = run_accuracy(args, engine, output)
    summary = summarize(engine.record, args.engine, measured, input_files(args))
    print()
    print(table(summary))
    if output:
        write_json(make_folder(output) / "summary.json", summary)
    return check_targets(args, summary)


def run_accuracy(args: argparse.Namespace, engine: Engine, output: Path | None) -> dict[str, Any]:
    """Accuracy mode: predict, score, print, write keypoints and pictures; the result as ``summary.json`` has it."""
    reference = load_reference(args, engine)
    persons = choose_persons(args, engine)
    accuracy = measure_accuracy(engine, persons, args.flip_test, reference)
    print(accuracy.score.coco_lines)
    if output:
        write_keypoints(make_folder(output) / "keypoints.json", accuracy.score.results)
    if args.visualize and output:
        print(f"Pictures: {write_pictures(output / 'pictures', args.visualize, accuracy.run.predictions, persons)}")
    if accuracy.agreement:
        print(text.agreement_lines(accuracy.agreement))
    if output and accuracy.reference and accuracy.worst:
        written = write_crops(output / "agreement", accuracy.worst, accuracy.run.predictions,
                              accuracy.reference.predictions, persons, engine.record.input_size)
        print(f"  {len(accuracy.worst)} worst crops: {written}")
    return summarize_accuracy(accuracy, persons, args.flip_test)


def run_loadgen(args: argparse.Namespace, engine: Engine, output: Path) -> dict[str, Any]:
    """Let LoadGen drive the engine; a data set is needed for accuracy only."""
    config = loadgen.LoadGenConfig(args.scenario, not args.perf_only, args.min_duration, args.target_qps,
                                   args.target_latency)
    persons = choose_persons(args, engine) if args.datasets or config.accuracy else None
    plan = loadgen.plan_run(engine, config, persons)
    print(text.loadgen_start_lines(plan, engine.record.batch), flush=True)
    result = loadgen.run_scenario(engine, plan, persons, output)
    if result.score:
        print(result.score.coco_lines)
        write_keypoints(output / "keypoints.json", result.score.results)
    else:
        print(text.loadgen_lines(result.summary))
    return result.summary


def input_files(args: argparse.Namespace) -> list[Path]:
    """The files of the command line that a result depends on; images are taken to belong to their annotations."""
    annotations = Path(args.datasets) / ANNOTATIONS if args.datasets else None
    return [Path(path) for path in (args.engine, args.reference, annotations, args.detections) if path]


def load_reference(args: argparse.Namespace, engine: Engine) -> Engine | None:
    """The engine of ``--reference``, if one is given.

    Raises:
        KitError: it can't be loaded, or its keypoints can't be compared.
    """
    if not args.reference:
        return None
    reference = load_engine(args.reference)
    check_comparable(engine, reference)
    return reference


def choose_persons(args: argparse.Namespace, engine: Engine) -> PersonSet:
    """The persons that the command line asks for; prints how many, and whether an INT8 engine has seen them."""
    persons = load_persons(args.datasets, args.detections, args.limit)
    print(text.persons_line(persons, "Performance" if args.perf_only else "Accuracy", args.flip_test), flush=True)
    calibrated = engine.record.calibration.get("annotations_sha256")
    if calibrated and calibrated == sha256(persons.annotations.path):
        print("Note: this engine was calibrated on persons of this very set; its AP elsewhere may be lower")
    return persons


def check_engine(args: argparse.Namespace, engine: Engine) -> None:
    """Hold the command line against the engine.

    Raises:
        KitError: they contradict each other.
    """
    check_scenario(args)
    if args.visualize and not args.output:
        raise KitError("--visualize: needs --output DIR, where the pictures go")
    record = engine.record
    if args.batchsize not in (None, record.batch):
        raise KitError(f"{args.engine}: was built for batch {record.batch}, --batchsize says {args.batchsize}; "
                       "build an engine for that batch size")
    if args.input_name not in (None, record.input_name):
        raise KitError(f"{args.engine}: has the input {record.input_name}, --input_name says {args.input_name}")
    if not args.perf_only and record.num_keypoints != NUM_KEYPOINTS:
        raise KitError(f"{args.engine}: gives {record.num_keypoints} keypoints, COCO val2017 has {NUM_KEYPOINTS}; "
                       "only --perf_only works with it")


def check_scenario(args: argparse.Namespace) -> None:
    """Hold the options against ``--scenario``.

    Raises:
        KitError: they contradict it.
    """
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
    """The exit code that the targets ask for, or LoadGen's verdict, which goes first."""
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
