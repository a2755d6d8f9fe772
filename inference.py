"""Engine -> keypoint AP on COCO or throughput, timed here or by MLPerf's LoadGen."""

from common import Parser, add_annotations, amount, between, boolean, box, choose_measured, positive, run

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rtmpose.data.annotations import expect
from rtmpose.data.coco import DataSet, PersonSet, find_data_set, is_inside, load_persons, to_corners
from rtmpose.data.images import read_photograph
from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.engines import Engine, files, load_engine
from rtmpose.engines.record import find_engine, read_record
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_INVALID, EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError, first_line
from rtmpose.evaluate import devices, loadgen, ranks, repeats
from rtmpose.evaluate.accuracy import check_comparable, compare_accuracy, measure_accuracy, summarize_accuracy
from rtmpose.evaluate.coco_eval import write_keypoints
from rtmpose.evaluate.predict import predict_person
from rtmpose.evaluate.throughput import SECONDS, SECONDS_ON_GPU, default_seconds, measure_throughput
from rtmpose.files import check_output, make_folder, sha256, write_sealed
from rtmpose.machine.versions import command_line, now
from rtmpose.report import text
from rtmpose.report.pictures import find_ground_truth, write_crops, write_photograph, write_pictures
from rtmpose.report.summary import clear_output, summarize, table

# The options that only some modes take: a mode refuses those that it would ignore.
MEASURING = {"datasets", "annotations", "images", "perf_only", "scenario"}
MODES = {
    "accuracy": MEASURING | {"detections", "flip_test", "limit", "reference", "visualize", "acc_target", "fps_target",
                             "reported_fps"},
    "throughput": MEASURING | {"warmup", "iterations", "duration", "repeats", "streams", "fps_target"},
    "accuracy with --scenario": MEASURING | {"detections", "limit", "acc_target", "target_qps", "target_latency"},
    "throughput with --scenario": MEASURING | {"detections", "limit", "fps_target", "min_duration", "target_qps",
                                               "target_latency"},
    "--picture": {"picture", "bbox"},
}


def parse_arguments() -> argparse.Namespace:
    """The command line. Raises KitError if its options contradict each other."""
    parser = Parser(description="Run an engine over COCO: keypoint AP by default, throughput with --perf_only. "
                                 "torchrun --nproc-per-node N runs it on N devices at once.",
                    epilog=f"Exit codes: 0 done and targets reached, 2 user error, {EXIT_ACCURACY_MISSED} --acc_target "
                           f"missed, {EXIT_THROUGHPUT_MISSED} --fps_target missed, {EXIT_INVALID} LoadGen calls the "
                           "run INVALID, 129, 130 and 143 interrupted.",
                    example="python3 inference.py --engine rtmpose_bs_32_fp16.engine --datasets coco --output results")
    parser.add_argument("--engine", type=find_engine, required=True, metavar="FILE",
                        help="engine that build_engine.py wrote; of --backend files, its folder")
    parser.add_argument("--batchsize", type=positive, metavar="N", help="must match the engine; default: the engine's")
    parser.add_argument("--input_name", metavar="NAME", help="must match the engine; default: the engine's")
    parser.add_argument("--datasets", nargs="?", const="", metavar="DIR",
                        help="folder with annotations/ and images/val2017/; default: $DATASETS_DIR")
    add_annotations(parser, "--datasets")
    parser.add_argument("--output", metavar="DIR", help="write summary.json, and keypoints.json of an accuracy run")
    parser.add_argument("--fps_target", type=amount, metavar="N", help="persons a second to reach")
    add_accuracy_options(parser.add_argument_group("accuracy"))
    add_throughput_options(parser.add_argument_group("throughput"))
    add_loadgen_options(parser.add_argument_group("MLPerf"))
    add_picture_options(parser.add_argument_group("one photograph"))
    args = parser.parse_args()
    given = {option for options in MODES.values() for option in options
             if getattr(args, option) != parser.get_default(option)}
    mode = ("throughput" if args.perf_only else "accuracy") + (" with --scenario" if args.scenario else "")
    check_options("--picture" if "picture" in given else mode, given, args.scenario, args.output)
    return args


