"""From images on disk to keypoints: reading and cropping run in threads beside the engine, in bounded memory."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from rtmpose import crop, simcc
from rtmpose.coco import Image, Person, PersonSet
from rtmpose.engines import Engine
from rtmpose.errors import KitError
from rtmpose.machine import count_cores
from rtmpose.score import Estimate, Estimates

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class Crop:
    """One person, cut out, with centre and scale as :mod:`rtmpose.crop` gives them.

    ``pixels`` is uint8 (H, W, 3), BGR, as it comes from the image; normalised, it is float32 (3, H, W).
    """

    person: Person
    pixels: np.ndarray
    center: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Persons for one run of an engine: their crops, and what the engine takes, float32 (size, 3, H, W), of which the
    crops' ``pixels`` are the first rows; the rest repeats the first crop."""

    crops: list[Crop]
    pixels: np.ndarray


@dataclass
class Run:
    """What an accuracy run gave.

    Attributes:
        estimates: one a person.
        batch_ms: milliseconds of each run of the engine.
        seconds: from the first image to the last keypoint.
    """

    estimates: Estimates
    batch_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
        center, scale = crop.box_to_center_scale(person.bbox, input_size)
        crops.append(Crop(person, crop.crop_person(pixels, center, scale, input_size), center, scale))
    return crops


def crop_image(image: Image, input_size: tuple[int, int], rows: Sequence[np.ndarray]) -> list[Crop]:
    """The same, normalised, each person in a row of its own, float32 (3, H, W)."""
    crops = []
    for one, row in zip(cut_image(image, input_size), rows, strict=True):
        crop.normalize(one.pixels, row)
        crops.append(replace(one, pixels=row))
    return crops


def iterate_batches(images: Iterable[Image], input_size: tuple[int, int], size: int) -> Iterator[Batch]:
    """All persons of all images, in order, ``size`` a batch; the last batch may hold fewer.

    As many threads as there are cores prepare the next batch while this one is worked on, and step back where an engine
    needs the cores itself. They write crops where the engine reads them.

    Raises:
        KitError: an image can't be used.
    """
    # The images are shared out already; OpenCV's own threads would cost more than they bring.
    cv2.setNumThreads(1)
    images, rows = iter(images), _rows(input_size, size)
    waiting: deque[Future[list[Crop]]] = deque()
    crops: list[Crop] = []
    missing = size
    with ThreadPoolExecutor(count_cores(), initializer=_step_back) as pool:
        try:
            while True:
                missing += size
                while missing > 0 and (image := next(images, None)):
                    missing -= len(image.persons)
                    waiting.append(pool.submit(crop_image, image, input_size, list(islice(rows, len(image.persons)))))
                while len(crops) < size and waiting:
                    crops += waiting.popleft().result()
                if not crops:
                    return
                batch, crops = crops[:size], crops[size:]
                pixels = batch[0].pixels.base
                pixels[len(batch):] = pixels[0]
                yield Batch(batch, pixels)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    """Lower this thread's priority a little: an engine's threads wait for the slowest of them, so an interruption of
    one costs the time of all."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19))


def _rows(input_size: tuple[int, int], size: int) -> Iterator[np.ndarray]:
    """Room for one crop after the other, float32 (3, H, W) each; ``size`` of them are one array, their ``base``."""
    while True:
        yield from np.empty((size, 3, input_size[1], input_size[0]), np.float32)


def iterate_crops(images: Iterable[Image], input_size: tuple[int, int]) -> Iterator[Crop]:
    """All persons of all images, in order."""
    for batch in iterate_batches(images, input_size, size=8):
        yield from batch.crops


def estimate(engine: Engine, persons: PersonSet, flip_test: bool = False) -> Run:
    """Estimate every person.

    Args:
        engine: for 17 keypoints.
        persons: whom.
        flip_test: average with the mirrored crop, as mmpose's ``flip_test`` does.

    Raises:
        KitError: an image can't be used, or the engine gives something else than numbers.
    """
    record, run = engine.record, Run(Estimates(persons))
    start = time.perf_counter()
    with tqdm(total=persons.number, unit="person", desc="Estimating", disable=None) as bar:
        for batch in iterate_batches(persons.images, record.input_size, record.batch):
            logits = _infer(engine, batch.pixels, flip_test, run)
            found = decode(*(axis[:len(batch.crops)] for axis in logits), record.input_size)
            run.estimates.extend(to_estimates(batch.crops, *found, record.input_size))
            bar.update(len(batch.crops))
    run.seconds = time.perf_counter() - start
    return run


def _infer(engine: Engine, crops: np.ndarray, flip_test: bool, run: Run) -> tuple[np.ndarray, np.ndarray]:
    start = time.perf_counter()
    simcc_x, simcc_y = engine.infer(crops)
    run.batch_ms.append((time.perf_counter() - start) * 1e3)
    if not flip_test:
        return simcc_x, simcc_y
    start = time.perf_counter()
    flipped_x, flipped_y = engine.infer(np.ascontiguousarray(crops[..., ::-1]))
    run.batch_ms.append((time.perf_counter() - start) * 1e3)
    return (simcc.fuse_flipped(simcc_x, flipped_x, mirror_axis=True),
            simcc.fuse_flipped(simcc_y, flipped_y, mirror_axis=False))


def decode(simcc_x: np.ndarray, simcc_y: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints in the crop and scores, as :func:`rtmpose.simcc.decode` gives them.

    Raises:
        KitError: there is NaN or infinity among the logits.
    """
    refuse_broken(~(np.isfinite(simcc_x).all((1, 2)) & np.isfinite(simcc_y).all((1, 2))))
    return simcc.decode(simcc_x, simcc_y, input_size)


def refuse_broken(broken: np.ndarray) -> None:
    """Raise a KitError if for any person of a batch, bool (n,), the engine gave something else than numbers."""
    if broken.any():
        raise KitError(f"the engine gave NaN or infinity for {np.count_nonzero(broken)} of {len(broken)} persons of a "
                       "batch: a number left the range of its type; build the engine with --precision fp32 or check "
                       "the checkpoint")


def to_estimates(crops: Sequence[Any], keypoints: np.ndarray, scores: np.ndarray, input_size: tuple[int, int]
                 ) -> list[Estimate]:
    """Move the keypoints of crops into their images.

    Args:
        crops: N of :class:`Crop`, or of anything with ``person``, ``center`` and ``scale``.
        keypoints, scores: as :func:`decode` gives them.
        input_size: width and height of a crop in pixels.
    """
    centers, scales = np.stack([c.center for c in crops]), np.stack([c.scale for c in crops])
    keypoints = simcc.crop_to_image(keypoints, centers, scales, input_size)
    return [Estimate(*parts) for parts in zip([c.person for c in crops], keypoints, scores, scales, strict=True)]
