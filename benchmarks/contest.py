"""Two sides take turns over the same images and boxes, and their speeds are compared; for the speed benchmarks."""

from common import Parser, positive

import itertools
import os
import time
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np

from rtmpose import turns
from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.coco import PersonSet
from rtmpose.engines import Engine
from rtmpose.evaluate.predict import predict_persons
from rtmpose.evaluate.predictions import Predictions
from rtmpose.report.summary import figure


def speed_parser(description: str) -> Parser:
    """A parser with the options of every speed benchmark."""
    parser = Parser(description=description)
    parser.add_argument("--engine", required=True, metavar="FILE", help="engine that build_engine.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="data set in COCO's layout")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns a side; default: %(default)s")
    return parser


T = TypeVar("T")


def take_turns(sides: dict[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each side's measurement returned in so many rounds."""
    found = itertools.islice(turns.take_turns(list(sides.values())), rounds)
    return dict(zip(sides, map(list, zip(*found, strict=True)), strict=True))


def print_ratio(samples: dict[str, list[float]]) -> None:
    """Print the medians of two sides, and their ratio with its interval."""
    (first, ours), (second, theirs) = samples.items()
    for name, values in samples.items():
        print(f"{name}: median {np.median(values):.2f} persons a second, {min(values):.2f} to {max(values):.2f}")
    ratio = turns.paired_ratio(theirs, ours)
    print(f"{first} / {second}: {figure(ratio.value, '.3f', ratio.interval)}; load average {os.getloadavg()[0]:.2f}")


def compare(engine: Engine, persons: PersonSet, name: str, predict_other: Callable[[], Predictions], rounds: int
            ) -> None:
    """Time the kit and another implementation from image files to keypoints; print the ratio and the agreement.

    Each side runs once to warm up. ``predict_other`` returns its predictions in the order of ``persons``.
    """
    record, opencv_threads = engine.record, cv2.getNumThreads()
    ours, others = predict_persons(engine, persons)[0], predict_other()

    def time_kit() -> float:
        return len(persons) / predict_persons(engine, persons)[2]

    def time_other() -> float:
        cv2.setNumThreads(opencv_threads)  # the kit switches OpenCV's threads off
        start = time.perf_counter()
        predict_other()
        return len(persons) / (time.perf_counter() - start)

    print(f"{len(persons)} persons in {len(persons.images)} images, batch {record.batch}; "
          f"the kit: {record.precision}, {record.runtime}")
    print_ratio(take_turns({"the kit": time_kit, name: time_other}, rounds))
    distances = crop_distances(ours.keypoints, others.keypoints, ours.scales, record.input_size)
    agreement = describe_agreement(distances, others.scores, record.input_size[0] / record.bins[0])
    line = f"keypoints that {name} scores above 0.2: {agreement['counted']}"
    if agreement["counted"]:
        line += f", at most one bin off {agreement['within_bin']:.2%}, worst {agreement['max_px']:.1f} px of the crop"
    print(line)