def add_accuracy_options(group: argparse._ArgumentGroup) -> None:
    """Options of accuracy mode."""
    group.add_argument("--detections", metavar="FILE",
                       help="a detector's boxes in COCO result format; default: ground-truth boxes")
    group.add_argument("--flip_test", action="store_true", help="average with the mirrored crop")
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N images with persons")
    group.add_argument("--reference", type=find_engine, metavar="FILE",
                       help="another engine to compare keypoints with, e.g. FP32")
    group.add_argument("--visualize", type=positive, metavar="N",
                       help="draw the N persons of lowest and N of highest OKS, with ground truth, into --output")
    group.add_argument("--acc_target", type=between(0, 1), metavar="AP", help="AP@0.5:0.95 to reach, e.g. 0.773")
    group.add_argument("--reported_fps", type=amount, metavar="N",
                       help="of --backend files: the persons a second that the vendor's tool reports")


def add_throughput_options(group: argparse._ArgumentGroup) -> None:
    """Options of throughput mode."""
    group.add_argument("--perf_only", nargs="?", type=boolean, const=True, default=False, metavar="True",
                       help="time the engine, on crops of --datasets or else on random input")
    group.add_argument("--warmup", type=positive, default=5, metavar="N",
                       help="minimum warm-up batches; the warm-up ends when the speed is steady, after at most 10 s "
                            "and twice --duration; default: %(default)s")
    group.add_argument("--iterations", type=positive, default=20, metavar="N",
                       help="minimum number of timed batches; default: %(default)s")
    group.add_argument("--duration", type=between(0, 1e6), metavar="S",
                       help=f"minimum seconds of timing; default: {SECONDS:g} on a processor, {SECONDS_ON_GPU:g} on "
                            "other devices")
    group.add_argument("--repeats", type=positive, default=1, metavar="N",
                       help="time in N fresh processes; gives their median and a 95 %% interval; default: "
                            "%(default)s")
    group.add_argument("--streams", type=positive, default=1, metavar="N",
                       help="batches that a GPU computes at a time, with TensorRT; default: %(default)s")


def add_loadgen_options(group: argparse._ArgumentGroup) -> None:
    """Options of --scenario."""
    group.add_argument("--scenario", choices=loadgen.SCENARIOS, metavar="NAME",
                       help=f"run MLPerf's LoadGen: {', '.join(loadgen.SCENARIOS)}; performance with --perf_only, "
                            "else accuracy; its logs go into --output/loadgen")
    group.add_argument("--min_duration", type=amount, default=600.0, metavar="S",
                       help="minimum seconds of a performance run; default: %(default)g, MLPerf's")
    group.add_argument("--target_qps", type=amount, metavar="N",
                       help="samples a second: server's rate, offline's expected rate; default: from a short "
                            "measurement of the engine")
    group.add_argument("--target_latency", type=amount, default=100.0, metavar="MS",
                       help="server: latency limit for 99 %% of the queries; default: %(default)g, LoadGen's")


def add_picture_options(group: argparse._ArgumentGroup) -> None:
    """Options of --picture."""
    group.add_argument("--picture", metavar="FILE",
                       help="draw the keypoints of one person on a photograph, into --output; takes any skeleton")
    group.add_argument("--bbox", type=box, metavar="X,Y,W,H",
                       help="the person's box in pixels; default: the whole photograph")


def main() -> int:
    """Measure alone, or as one of the ranks that torchrun started."""
    return ranks.run_as_rank(measure) if "RANK" in os.environ else measure(None)


