"""Engine -> keypoint AP on COCO or throughput, timed here or by MLPerf's LoadGen."""

from common import Parser, amount, between, boolean, box, positive, run

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rtmpose.data.coco import DataSet, PersonSet, find_data_set, load_persons, to_corners
from rtmpose.data.images import read_photograph
from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.engines import Engine, load_engine
from rtmpose.engines.record import read_record
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_INVALID, EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError, first_line
from rtmpose.evaluate import devices, loadgen, ranks, repeats
from rtmpose.evaluate.accuracy import check_comparable, compare, measure_accuracy, predict_all, summarize_accuracy
from rtmpose.evaluate.coco_eval import write_keypoints
from rtmpose.evaluate.predict import predict_person
from rtmpose.evaluate.throughput import measure_throughput
from rtmpose.files import check_folder, check_name, make_folder, sha256, write_sealed
from rtmpose.machine.versions import command_line, now
from rtmpose.report import text
from rtmpose.report.summary import clear_output, summarize, table
from rtmpose.report.visualize import find_ground_truth, write_crops, write_photograph, write_pictures

# The options that only some modes take: a mode refuses those that it would ignore.
MEASURING = {"datasets", "annotations", "images", "perf_only", "scenario"}
MODES = {
    "accuracy": MEASURING | {"detections", "flip_test", "limit", "reference", "visualize", "acc_target", "fps_target"},
    "throughput": MEASURING | {"warmup", "iterations", "duration", "repeats", "fps_target"},
    "accuracy with --scenario": MEASURING | {"detections", "limit", "acc_target", "target_qps", "target_latency"},
    "throughput with --scenario": MEASURING | {"detections", "limit", "fps_target", "min_duration", "target_qps",
                                               "target_latency"},
    "--picture": {"picture", "bbox"},
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Run an engine over COCO: keypoint AP by default, throughput with --perf_only. "
                                 "torchrun --nproc-per-node N runs it on N devices at once.",
                    epilog=f"Exit codes: 0 done and targets reached, 2 user error, {EXIT_ACCURACY_MISSED} --acc_target "
                           f"missed, {EXIT_THROUGHPUT_MISSED} --fps_target missed, {EXIT_INVALID} LoadGen calls the "
                           "run INVALID, 129, 130 and 143 interrupted.",
                    example="python3 inference.py --engine rtmpose_bs_32_fp16.engine --datasets coco --output results")
    parser.add_argument("--engine", required=True, metavar="FILE", help="engine that build_engine.py wrote")
    parser.add_argument("--batchsize", type=positive, metavar="N", help="must match the engine; default: the engine's")
    parser.add_argument("--input_name", metavar="NAME", help="must match the engine; default: the engine's")
    parser.add_argument("--datasets", nargs="?", const="", metavar="DIR",
                        help="folder with annotations/ and images/val2017/; default: $DATASETS_DIR")
    parser.add_argument("--annotations", metavar="FILE",
                        help="instead of --datasets, together with --images: COCO person keypoints of any name")
    parser.add_argument("--images", metavar="DIR", help="the images of --annotations")
    parser.add_argument("--output", metavar="DIR", help="write summary.json, and keypoints.json of an accuracy run")
    parser.add_argument("--fps_target", type=amount, metavar="N", help="persons a second to reach")
    accuracy = parser.add_argument_group("accuracy")
    accuracy.add_argument("--detections", metavar="FILE",
                          help="a detector's boxes in COCO result format; default: ground-truth boxes")
    accuracy.add_argument("--flip_test", action="store_true", help="average with the mirrored crop")
    accuracy.add_argument("--limit", type=positive, metavar="N", help="only the first N images with persons")
    accuracy.add_argument("--reference", metavar="FILE", help="another engine to compare keypoints with, e.g. FP32")
    accuracy.add_argument("--visualize", type=positive, metavar="N",
                          help="draw the N persons of lowest and N of highest OKS, with ground truth, into --output")
    accuracy.add_argument("--acc_target", type=between(0, 1), metavar="AP", help="AP@0.5:0.95 to reach, e.g. 0.773")
    throughput = parser.add_argument_group("throughput")
    throughput.add_argument("--perf_only", nargs="?", type=boolean, const=True, default=False, metavar="True",
                            help="time the engine, on crops of --datasets or else on random input")
    throughput.add_argument("--warmup", type=positive, default=5, metavar="N",
                            help="least number of batches before timing, which begins when the speed is steady, or "
                                 "after 10 s or twice --duration; default: %(default)s")
    throughput.add_argument("--iterations", type=positive, default=20, metavar="N",
                            help="minimum number of timed batches; default: %(default)s")
    throughput.add_argument("--duration", type=between(0, 1e6), default=5.0, metavar="S",
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
    picture = parser.add_argument_group("one photograph")
    picture.add_argument("--picture", metavar="FILE",
                         help="draw the keypoints of one person on a photograph, into --output; takes any skeleton")
    picture.add_argument("--bbox", type=box, metavar="X,Y,W,H",
                         help="the person's box in pixels; default: the whole photograph")
    args = parser.parse_args()
    check_options(args, {option for options in MODES.values() for option in options
                         if getattr(args, option) != parser.get_default(option)})
    return args


def main() -> int:
    """Measure alone, or as one of the ranks that torchrun started."""
    return ranks.run(measure) if "RANK" in os.environ else measure(None)


def measure(group: ranks.Ranks | None) -> int:
    """Measure, print, write; with other ranks, only rank 0 prints and writes."""
    args = parse_arguments()
    if group:
        check_rank_options(args)
    if args.picture is not None:
        return draw_photograph(args)
    args.datasets = choose_data_set(args)
    check_files(args)
    output = Path(args.output) if args.output else None
    summary = measure_repeatedly(args.repeats, output) if args.repeats > 1 else measure_once(args, output, group)
    if group and group.rank:
        return EXIT_OK
    if group:
        summary["command"] = group.command(summary["command"])
    print()
    print(table(summary))
    code, summary["missed_targets"] = check_targets(args, summary)
    if output:
        write_sealed(make_folder(output) / "summary.json", summary)
    return code


def measure_once(args: argparse.Namespace, output: Path | None, group: ranks.Ranks | None) -> dict[str, Any]:
    """Load the engine, measure in the mode that the options ask for, and print the figures. Returns the summary.

    Ranks other than 0 return an empty one.
    """
    engine = load_engine(args.engine)
    check_engine(args, engine)
    if args.scenario:
        measured = run_loadgen(args, engine, Path(args.output))
    elif args.perf_only:
        timed = partial(devices.measure_throughput, group) if group else measure_throughput
        measured = timed(engine, args.datasets, args.warmup, args.iterations, args.duration)
        if group and group.rank:
            return {}
        print(text.throughput_lines(measured, engine.record.batch))
        if output:
            clear_output(output)
    else:
        measured = run_accuracy(args, engine, output, group)
        if not measured:
            return {}
    if "conditions" in measured:
        print(text.conditions_line(measured["conditions"]))
    if group:
        group.finish()
    return summarize(engine.record, args.engine, measured, input_files(args))


def measure_repeatedly(number: int, output: Path | None) -> dict[str, Any]:
    """Run this command in ``number`` processes, one after the other, and print each speed. Returns their summary."""
    summaries = []
    for _ in range(number):
        summaries.append(repeats.measure_in_new_process(sys.argv))
        print(text.process_line(len(summaries), number, summaries[-1]), flush=True)
    summary = {**repeats.combine(summaries), "command": command_line(), "measured_at": now()}
    print(text.repeats_lines(summary))
    print(text.conditions_line(summary["conditions"]))
    if output:
        clear_output(output)
    return summary


def run_accuracy(args: argparse.Namespace, engine: Engine, output: Path | None, group: ranks.Ranks | None
                 ) -> dict[str, Any]:
    """Accuracy mode: predict, score, print, write keypoints and pictures. Returns the result for ``summary.json``.

    Ranks other than 0 only predict, and return an empty one.
    """
    reference = load_reference(args, engine)
    persons = choose_persons(args, engine)
    if args.visualize:
        find_ground_truth(persons)
    if group and group.rank:
        for each in filter(None, (engine, reference)):
            devices.predict(group, each, persons, args.flip_test)
        return {}
    predict = partial(devices.predict, group) if group else predict_all
    accuracy = measure_accuracy(engine, persons, args.flip_test, predict)
    print(accuracy.score.coco_lines)
    if output:
        clear_output(output)
        write_keypoints(make_folder(output) / "keypoints.json", accuracy.score.results)
    if output and args.visualize:
        print(f"Pictures: {write_pictures(output / 'pictures', args.visualize, accuracy.run.predictions, persons)}")
    measured = summarize_accuracy(accuracy, persons, args.flip_test)
    if group:
        print(text.ranks_lines(measured["ranks"]))
    if reference:
        expected = measure_accuracy(reference, persons, args.flip_test, predict)
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
    runner = loadgen.QueueRunner(engine, config, persons)
    print(text.loadgen_start_lines(runner, engine.record.batch), flush=True)
    clear_output(output)
    measured, score = loadgen.run_scenario(runner, persons, output)
    if score:
        print(score.coco_lines)
        write_keypoints(output / "keypoints.json", score.results)
    else:
        print(text.loadgen_lines(measured))
    return measured


def draw_photograph(args: argparse.Namespace) -> int:
    """Picture mode: predict one person's keypoints and draw them."""
    check_files(args)
    pixels = read_photograph(args.picture)
    height, width = pixels.shape[:2]
    try:
        bbox = to_corners(args.bbox or (0, 0, width, height), (width, height))
    except ValueError as error:
        raise KitError(f"--bbox: {error}; expected x,y,w,h in pixels of {args.picture}") from error
    engine = load_engine(args.engine)
    check_engine(args, engine)
    predictions = predict_person(engine, pixels, bbox)
    engine.close()
    path = make_folder(Path(args.output)) / "skeleton.jpg"
    check_name(path, args.picture)
    print(text.photograph_line(predictions, engine.record))
    print(f"Picture: {write_photograph(path, pixels, predictions, engine.record)}")
    return EXIT_OK


def input_files(args: argparse.Namespace) -> list[Path]:
    """The files that the result depends on. Images count as part of their annotations."""
    annotations = find_data_set(args.datasets).annotations if args.datasets else None
    return [Path(path) for path in (args.engine, args.reference, annotations, args.detections) if path]


def choose_data_set(args: argparse.Namespace) -> DataSet | str | None:
    """The data set that the options or ``$DATASETS_DIR`` name. Raises KitError if the options contradict each other."""
    if args.annotations is None and args.images is None:
        return os.environ.get("DATASETS_DIR") if args.datasets is None else args.datasets
    if args.annotations is None or args.images is None or args.datasets:
        raise KitError("--annotations FILE and --images DIR: belong together, and are given instead of --datasets")
    return DataSet(Path(args.annotations), Path(args.images))


def load_reference(args: argparse.Namespace, engine: Engine) -> Engine | None:
    """Load the engine of ``--reference``, if one is given. Raises KitError if its keypoints can't be compared."""
    if not args.reference:
        return None
    reference = load_engine(args.reference)
    check_skeleton(reference)
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
    if not args.perf_only and not args.picture:
        check_skeleton(engine)


def check_skeleton(engine: Engine) -> None:
    """Raise KitError unless the engine's keypoints are COCO's, by name and in this order."""
    record = engine.record
    if record.keypoints != COCO_KEYPOINTS or record.num_keypoints != len(COCO_KEYPOINTS):
        names = ", ".join(record.keypoints[:3]) + ", ..." if record.keypoints else "not named in its ONNX file"
        raise KitError(f"{engine.path}: gives {record.num_keypoints} keypoints of {first_line(record.skeleton, 60)} "
                       f"({first_line(names)}), COCO val2017 has {len(COCO_KEYPOINTS)} (nose, left_eye, right_eye, "
                       "...); only --perf_only works with it")


def check_options(args: argparse.Namespace, given: set[str]) -> None:
    """Raise KitError if the options contradict each other; ``given`` are those of :data:`MODES` that differ from the
    default."""
    mode = ("throughput" if args.perf_only else "accuracy") + (" with --scenario" if args.scenario else "")
    mode = "--picture" if args.picture is not None else mode
    for option in sorted(given - MODES[mode]):
        others = [name for name, options in MODES.items() if option in options]
        raise KitError(f"--{option}: has no effect on {mode}, only on {', '.join(others)}; leave it out")
    for option in ("visualize", "picture"):
        if getattr(args, option) is not None and not args.output:
            raise KitError(f"--{option}: needs --output DIR, where the pictures go")
    if args.scenario and not args.output:
        raise KitError("--scenario: needs --output DIR, where LoadGen's logs go")
    if args.target_qps and args.scenario == "singlestream":
        raise KitError("--target_qps: singlestream has no rate, each query follows the answer to the one before; "
                       "leave it out")
    if "target_latency" in given and args.scenario != "server":
        raise KitError(f"--target_latency: has no effect on {args.scenario}, only on server; leave it out")


def check_rank_options(args: argparse.Namespace) -> None:
    """Raise KitError if an option makes no sense for one of several ranks."""
    for option, given, why in (("scenario", args.scenario, "LoadGen sends its queries to one process"),
                               ("repeats", args.repeats > 1, "fresh processes are torchrun's to start; start it again"),
                               ("picture", args.picture is not None, "one person needs one process")):
        if given:
            raise KitError(f"--{option}: doesn't work under torchrun: {why}")


def check_files(args: argparse.Namespace) -> None:
    """Raise KitError if the output can't be written or the reference engine is missing, before a long run."""
    if args.output:
        check_folder(args.output)
    if args.reference:
        read_record(args.reference)


def check_targets(args: argparse.Namespace, summary: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code, and the targets that were missed; LoadGen's verdict goes before a missed target."""
    code, missed_targets = EXIT_OK, []
    for name, target, key, missed in (("--fps_target", args.fps_target, "fps", EXIT_THROUGHPUT_MISSED),
                                      ("--acc_target", args.acc_target, "AP", EXIT_ACCURACY_MISSED)):
        if target is None or key not in summary:
            continue
        reached = summary[key] >= target
        print(f"{name} {target:g}: {'reached' if reached else 'missed'} with {summary[key]:.4g}")
        if not reached:
            code = missed
            missed_targets.append(f"{name} {target:g} with {summary[key]:.4g}")
    return code if summary.get("valid", True) else EXIT_INVALID, missed_targets


if __name__ == "__main__":
    run(main)
