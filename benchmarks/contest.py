"""What the benchmarks of speed share: two sides in turn, over the same images and boxes, and the ratio of medians."""

from common import Parser, positive

import os
import time
from collections.abc import Callable

import cv2
import numpy as np

from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.dataset import PersonSet
from rtmpose.engines import Engine
from rtmpose.evaluate.predict import predict
from rtmpose.evaluate.predictions import Predictions


def speed_parser(description: str) -> Parser:
    """A parser with what every benchmark of speed needs."""
    parser = Parser(description=description)
    parser.add_argument("--engine", required=True, metavar="FILE", help="what build_engine.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="images and boxes, laid out as COCO is")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns a side; default: %(default)s")
    return parser


def take_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every side once a round, in the other order every other round, so that none always runs on a machine that
    the other has warmed up.

    Args:
        sides: by name, what measures persons a second.
        rounds: how often.

    Returns:
        By name, what each call gave.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[::1 if number % 2 == 0 else -1]:
            samples[name].append(sides[name]())
    return samples


def print_ratio(samples: dict[str, list[float]]) -> None:
    """Medians of two sides, their ratio, and the range of the ratio from round to round."""
    (first, ours), (second, theirs) = samples.items()
    for name, values in samples.items():
        print(f"{name}: median {np.median(values):.2f} persons a second, {min(values):.2f} to {max(values):.2f}")
    rounds = np.divide(ours, theirs)
    print(f"{first} / {second}: {np.median(ours) / np.median(theirs):.3f}, "
          f"in single rounds {rounds.min():.3f} to {rounds.max():.3f}; load average {os.getloadavg()[0]:.2f}")


def contest(engine: Engine, persons: PersonSet, name: str, theirs: Callable[[], Predictions], rounds: int) -> None:
    """Time the kit and another implementation, from image files to keypoints, and print ratio and agreement.

    Args:
        engine: the kit's, for 17 keypoints.
        persons: whom both prediction.
        name: the other's.
        theirs: predictions every person, in the order of ``persons``.
        rounds: turns a side, after one of each to warm up.
    """
    threads = cv2.getNumThreads()
    record = engine.record
    ours, others = predict(engine, persons).predictions, theirs()

    def time_kit() -> float:
        return len(persons) / predict(engine, persons).seconds

    def time_other() -> float:
        cv2.setNumThreads(threads)  # the kit switched OpenCV's threads off
        start = time.perf_counter()
        theirs()
        return len(persons) / (time.perf_counter() - start)

    print(f"{len(persons)} persons in {len(persons.images)} images, batch {record.batch}; "
          f"the kit: {record.precision}, {record.runtime}")
    print_ratio(take_turns({"the kit": time_kit, name: time_other}, rounds))
    distances = crop_distances(ours.keypoints, others.keypoints, ours.scales, record.input_size)
    agreement = describe_agreement(distances, others.scores, record.input_size[0] / record.bins[0])
    print(f"keypoints that {name} scores above 0.2: {agreement['counted']}" + (
        f", within one SimCC bin {agreement['within_bin']:.2%}, furthest {agreement['max_px']:.1f} px of the crop"
        if agreement["counted"] else ""))