def measure(group: ranks.Ranks | None) -> int:
    """Measure in the mode that the options ask for, print, write. Of several ranks only rank 0 prints and writes."""
    args = parse_arguments()
    if group:
        check_ranks({"scenario": args.scenario, "repeats": args.repeats > 1, "picture": args.picture is not None})
    if args.output:
        check_output(Path(args.output) / "summary.json", parents=True)
    output = Path(args.output) if args.output else None
    data_set = choose_measured(args.datasets, args.annotations, args.images)
    if args.reference:
        read_record(args.reference)  # before a long run
    check_files(args.engine, args.reported_fps, {
        "--perf_only": args.perf_only, "--scenario": args.scenario, "--picture": args.picture,
        "--flip_test": args.flip_test, "--fps_target": args.fps_target, "torchrun": group})
    if args.picture is not None:
        draw_photograph(args.engine, args.batchsize, args.input_name, args.picture, args.bbox, Path(args.output))
        return EXIT_OK
    if args.repeats > 1:
        summary = time_repeatedly(args.repeats, output)
    else:
        engine = open_engine(args.engine, args.batchsize, args.input_name, coco=not args.perf_only)
        if args.scenario:
            config = loadgen.LoadGenConfig(args.scenario, not args.perf_only, args.min_duration, args.target_qps,
                                           args.target_latency)
            measured = query_by_loadgen(engine, config, data_set, args.detections, args.limit, Path(args.output))
        elif args.perf_only:
            duration = default_seconds(engine.record.device) if args.duration is None else args.duration
            measured = time_engine(engine, data_set, args.warmup, args.iterations, duration, args.streams, output,
                                   group)
        else:
            measured = predict_and_score(engine, args.reference, data_set, args.detections, args.limit, args.flip_test,
                                         args.visualize, args.reported_fps, output, group)
        if group:
            group.finish()
        if group and group.rank:
            return EXIT_OK
        if "conditions" in measured:
            print(text.closing_lines(measured))
        annotations = find_data_set(data_set).annotations if data_set else None
        inputs = [path for path in (args.engine, args.reference, annotations, args.detections) if path]
        summary = summarize(engine.record, args.engine, measured, inputs)
        if group:
            summary["command"] = group.command(summary["command"])
    print()
    print(table(summary))
    code, summary["missed_targets"] = check_targets(summary, args.fps_target, args.acc_target)
    if output:
        write_sealed(make_folder(output) / "summary.json", summary)
    return code


def predict_and_score(engine: Engine, reference_path: str | None, data_set: DataSet | str | None,
                      detections: str | None, limit: int | None, flip_test: bool, visualize: int | None,
                      reported_fps: float | None, output: Path | None, group: ranks.Ranks | None) -> dict[str, Any]:
    """Accuracy: predict everybody's keypoints, score them, compare them with the reference engine's; print, write and
    draw. Returns the result for ``summary.json``, on ranks other than 0, which only predict, an empty one."""
    reference = load_reference(reference_path, engine) if reference_path else None
    persons = load_persons(data_set, detections, limit)
    print_persons(engine, persons, "Accuracy", flip_test)
    if visualize:
        find_ground_truth(persons)
    measure_one = partial(devices.measure_accuracy_by_ranks, group) if group else measure_accuracy
    accuracy = measure_one(engine, persons, flip_test)
    if group and group.rank:
        if reference:
            measure_one(reference, persons, flip_test)
        return {}
    print(accuracy.coco_lines)
    if output:
        clear_output(output)
        write_keypoints(make_folder(output) / "keypoints.json", accuracy.results)
    if output and visualize:
        print(f"Pictures: {write_pictures(output / 'pictures', visualize, accuracy.predictions, persons)}")
    measured = summarize_accuracy(accuracy, persons, flip_test, engine.record, reported_fps)
    if group:
        print(text.ranks_lines(measured["ranks"]))
    if reference:
        expected = measure_one(reference, persons, flip_test)
        measured["agreement"], worst = compare_accuracy(engine, accuracy, reference, expected)
        print(text.agreement_lines(measured["agreement"]))
        if output and worst:
            written = write_crops(output / "agreement", worst, accuracy.predictions, expected.predictions,
                                  persons)
            print(f"  {len(worst)} worst crops: {written}")
    return measured


