"""From images on disk to keypoints: reading and cropping run in threads beside the engine, in bounded memory."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import cv2
import numpy as np
from tqdm import tqdm

from rtmpose import crop, simcc
from rtmpose.coco import Image, Person, PersonSet
from rtmpose.engines import Engine
from rtmpose.errors import KitError
from rtmpose.score import Estimate

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class Crop:
    """One person, cut out: ``pixels`` is float32 (3, H, W), normalised, or as it was cut, uint8 (H, W, 3), BGR; centre
    and scale as :mod:`rtmpose.crop` gives them."""

    person: Person
    pixels: np.ndarray
    center: np.ndarray
    scale: np.ndarray


@dataclass
class Run:
    """What an accuracy run gave.

    Attributes:
        estimates: one a person.
        batch_ms: milliseconds of each run of the engine.
        seconds: from the first image to the last keypoint.
    """

    estimates: list[Estimate] = field(default_factory=list)
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


def crop_image(image: Image, input_size: tuple[int, int], normalized: bool = True) -> list[Crop]:
    """Read an image once and cut out all its persons."""
    pixels = read_image(image)
    crops = []
    for person in image.persons:
        center, scale = crop.box_to_center_scale(person.bbox, input_size)
        cut = crop.crop_person(pixels, center, scale, input_size)
        crops.append(Crop(person, crop.normalize(cut) if normalized else cut, center, scale))
    return crops


def iterate_crops(images: Iterable[Image], input_size: tuple[int, int], normalized: bool = True) -> Iterator[Crop]:
    """All persons of all images, in order, prepared ahead by as many threads as there are cores; at most a few
    images a thread wait to be taken."""
    workers = os.cpu_count() or 1
    waiting: deque[Future[list[Crop]]] = deque()
    images = iter(images)
    with ThreadPoolExecutor(workers) as pool:
        try:
            waiting.extend(pool.submit(crop_image, image, input_size, normalized)
                           for image in islice(images, 4 * workers))
            while waiting:
                crops = waiting.popleft().result()
                waiting.extend(pool.submit(crop_image, image, input_size, normalized) for image in islice(images, 1))
                yield from crops
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def batches(crops: Iterable[Crop], size: int) -> Iterator[list[Crop]]:
    """Lists of ``size`` crops; the last may be shorter."""
    crops = iter(crops)
    while batch := list(islice(crops, size)):
        yield batch


def stack(batch: list[Crop], size: int) -> np.ndarray:
    """A batch as the engine takes it, float32 (size, 3, H, W); a partial batch is padded with its first crop."""
    return np.stack([one.pixels for one in batch] + [batch[0].pixels] * (size - len(batch)))


def estimate(engine: Engine, persons: PersonSet, flip_test: bool = False) -> Run:
    """Estimate every person.

    Args:
        engine: for 17 keypoints.
        persons: whom.
        flip_test: average with the mirrored crop, as mmpose's ``flip_test`` does.

    Raises:
        KitError: an image can't be used, or the engine gives something else than numbers.
    """
    record, run = engine.record, Run()
    start = time.perf_counter()
    with tqdm(total=persons.number, unit="person", desc="Estimating", disable=None) as bar:
        for batch in batches(iterate_crops(persons.images, record.input_size), record.batch):
            logits = _infer(engine, stack(batch, record.batch), flip_test, run)
            found = decode(*(axis[:len(batch)] for axis in logits), record.input_size)
            run.estimates += to_estimates(batch, *found, record.input_size)
            bar.update(len(batch))
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
    broken = sum(not (np.isfinite(x).all() and np.isfinite(y).all()) for x, y in zip(simcc_x, simcc_y, strict=True))
    if broken:
        raise KitError(f"the engine gave NaN or infinity for {broken} of {len(simcc_x)} persons of a batch: a number "
                       "left the range of its type; build the engine with --precision fp32 or check the checkpoint")
    return simcc.decode(simcc_x, simcc_y, input_size)


def to_estimates(crops: list[Crop], keypoints: np.ndarray, scores: np.ndarray, input_size: tuple[int, int]
                 ) -> list[Estimate]:
    """Move the keypoints of crops, as :func:`decode` gives them, into their images."""
    centers, scales = np.stack([c.center for c in crops]), np.stack([c.scale for c in crops])
    keypoints = simcc.crop_to_image(keypoints, centers, scales, input_size)
    return [Estimate(*parts) for parts in zip([c.person for c in crops], keypoints, scores, scales, strict=True)]
