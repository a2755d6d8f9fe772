"""From images on disk to batches of crops: reading and cropping run in threads beside the engine, in bounded memory."""

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
from rtmpose.data.dataset import Image, Person
from rtmpose.environment import count_cores
from rtmpose.errors import KitError

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"

T = TypeVar("T")


@dataclass(frozen=True)
class Crop:
    """One person, cut out, with centre and scale as :mod:`rtmpose.data.preprocess` gives them.

    ``pixels`` is uint8 (H, W, 3), BGR, as it comes from the image; normalised, it is float32 (3, H, W).
    """

    person: Person
    pixels: np.ndarray
    center: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Persons for one run of an engine.

    Attributes:
        crops: of the persons, at most ``size``.
        pixels: float32 (size, 3, H, W), the engine's input; the crops' ``pixels`` are its first rows, and the rest
            repeats the first crop.
    """

    crops: list[Crop]
    pixels: np.ndarray


class _BatchArrays:
    """Memory for crops, one row a person, in arrays of one batch each."""

    def __init__(self, batch_size: int, input_size: tuple[int, int]) -> None:
        self.arrays: deque[np.ndarray] = deque()
        self._shape = (batch_size, 3, input_size[1], input_size[0])
        self._free: list[np.ndarray] = []

    def take(self, number: int) -> list[np.ndarray]:
        """The next ``number`` rows, float32 (3, H, W) each."""
        while len(self._free) < number:
            self.arrays.append(np.empty(self._shape, np.float32))
            self._free.extend(self.arrays[-1])
        taken, self._free = self._free[:number], self._free[number:]
        return taken


def read_image(image: Image) -> np.ndarray:
    """Decode an image as mmpose's ``LoadImage`` does: three channels, BGR, turned as its EXIF says.

    Returns:
        uint8 (H, W, 3).

    Raises:
        KitError: the file is missing, no image, cut off, or of another size than its annotation says.
    """
    try:
        content = image.path.read_bytes()
    except OSError as error:
        raise KitError(f"{image.path}: can't be read ({error.strerror}), expected image {image.id} of the annotations"
                       ) from error
    # OpenCV fills up a JPEG that was cut off with grey and says nothing.
    whole = not content.startswith(_JPEG_START) or _JPEG_END in content[-4096:]
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content and whole else None
    if pixels is None:
        raise KitError(f"{image.path}: is no image or was cut off ({len(content)} bytes); fetch it again")
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise KitError(f"{image.path}: is {width}x{height} pixels, the annotations say {image.width}x{image.height}; "
                       "images and annotations must be of the same set")
    return pixels


def cut_image(image: Image, input_size: tuple[int, int]) -> list[Crop]:
    """Read an image once and cut out all its persons, uint8 (H, W, 3)."""
    pixels = read_image(image)
    crops = []
    for person in image.persons:
        center, scale = preprocess.box_to_center_scale(person.bbox, input_size)
        crops.append(Crop(person, preprocess.crop_person(pixels, center, scale, input_size), center, scale))
    return crops


def crop_image(image: Image, input_size: tuple[int, int], rows: Sequence[np.ndarray]) -> list[Crop]:
    """Read an image once and cut out all its persons, normalised, each in one of the ``rows``, float32 (3, H, W)."""
    crops = []
    for one, row in zip(cut_image(image, input_size), rows, strict=True):
        preprocess.normalize(one.pixels, row)
        crops.append(replace(one, pixels=row))
    return crops


def iterate_batches(images: Iterable[Image], input_size: tuple[int, int], batch_size: int) -> Iterator[Batch]:
    """All persons of all images, in order, ``batch_size`` at a time; the last batch may hold fewer.

    As many threads as there are cores prepare the next batch while this one is worked on. They write crops where the
    engine reads them.

    Raises:
        KitError: an image can't be used.
    """
    # The images are shared out already; OpenCV's own threads would cost more than they bring.
    cv2.setNumThreads(1)
    memory = _BatchArrays(batch_size, input_size)
    with ThreadPoolExecutor(count_cores(), initializer=_lower_priority) as pool:
        jobs = ((len(image.persons), pool.submit(crop_image, image, input_size, memory.take(len(image.persons))))
                for image in images)
        try:
            crops = chain.from_iterable(look_ahead(jobs, batch_size))
            while batch := list(islice(crops, batch_size)):
                pixels = memory.arrays.popleft()
                pixels[len(batch):] = pixels[0]
                yield Batch(batch, pixels)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def look_ahead(jobs: Iterable[tuple[int, Future[T]]], limit: int) -> Iterator[T]:
    """Results of jobs in their order, while later ones are under way.

    Args:
        jobs: each with its size; a job starts when it is taken from here.
        limit: jobs of more than this size together are not left waiting.
    """
    waiting: deque[tuple[int, Future[T]]] = deque()
    for job in jobs:
        waiting.append(job)
        while sum(size for size, _ in waiting) > limit:
            yield waiting.popleft()[1].result()
    while waiting:
        yield waiting.popleft()[1].result()


def _lower_priority() -> None:
    """Lower this thread's priority a little: an engine's threads wait for the slowest of them, so an interruption of
    one costs the time of all."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19))


def iterate_crops(images: Iterable[Image], input_size: tuple[int, int]) -> Iterator[Crop]:
    """All persons of all images, in order, normalised."""
    for batch in iterate_batches(images, input_size, batch_size=8):
        yield from batch.crops