def time_engine(engine: Engine, data_set: DataSet | str | None, warmup: int, iterations: int, duration: float,
                streams: int, output: Path | None, group: ranks.Ranks | None) -> dict[str, Any]:
    """Throughput: time one batch over and over, on all ranks at once. Returns the result for ``summary.json``, on ranks
    other than 0 an empty one."""
    if streams > 1:
        if not isinstance(engine, TensorRTEngine):
            raise KitError(f"--streams {streams}: only TensorRT has several streams here; leave it out (OpenVINO's are "
                           "chosen when an engine is built, with --hint throughput)")
        engine.add_streams(streams - 1)
    timed = partial(devices.measure_throughput_by_ranks, group) if group else measure_throughput
    measured = timed(engine, data_set, warmup, iterations, duration)
    if group and group.rank:
        return {}
    if streams > 1:
        measured["streams"] = streams
    print(text.throughput_lines(measured, engine.record.batch))
    if output:
        clear_output(output)
    return measured


def time_repeatedly(number: int, output: Path | None) -> dict[str, Any]:
    """Throughput of ``number`` processes of this command, one after the other. Returns their summary."""
    summaries = []
    for _ in range(number):
        summaries.append(repeats.measure_in_new_process(sys.argv))
        print(text.process_line(len(summaries), number, summaries[-1]), flush=True)
    summary = {**repeats.combine(summaries), "command": command_line(), "measured_at": now()}
    print(text.repeats_line(summary))
    print(text.closing_lines(summary))
    if output:
        clear_output(output)
    return summary


def query_by_loadgen(engine: Engine, config: loadgen.LoadGenConfig, data_set: DataSet | str | None,
                     detections: str | None, limit: int | None, output: Path) -> dict[str, Any]:
    """MLPerf: LoadGen queries the engine; only accuracy needs a data set. Returns the result for ``summary.json``."""
    persons = load_persons(data_set, detections, limit) if data_set or config.accuracy else None
    if persons:
        print_persons(engine, persons, "Accuracy" if config.accuracy else "Performance")
    runner = loadgen.QueueRunner(engine, config, persons)
    print(text.loadgen_start_lines(runner, engine.record.batch), flush=True)
    clear_output(output)
    measured, results, coco_lines = loadgen.run_scenario(runner, persons, output)
    if config.accuracy:
        print(coco_lines)
        write_keypoints(output / "keypoints.json", results)
    else:
        print(text.loadgen_lines(measured))
    return measured


def draw_photograph(engine_path: str, batch: int | None, input_name: str | None, picture: str,
                    bbox: Sequence[float] | None, output: Path) -> None:
    """Picture: predict one person's keypoints on a photograph and draw them. Raises KitError for a box outside it."""
    pixels = read_photograph(picture)
    height, width = pixels.shape[:2]
    try:
        corners = to_corners(bbox or (0, 0, width, height))
        expect(is_inside(corners, (width, height)), "box", bbox, f"one with a part in the image of {width}x{height}")
    except ValueError as error:
        raise KitError(f"--bbox: {error}; expected x,y,w,h in pixels of {picture}") from error
    engine = open_engine(engine_path, batch, input_name, coco=False)
    predictions = predict_person(engine, pixels, corners)
    engine.close()
    path = make_folder(output) / "skeleton.jpg"
    check_output(path, picture)
    print(text.photograph_line(predictions, engine.record))
    print(f"Picture: {write_photograph(path, pixels, predictions, engine.record)}")


def open_engine(path: str, batch: int | None, input_name: str | None, coco: bool) -> Engine:
    """Load an engine. Raises KitError if it differs from the given batch size or input name, or if it has to have
    COCO's keypoints and has others."""
    engine = load_engine(path)
    record = engine.record
    if batch not in (None, record.batch):
        raise KitError(f"{path}: was built for batch {record.batch}, --batchsize says {batch}; build an engine for "
                       "that batch size")
    if input_name not in (None, record.input_name):
        raise KitError(f"{path}: has the input {record.input_name}, --input_name says {input_name}")
    if coco:
        check_skeleton(engine)
    return engine


