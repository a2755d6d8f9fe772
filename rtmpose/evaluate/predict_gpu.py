"""Every person of a set through a TensorRT engine: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.evaluate.predict`.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from tqdm import tqdm

from rtmpose.data import preprocess
from rtmpose.data.dataset import Image, Person, PersonSet
from rtmpose.data.loader import look_ahead, read_image
from rtmpose.engines.gpu_stream import CropRegion, GpuStream
from rtmpose.engines.tensorrt_backend import TensorRTEngine
from rtmpose.environment import count_cores
from rtmpose.evaluate.predict import Run
from rtmpose.evaluate.predictions import check_finite, join, to_predictions


@dataclass(frozen=True)
class PersonRegion(CropRegion):
    """The region of an image that shows ``person``."""

    person: Person


def predict(engine: TensorRTEngine, persons: PersonSet, flip_test: bool = False) -> Run:
    """Predict keypoints as :func:`rtmpose.evaluate.predict.predict` does.

    A batch's milliseconds are those from the start of its upload to the end of its download. Raises KitError also if
    memory runs out.
    """
    record, parts, batch_ms = engine.record, [], []
    stream = GpuStream(engine, largest_batch(persons.images, record.batch), flip_test)
    start = time.perf_counter()
    with tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar:
        for result in stream.run(iterate_regions(persons.images, record.input_size, record.batch)):
            check_finite(~np.isnan(result.scores).any(axis=1))
            parts.append(to_predictions(result.regions, result.keypoints, result.scores, record.input_size))
            batch_ms.append(result.milliseconds)
            bar.update(len(result.regions))
    return Run(join(parts), batch_ms, time.perf_counter() - start)


def largest_batch(images: Sequence[Image], batch_size: int) -> int:
    """Maximum number of bytes of 8-bit BGR in the images of one batch of :func:`iterate_regions`."""
    owners = [image for image in images for _ in image.persons]
    return max(sum({image.id: 3 * image.width * image.height for image in owners[i:i + batch_size]}.values())
               for i in range(0, len(owners), batch_size))


def iterate_regions(images: Iterable[Image], input_size: tuple[int, int], batch_size: int
                    ) -> Iterator[list[PersonRegion]]:
    """All persons of all images in order, ``batch_size`` at a time; the last list may be shorter.

    One thread per core reads ahead, up to four images each.
    """
    threads = count_cores()
    with ThreadPoolExecutor(threads) as pool:
        jobs = ((1, pool.submit(read_regions, image, input_size)) for image in images)
        by_image: Iterator[list[PersonRegion]] = look_ahead(jobs, 4 * threads)
        regions = chain.from_iterable(by_image)
        try:
            while batch := list(islice(regions, batch_size)):
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_regions(image: Image, input_size: tuple[int, int]) -> list[PersonRegion]:
    """Read an image once and find the regions of its persons."""
    pixels = read_image(image)
    return [PersonRegion(pixels, *preprocess.box_to_center_scale(person.bbox, input_size), person)
            for person in image.persons]
