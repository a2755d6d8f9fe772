"""From images on disk to batches of crops: threads read and crop beside the engine, in bounded memory."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TypeVar

import cv2
import numpy as np

from rtmpose.data import preprocess
from rtmpose.data.coco import Image, Person
from rtmpose.data.images import read_image
from rtmpose.machine.cpu import count_cores

T = TypeVar("T")


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
    pixels: np.ndarray  # float32 (batch size, 3, H, W), the engine's input; unused rows repeat the first crop


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


def iterate_batches(images: Iterable[Image], input_size: tuple[int, int], batch_size: int) -> Iterator[Batch]:
    """All persons of all images, in order, ``batch_size`` at a time; the last batch may hold fewer.

    Meanwhile, a thread for each core prepares the next batch, and writes crops where the engine reads them. Raises
    KitError if an image can't be used.
    """
    # The threads share out the images already; OpenCV's own threads would only add overhead.
    cv2.setNumThreads(1)
    arrays: deque[np.ndarray] = deque()
    rows = _allocate_rows(arrays, (batch_size, 3, input_size[1], input_size[0]))
    with ThreadPoolExecutor(count_cores(), initializer=_lower_priority) as pool:
        jobs = ((len(image.persons), pool.submit(_fill_rows, image, input_size, [*islice(rows, len(image.persons))]))
                for image in images)
        try:
            crops = chain.from_iterable(look_ahead(jobs, batch_size))
            while batch := list(islice(crops, batch_size)):
                pixels = arrays.popleft()
                pixels[len(batch):] = pixels[0]
                yield Batch(batch, pixels)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _allocate_rows(arrays: deque[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Rows of as many arrays as it takes; each array is appended to ``arrays`` before its first row is used."""
    while True:
        arrays.append(np.empty(shape, np.float32))
        yield from arrays[-1]


def look_ahead(jobs: Iterable[tuple[int, Future[list[T]]]], limit: int) -> Iterator[list[T]]:
    """Results of jobs in their order, while later jobs run, of at most ``limit`` total size.

    Each job is its size and its future; taking it from the iterable starts it.
    """
    waiting: deque[tuple[int, Future[list[T]]]] = deque()
    for job in jobs:
        waiting.append(job)
        while sum(size for size, _ in waiting) > limit:
            yield waiting.popleft()[1].result()
    while waiting:
        yield waiting.popleft()[1].result()


def _lower_priority() -> None:
    # An engine waits for the slowest of its threads, so interrupting one of them delays all.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19))


def iterate_crops(images: Iterable[Image], input_size: tuple[int, int]) -> Iterator[Crop]:
    """All persons of all images, in order, normalised."""
    for batch in iterate_batches(images, input_size, batch_size=8):
        yield from batch.crops
