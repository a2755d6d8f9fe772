"""From images on disk to keypoints where a TensorRT engine runs: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.pipeline`.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, tee

import numpy as np
from tqdm import tqdm

from rtmpose import crop
from rtmpose.coco import Image, Person, PersonSet
from rtmpose.engines.keypoint_stream import Cutting, KeypointStream
from rtmpose.engines.tensorrt_backend import TensorRTEngine
from rtmpose.machine import count_cores
from rtmpose.pipeline import Run, read_image, refuse_broken, to_estimates
from rtmpose.score import Estimates


@dataclass(frozen=True)
class PersonCutting(Cutting):
    """What is to be cut out, and whom it shows."""

    person: Person


def estimate(engine: TensorRTEngine, persons: PersonSet, flip_test: bool = False) -> Run:
    """Estimate every person; what :func:`rtmpose.pipeline.estimate` is for other engines.

    ``batch_ms`` of the result holds milliseconds from the start of a batch's copy up to the end of its copy down.

    Args:
        engine: for 17 keypoints.
        persons: whom.
        flip_test: average with the mirrored crop, as mmpose's ``flip_test`` does.

    Raises:
        KitError: an image can't be used, there is not enough memory, or the engine gives something else than numbers.
    """
    record, run = engine.record, Run(Estimates(persons))
    stream = KeypointStream(engine, largest_batch(persons.images, record.batch), flip_test)
    start = time.perf_counter()
    sent, kept = tee(batches(persons.images, record.input_size, record.batch))
    with tqdm(total=persons.number, unit="person", desc="Estimating", disable=None) as bar:
        for batch, (keypoints, scores, milliseconds) in zip(kept, stream.run(sent), strict=True):
            run.batch_ms.append(milliseconds)
            refuse_broken(np.isnan(scores).any(axis=1))
            run.estimates.extend(to_estimates(batch, keypoints, scores, record.input_size))
            bar.update(len(batch))
    run.seconds = time.perf_counter() - start
    return run


def largest_batch(images: Sequence[Image], batch: int) -> int:
    """The most bytes of 8-bit BGR that the images of one of :func:`batches` hold together."""
    people = [image for image in images for _ in image.persons]
    return max(sum({id(image): 3 * image.width * image.height for image in people[i:i + batch]}.values())
               for i in range(0, len(people), batch))


def batches(images: Iterable[Image], input_size: tuple[int, int], batch: int) -> Iterator[list[PersonCutting]]:
    """All persons of all images, in order, ``batch`` at a time; the last list may be shorter."""
    people = (person for cuttings in _read_ahead(images, input_size) for person in cuttings)
    while taken := list(islice(people, batch)):
        yield taken


def _read_ahead(images: Iterable[Image], input_size: tuple[int, int]) -> Iterator[list[PersonCutting]]:
    """Each image's persons, read ahead by as many threads as there are cores; a few images a thread wait."""
    workers = count_cores()
    images = iter(images)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[PersonCutting]]] = deque(
            pool.submit(read_persons, image, input_size) for image in islice(images, 4 * workers))
        try:
            while waiting:
                cuttings = waiting.popleft().result()
                waiting.extend(pool.submit(read_persons, image, input_size) for image in islice(images, 1))
                yield cuttings
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_persons(image: Image, input_size: tuple[int, int]) -> list[PersonCutting]:
    """Read an image once, and say where its persons are."""
    pixels = read_image(image)
    return [PersonCutting(pixels, *crop.box_to_center_scale(person.bbox, input_size), person)
            for person in image.persons]