def load_reference(path: str, engine: Engine) -> Engine:
    """Load the engine to compare keypoints with. Raises KitError if they can't be compared."""
    reference = load_engine(path)
    check_skeleton(reference)
    check_comparable(engine, reference)
    return reference


def check_skeleton(engine: Engine) -> None:
    """Raise KitError unless the engine's keypoints are COCO's, by name and in this order."""
    record = engine.record
    if record.keypoints != COCO_KEYPOINTS or record.num_keypoints != len(COCO_KEYPOINTS):
        names = ", ".join(record.keypoints[:3]) + ", ..." if record.keypoints else "not named in its ONNX file"
        unnamed = not record.keypoints and record.num_keypoints == len(COCO_KEYPOINTS)
        advice = ("if they are the same, build it again with --skeleton coco" if unnamed else
                  "only --perf_only works with it")
        raise KitError(f"{engine.path}: gives {record.num_keypoints} keypoints of {first_line(record.skeleton, 60)} "
                       f"({first_line(names)}), COCO val2017 has {len(COCO_KEYPOINTS)} (nose, left_eye, right_eye, "
                       f"...); {advice}")


def print_persons(engine: Engine, persons: PersonSet, mode: str, flip_test: bool = False) -> None:
    """Print who is measured, and a note if INT8 was calibrated on them."""
    print(text.persons_line(persons, mode, flip_test), flush=True)
    calibrated = engine.record.calibration.get("annotations_sha256")
    if calibrated and calibrated == sha256(persons.annotations.path):
        print("Note: this engine was calibrated on this data set; its AP on others may be lower")


def check_options(mode: str, given: set[str], scenario: str | None, output: str | None) -> None:
    """Raise KitError if the options contradict each other; ``given`` are those of :data:`MODES` that differ from the
    default."""
    for option in sorted(given - MODES[mode]):
        others = [name for name, options in MODES.items() if option in options]
        raise KitError(f"--{option}: has no effect on {mode}, only on {', '.join(others)}; leave it out")
    for option, content in (("visualize", "the pictures go"), ("picture", "the pictures go"),
                            ("scenario", "LoadGen's logs go")):
        if option in given and not output:
            raise KitError(f"--{option}: needs --output DIR, where {content}")
    if "target_qps" in given and scenario == "singlestream":
        raise KitError("--target_qps: singlestream has no rate, each query follows the answer to the one before; "
                       "leave it out")
    if "target_latency" in given and scenario != "server":
        raise KitError(f"--target_latency: has no effect on {scenario}, only on server; leave it out")


def check_files(engine: str, reported_fps: float | None, given: dict[str, Any]) -> None:
    """Raise KitError for what an engine of --backend files can't do, of ``given``, or what only that can do."""
    if read_record(engine).backend != files.NAME:
        if reported_fps:
            raise KitError(f"--reported_fps: {engine} runs here and is timed; leave it out")
        return
    for option in filter(given.get, given):
        raise KitError(f"{option}: {engine} runs nothing, it has the outputs that the vendor's tool wrote for its "
                       "inputs; leave it out, and give that tool's speed with --reported_fps")


def check_ranks(given: dict[str, Any]) -> None:
    """Raise KitError if an option is given that makes no sense for one of several ranks."""
    for option, why in (("scenario", "LoadGen sends its queries to one process"),
                        ("repeats", "fresh processes are torchrun's to start; start it again"),
                        ("picture", "one person needs one process")):
        if given[option]:
            raise KitError(f"--{option}: doesn't work under torchrun: {why}")


def check_targets(summary: dict[str, Any], fps: float | None, ap: float | None) -> tuple[int, list[str]]:
    """The exit code, and the targets that were missed; LoadGen's verdict goes before a missed target."""
    code, missed_targets = EXIT_OK, []
    for name, target, key, missed in (("--fps_target", fps, "fps", EXIT_THROUGHPUT_MISSED),
                                      ("--acc_target", ap, "AP", EXIT_ACCURACY_MISSED)):
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
