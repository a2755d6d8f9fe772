"""Throughput from image files to keypoints, as a share of the engine's alone at the same batch.

    python3 benchmarks/end_to_end.py --engine rtmpose-t.engine --datasets unseen

The engine alone is timed as by `inference.py --perf_only`, on a batch of the set's crops, for as many batches as the
set needs. The two take turns in one process. The last batch is rarely full but costs a full run; the share that this
costs is printed as well. Then follows the cost of each stage outside the engine, in microseconds of one core a person.
With an engine on the CPU, which keeps all cores busy, their sum limits the share: no order of work can be faster.
"""

from common import run

import math
import time
from collections.abc import Callable

import numpy as np
from contest import print_ratio, speed_parser, take_turns

from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.images import read_image
from rtmpose.engines import Engine, headline_timer, load_engine
from rtmpose.evaluate.predict import predict_persons
from rtmpose.evaluate.predictions import check_and_decode
from rtmpose.evaluate.throughput import throughput_input
from rtmpose.timing import finish


def compare(engine: Engine, persons: PersonSet, crops: np.ndarray, rounds: int) -> None:
    """Print the throughput of the engine, that from files to keypoints, and their ratio."""
    batch = engine.record.batch
    batches = math.ceil(len(persons) / batch)
    batch_timer = headline_timer(engine, crops)

    def time_engine() -> float:
        milliseconds = sum(batch_timer() for _ in range(batches))
        finish(batch_timer)
        return batches * batch / milliseconds * 1e3

    def time_pipeline() -> float:
        return len(persons) / predict_persons(engine, persons)[2]

    time_engine()  # to warm up, as the next
    time_pipeline()
    print(f"{len(persons)} persons in {len(persons.images)} images, batch {batch}, {engine.record.precision}, "
          f"{engine.record.runtime}")
    print_ratio(take_turns({"files to keypoints": time_pipeline, "engine alone": time_engine}, rounds))
    print(f"upper limit because of the last batch's padding: {len(persons) / (batches * batch):.3f}")


def stage_costs(engine: Engine, persons: PersonSet) -> dict[str, float]:
    """Microseconds of one core a person in each stage outside the engine, measured on the first 50 images."""
    size, images = engine.record.input_size, persons.images[:50]
    bboxes = [person.bbox for image in images for person in image.persons]

    def read_images() -> list[np.ndarray]:
        return [read_image(image) for image in images]

    def find_regions() -> list[tuple[np.ndarray, np.ndarray]]:
        return [preprocess.box_to_center_scale(bbox, size) for bbox in bboxes]

    def crop() -> list[np.ndarray]:
        return [preprocess.crop_person(pixels, *region, size) for pixels, region in zip(owners, regions, strict=True)]

    def normalize() -> None:
        for pixels in crops:
            preprocess.normalize(pixels, out)

    def decode_logits() -> np.ndarray:
        return postprocess.crop_to_image(check_and_decode(*logits, size)[0], centers, scales, size)

    owners = [pixels for image, pixels in zip(images, read_images(), strict=True) for _ in image.persons]
    regions = find_regions()
    centers, scales = map(np.stack, zip(*regions, strict=True))
    crops, out = crop(), np.empty((3, size[1], size[0]), np.float32)
    random = np.random.default_rng(0)
    logits = [random.standard_normal((len(bboxes), engine.record.num_keypoints, bins), np.float32)
              for bins in engine.record.bins]
    stages = {"read and decode the image": read_images, "box": find_regions, "crop": crop, "normalise": normalize,
              "check and decode logits": decode_logits}
    return {name: cpu_time(stage) / len(bboxes) for name, stage in stages.items()}


def cpu_time(work: Callable[[], object], runs: int = 9) -> float:
    """Microseconds of work on all cores of this process together, the median of some runs."""
    samples = []
    for _ in range(runs):
        start = time.process_time()
        work()
        samples.append(time.process_time() - start)
    return float(np.median(samples)) * 1e6


def main() -> int:
    """Measure and print."""
    args = speed_parser(__doc__).parse_args()
    engine, persons = load_engine(args.engine), load_persons(args.datasets)
    crops, _ = throughput_input(args.datasets, engine)
    compare(engine, persons, crops, args.rounds)
    costs = stage_costs(engine, persons)
    for name, microseconds in costs.items():
        print(f"  {name}: {microseconds:.1f} us")
    if engine.record.backend != "tensorrt":
        engine_us = cpu_time(lambda: engine.infer(crops), runs=5) / engine.record.batch
        limit = engine_us / (engine_us + sum(costs.values()))
        print(f"  engine: {engine_us:.1f} us; CPU-bound upper limit: {limit:.3f}")
    return 0


if __name__ == "__main__":
    run(main)
