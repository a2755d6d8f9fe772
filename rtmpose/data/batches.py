"""From images on disk to batches of crops: threads read and crop beside the engine, in bounded memory."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import cast

import cv2
import numpy as np

from rtmpose.data import preprocess
from rtmpose.data.coco import Image, Person
from rtmpose.data.images import read_image
from rtmpose.machine.cpu import count_cores


@dataclass(frozen=True)
class Crop:
    """One person cut out of an image."""

    person: Person
    pixels: np.ndarray  # uint8 (H, W, 3), BGR, as in the image; or normalised, float32 (3, H, W), RGB
    center: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Persons for one run of an engine."""

    crops: list[Crop]  # normalised; their pixels are the first rows of the batch's
    pixels: np.ndarray  # float32 (batch, 3, H, W), the engine's input; unused rows repeat the first crop


def cut_image(image: Image, input_size: tuple[int, int]) -> list[Crop]:
    """Read an image once and cut out all its persons, uint8 (H, W, 3)."""
    pixels = read_image(image)
    regions = preprocess.box_to_center_scale(np.stack([person.bbox for person in image.persons]), input_size)
    return [Crop(person, preprocess.crop_person(pixels, center, scale, input_size), center, scale)
            for person, center, scale in zip(image.persons, *regions, strict=True)]


def _fill_rows(image: Image, input_size: tuple[int, int], rows: Sequence[np.ndarray]) -> list[Crop]:
    """Cut out all persons of an image, normalised, each in its row, float32 (3, H, W)."""
    return [replace(crop, pixels=preprocess.normalize(crop.pixels, row))
            for crop, row in zip(cut_image(image, input_size), rows, strict=True)]


def iterate_batches(images: Iterable[Image], input_size: tuple[int, int], batch: int) -> Iterator[Batch]:
    """All persons of all images, in order, ``batch`` at a time; the last batch may hold fewer.

    Meanwhile, a thread for each core prepares the next batch, and writes crops where the engine reads them. Raises
    KitError if an image can't be used.
    """
    # The threads share out the images already; OpenCV's own threads would only add overhead.
    cv2.setNumThreads(1)
    # An engine waits for the slowest of its threads, so these are nicer, each for itself as Linux has it.
    with ThreadPoolExecutor(count_cores(), initializer=os.nice, initargs=(5,)) as pool:
        try:
            ahead = _cut_ahead(pool, images, input_size, batch)
            while crops := list(islice(ahead, batch)):
                pixels = cast(np.ndarray, crops[0].pixels.base)  # the array whose first row it is
                pixels[len(crops):] = pixels[0]
                yield Batch(crops, pixels)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _cut_ahead(pool: ThreadPoolExecutor, images: Iterable[Image], input_size: tuple[int, int], batch: int
               ) -> Iterator[Crop]:
    """All crops, normalised, in rows of one batch's array after another. While one is used, the next ``batch`` are
    cut out."""
    shape = (batch, 3, input_size[1], input_size[0])
    rows = chain.from_iterable(np.empty(shape, np.float32) for _ in repeat(None))
    jobs: deque[tuple[int, Future[list[Crop]]]] = deque()
    for image in images:
        own_rows = list(islice(rows, len(image.persons)))
        jobs.append((len(own_rows), pool.submit(_fill_rows, image, input_size, own_rows)))
        while sum(persons for persons, _ in jobs) > batch:
            yield from jobs.popleft()[1].result()
    for _, job in jobs:
        yield from job.result()
