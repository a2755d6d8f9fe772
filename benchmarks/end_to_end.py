"""From image files to keypoints, as a share of what the engine does alone at the same batch.

    python3 benchmarks/end_to_end.py --engine rtmpose-t.engine --datasets unseen

The engine alone is the first timer of `inference.py --perf_only`, over a batch of the set's crops and for as many
batches as the set needs. The two take turns in one process. The last batch is rarely full, but costs a full run: the
share that this alone leaves is printed, too. Then what each stage outside the engine costs, in microseconds of one
core for a person, and what share is left where an engine on the CPU keeps all cores busy: no order of work can be
faster than its sum.
"""

from common import run

import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np
from contest import print_ratio, speed_parser, take_turns

from rtmpose.data import postprocess, preprocess
from rtmpose.data.dataset import PersonSet, load_persons
from rtmpose.data.loader import iterate_batches, read_image
from rtmpose.engines import Engine, headline_timer, load_engine
from rtmpose.evaluate.predict import predict


def compare(engine: Engine, persons: PersonSet, rounds: int) -> None:
    """Print the engine's throughput, that from files to keypoints, and the ratio."""
    batch = engine.record.batch
    runs = -(-len(persons) // batch)
    first = next(iter(iterate_batches(persons.images, engine.record.input_size, batch)))
    timer = headline_timer(engine, first.pixels)

    def alone() -> float:
        return runs * batch / sum(timer() for _ in range(runs)) * 1e3

    def whole() -> float:
        return len(persons) / predict(engine, persons).seconds

    alone(), whole()  # to warm up
    print(f"{len(persons)} persons in {len(persons.images)} images, batch {batch}, {engine.record.precision}, "
          f"{engine.record.runtime}")
    print_ratio(take_turns({"files to keypoints": whole, "engine alone": alone}, rounds))
    print(f"the last batch's padding alone leaves {len(persons) / (runs * batch):.3f}")


def print_stages(engine: Engine, persons: PersonSet) -> None:
    """Print what each stage outside the engine costs."""
    size, bins = engine.record.input_size, engine.record.bins
    images = persons.images[:50]
    people = [(image, person) for image in images for person in image.persons]
    pixels = {image.id: read_image(image) for image in images}
    regions = [preprocess.box_to_center_scale(person.bbox, size) for _, person in people]
    cuts = [preprocess.crop_person(pixels[image.id], *region, size)
            for (image, _), region in zip(people, regions, strict=True)]
    row = np.empty((3, size[1], size[0]), np.float32)
    random = np.random.default_rng(0)
    logits = [random.standard_normal((len(people), engine.record.num_keypoints, length), np.float32)
              for length in bins]
    centers, scales = map(np.stack, zip(*regions, strict=True))
    stages: dict[str, Callable[[], Any]] = {
        "read and decode the image": lambda: [read_image(image) for image in images],
        "box": lambda: [preprocess.box_to_center_scale(person.bbox, size) for _, person in people],
        "crop": lambda: [preprocess.crop_person(pixels[image.id], *region, size)
                         for (image, _), region in zip(people, regions, strict=True)],
        "normalise": lambda: [preprocess.normalize(cut, row) for cut in cuts],
        "check and decode logits": lambda: (
            [np.isfinite(axis).all((1, 2)) for axis in logits],
            postprocess.crop_to_image(postprocess.decode(*logits, size)[0], centers, scales, size)),
    }
    costs = {name: cost(stage) / len(people) for name, stage in stages.items()}
    for name, microseconds in costs.items():
        print(f"  {name}: {microseconds:.1f} us")
    if engine.record.backend != "tensorrt":
        crops = np.stack([preprocess.normalize(cut) for cut in islice(cycle(cuts), engine.record.batch)])
        alone = cost(lambda: engine.infer(crops), 5) / engine.record.batch
        print(f"  engine: {alone:.1f} us, which leaves at most {alone / (alone + sum(costs.values())):.3f}")


def cost(stage: Callable[[], Any], times: int = 9) -> float:
    """Microseconds that the process computes on all cores together, median of so many times."""
    samples = []
    for _ in range(times):
        start = time.process_time()
        stage()
        samples.append(time.process_time() - start)
    return float(np.median(samples)) * 1e6


def main() -> int:
    """Measure and print."""
    args = speed_parser(__doc__.splitlines()[0]).parse_args()
    engine, persons = load_engine(args.engine), load_persons(args.datasets)
    compare(engine, persons, args.rounds)
    print_stages(engine, persons)
    return 0


if __name__ == "__main__":
    run(main)
