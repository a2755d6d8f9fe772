"""Engine -> keypoint AP on COCO, or timed throughput."""

from common import Parser, boolean, positive, run

import argparse
import os
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose import crop, report, score, timing
from rtmpose.agreement import crop_distances, describe_agreement, worst_crops
from rtmpose.coco import NUM_KEYPOINTS, PersonSet, load_persons
from rtmpose.engines import Engine, load_engine
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_OK, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.files import make_folder, write_json
from rtmpose.picture import write_crops, write_pictures
from rtmpose.pipeline import Run, estimate, iterate_crops


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Run an engine over COCO: keypoint AP by default, throughput with --perf_only.",
                    epilog=f"Exit codes: 0 done and targets reached, 2 a mistake, {EXIT_ACCURACY_MISSED} --acc_target "
                           f"missed, {EXIT_THROUGHPUT_MISSED} --fps_target missed, 130 interrupted.")
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
                          help="draw the N worst and the N best images, estimate beside truth, into --output")
    accuracy.add_argument("--acc_target", type=float, metavar="AP", help="AP@0.5:0.95 to reach, e.g. 0.773")
    throughput = parser.add_argument_group("throughput")
    throughput.add_argument("--perf_only", nargs="?", type=boolean, const=True, default=False, metavar="True",
                            help="time the engine; needs no data set, but takes real crops from one that is given")
    throughput.add_argument("--warmup", type=positive, default=5, metavar="N", help="batches; default: %(default)s")
    throughput.add_argument("--iterations", type=positive, default=20, metavar="N",
                            help="at least so many batches; default: %(default)s")
    throughput.add_argument("--duration", type=float, default=5.0, metavar="S",
                            help="at least so many seconds; default: %(default)s")
    parser.add_argument("--fps_target", type=float, metavar="N", help="persons a second to reach")
    return parser.parse_args()


def main() -> int:
    """Load the engine, measure, print, write."""
    args = parse_arguments()
    engine = load_engine(args.engine)
    check_engine(args, engine)
    measured = measure_throughput(args, engine) if args.perf_only else measure_accuracy(args, engine)
    summary = report.summarize(engine.record, args.engine, measured)
    print()
    print(report.table(summary))
    if args.output:
        write_json(make_folder(Path(args.output)) / "summary.json", summary)
    return check_targets(args, summary)


def check_engine(args: argparse.Namespace, engine: Engine) -> None:
    """Hold the command line against the engine.

    Raises:
        KitError: they contradict each other.
    """
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


def measure_accuracy(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """Estimate every person and score the result."""
    persons = load_persons(args.datasets, args.detections, args.limit)
    boxes = f"boxes of {args.detections}" if args.detections else "ground-truth boxes"
    print(f"Accuracy: {persons.number} persons in {len(persons.images)} images, {boxes}, "
          f"{'flip test' if args.flip_test else 'no flip test'}", flush=True)
    if persons.skipped:
        print(f"Left out: {persons.skipped} persons whose box is empty or outside the image, as mmpose does")
    run = estimate(engine, persons, args.flip_test)
    results = score.to_results(run.estimates)
    metrics, lines = score.evaluate(results, persons)
    print(lines)
    if args.output:
        write_keypoints(make_folder(Path(args.output)) / "keypoints.json", results)
    if args.visualize:
        print(f"Pictures: {write_pictures(Path(args.output) / 'pictures', args.visualize, run.estimates, persons)}")
    agreement = {"agreement": measure_agreement(args, engine, persons, run, metrics["AP"])} if args.reference else {}
    return {
        "mode": "accuracy",
        **metrics,
        **agreement,
        "persons": persons.number,
        "images": len(persons.images),
        "boxes": boxes,
        "flip_test": args.flip_test,
        "fps": persons.number / run.seconds,
        "fps_of": "persons a second from image files to keypoints, scoring not included",
        "latency_ms": timing.describe_latency(run.batch_ms),
        "latency_of": "one run of the engine on one batch, host to host",
    }


def measure_agreement(args: argparse.Namespace, engine: Engine, persons: PersonSet, run: Run, ap: float
                      ) -> dict[str, Any]:
    """Run the reference engine over the same crops, and say how far the keypoints are from its."""
    other, record = load_engine(args.reference), engine.record
    if (other.record.input_size, other.record.bins) != (record.input_size, record.bins):
        raise KitError(f"{args.reference}: has crops of {other.record.input_size} (WxH) and {other.record.bins} bins, "
                       f"{args.engine} has {record.input_size} and {record.bins}; they must be the same to be compared")
    reference = estimate(other, persons, args.flip_test)
    distances = crop_distances(run.estimates, reference.estimates, record.input_size)
    scores = np.stack([one.scores for one in reference.estimates])
    reference_ap = score.evaluate(score.to_results(reference.estimates), persons)[0]["AP"]
    agreement = {
        **describe_agreement(distances, scores, record.input_size[0] / record.bins[0]),
        "ap_reference": reference_ap,
        "ap_difference": ap - reference_ap,
        "reference": {"path": args.reference, "sha256": other.record.engine_sha256,
                      "precision": other.record.precision},
    }
    print(report.agreement_lines(agreement))
    worst = worst_crops(distances, scores)
    if args.output and worst:
        folder = Path(args.output) / "agreement"
        print(f"  {len(worst)} worst crops: "
              f"{write_crops(folder, worst, run.estimates, reference.estimates, persons, record.input_size)}")
    return agreement


def write_keypoints(path: Path, results: list[dict[str, Any]]) -> None:
    """Write what was scored in COCO result format, in the order of the annotations."""
    ordered = sorted(results, key=lambda result: result["index"])
    write_json(path, [{key: value for key, value in result.items() if key != "index"} for result in ordered])


def measure_throughput(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """Time the engine on one batch, over and over."""
    crops, source = throughput_input(args.datasets, engine)
    latencies = {}
    for what, timer in engine.timers(crops).items():
        samples = timing.measure(timer, args.warmup, args.iterations, args.duration, "Timing")
        latencies[what] = describe_timing(samples, engine.record.batch)
    (what, headline), *others = latencies.items()
    print(f"* Mean inference time: {headline['mean']:.3f} ms, Mean fps: {headline['fps']:.2f}")
    for name, latency in latencies.items():
        print(f"  {name}: mean {latency['mean']:.3f} ms, median {latency['median']:.3f} ms, p90 {latency['p90']:.3f} "
              f"ms, p99 {latency['p99']:.3f} ms, spread {latency['spread']:.1%}, {latency['fps']:.2f} persons a second")
    print(f"  timed: {headline['iterations']} batches of {engine.record.batch} after {args.warmup} to warm up; "
          f"input: {source}; reading, cropping and decoding not included")
    return {
        "mode": "throughput",
        "fps": headline["fps"],
        "fps_of": what,
        "latency_ms": {key: headline[key] for key in ("mean", "median", "p90", "p99")},
        "spread": headline["spread"],
        "iterations": headline["iterations"],
        "warmup": args.warmup,
        "input": source,
        "other_timings": dict(others),
    }


def throughput_input(folder: str | None, engine: Engine) -> tuple[np.ndarray, str]:
    """One batch, float32 (batch, 3, H, W), and what it is: real crops where a data set is given, else noise."""
    batch, size = engine.record.batch, engine.record.input_size
    if folder:
        images = load_persons(folder, limit=batch).images
        crops = [one.pixels for one in islice(iterate_crops(images, size), batch)]
        return np.stack(list(islice(cycle(crops), batch))), f"crops of {folder}"
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (batch, size[1], size[0], 3), np.uint8)
    return np.stack([crop.normalize(image) for image in pixels]), "random pixels"


def describe_timing(samples: np.ndarray, batch: int) -> dict[str, float]:
    """Milliseconds a batch and persons a second."""
    latency = timing.describe_latency(samples)
    return {**latency, "spread": timing.spread(samples), "iterations": len(samples),
            "fps": batch / latency["mean"] * 1e3}


def check_targets(args: argparse.Namespace, summary: dict[str, Any]) -> int:
    """The exit code that the targets ask for."""
    code = EXIT_OK
    for name, target, key, missed in (("--fps_target", args.fps_target, "fps", EXIT_THROUGHPUT_MISSED),
                                      ("--acc_target", args.acc_target, "AP", EXIT_ACCURACY_MISSED)):
        if target is None or key not in summary:
            continue
        reached = summary[key] >= target
        print(f"{name} {target:g}: {'reached' if reached else 'missed'} with {summary[key]:.4g}")
        code = code if reached else missed
    return code


if __name__ == "__main__":
    run(main)
