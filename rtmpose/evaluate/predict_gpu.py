"""Every person of a set through a TensorRT engine: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.evaluate.predict`.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import Image, PersonSet, regroup
from rtmpose.data.images import read_image
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import IN_FLIGHT, TensorRTEngine
from rtmpose.engines.tensorrt.stream import KeypointRunner
from rtmpose.evaluate.predictions import Predictions, check_finite
from rtmpose.machine.cpu import count_cores

IMAGES_A_THREAD = 2  # being read or waiting

Result = tuple[np.ndarray, float]  # keypoints of a batch, and its milliseconds


@dataclass
class ImageBatch:
    """Images and regions of one batch, in pinned memory that is used again."""

    pixels: np.ndarray  # uint8: one image after the other, BGR
    regions: np.ndarray  # kernels.REGION (batch,); their starts are offsets in pixels
    image_bytes: int = 0  # of pixels that are used
    persons: int = 0  # the first regions; the others are padding


def predict_persons_on_gpu(engine: TensorRTEngine, persons: PersonSet, flip_test: bool = False
                           ) -> tuple[Predictions, list[float], float]:
    """Predict keypoints, with the same result as :func:`rtmpose.evaluate.predict.predict_persons`.

    A batch's milliseconds are those from the start of its upload to the end of its download. Raises KitError also if
    memory runs out.
    """
    record = engine.record
    batches = split_batches(persons, record.batch)
    image_bytes = max(sum(count_bytes(image) for image in images) for images in batches)
    memory = deque(ImageBatch(engine.pinned((image_bytes,), np.uint8), engine.pinned((record.batch,), kernels.REGION))
                   for _ in range(count_buffers(len(persons.images), len(batches))))
    runner = KeypointRunner(engine, image_bytes, flip_test)
    start = time.perf_counter()
    boxes = np.stack([person.bbox for person in persons])
    centers, scales = preprocess.box_to_center_scale(boxes, record.input_size)
    parts, batch_ms = [], []

    def infer(batch: ImageBatch) -> Result:
        keypoints, milliseconds = runner.infer_images(batch.pixels[:batch.image_bytes], batch.regions)
        keypoints = keypoints[:batch.persons]
        memory.append(batch)
        return keypoints, milliseconds

    with (ThreadPoolExecutor(IN_FLIGHT) as pool,
          closing(read_batches(batches, centers, scales, record.input_size, memory)) as filled,
          tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar):
        for keypoints, milliseconds in run_all(pool, infer, filled):
            check_finite(np.all(np.isfinite(keypoints), axis=(1, 2)))
            parts.append(keypoints)
            batch_ms.append(milliseconds)
            bar.update(len(keypoints))
    found = np.concatenate(parts)
    keypoints = postprocess.crop_to_image(found[..., :2], centers, scales, record.input_size)
    predictions = Predictions(list(persons), keypoints, found[..., 2].copy(), scales)
    return predictions, batch_ms, time.perf_counter() - start


def run_all(pool: ThreadPoolExecutor, infer: Callable[[ImageBatch], Result], batches: Iterable[ImageBatch]
            ) -> Iterator[Result]:
    """Results of batches in their order, with :data:`IN_FLIGHT` running and one that waits."""
    running: deque[Future[Result]] = deque()
    for batch in batches:
        running.append(pool.submit(infer, batch))
        if len(running) > IN_FLIGHT:
            yield running.popleft().result()
    yield from (job.result() for job in running)


def split_batches(persons: PersonSet, batch: int) -> list[list[Image]]:
    """The images of each batch of persons, with their persons in it: an image may be in several batches."""
    pairs = persons.pairs
    return [regroup(pairs[start:start + batch]) for start in range(0, len(pairs), batch)]


def count_bytes(image: Image) -> int:
    """Bytes of an image's pixels."""
    return 3 * image.width * image.height


def count_buffers(images: int, batches: int) -> int:
    """Batches in host memory: in flight, handed over, and read ahead so that every thread has images to read."""
    ahead = IMAGES_A_THREAD * count_cores() * batches / images
    return min(IN_FLIGHT + 2 + int(ahead), batches)


def read_batches(batches: Sequence[Sequence[Image]], centers: np.ndarray, scales: np.ndarray,
                 input_size: tuple[int, int], memory: deque[ImageBatch]) -> Generator[ImageBatch]:
    """Batches in order, while a thread for each core reads ahead into ``memory``, as long as there is some.

    Centers and scales, float32 (N, 2), are those of all persons. A batch has to be put back when it is done with.
    Closing it ends the threads. Raises KitError if an image can't be used.
    """
    reading: deque[tuple[ImageBatch, list[Future[None]]]] = deque()
    row = 0  # of the batch's first person
    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            for images in batches:
                while not memory:
                    yield wait_for(*reading.popleft())
                batch = memory.popleft()
                reading.append((batch, start_reading(pool, images, centers[row:], scales[row:], input_size, batch)))
                row += batch.persons
            while reading:
                yield wait_for(*reading.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def start_reading(pool: ThreadPoolExecutor, images: Sequence[Image], centers: np.ndarray, scales: np.ndarray,
                  input_size: tuple[int, int], batch: ImageBatch) -> list[Future[None]]:
    """Start a job for each image, which fills its part of the batch."""
    jobs, start, row = [], 0, 0
    for image in images:
        end, rows = start + count_bytes(image), slice(row, row + len(image.persons))
        batch.regions["start"][rows] = start
        jobs.append(pool.submit(fill_part, image, centers[rows], scales[rows], input_size, batch.pixels[start:end],
                                batch.regions[rows]))
        start, row = end, rows.stop
    batch.image_bytes, batch.persons = start, row
    return jobs


def fill_part(image: Image, centers: np.ndarray, scales: np.ndarray, input_size: tuple[int, int], pixels: np.ndarray,
              regions: np.ndarray) -> None:
    """Read an image, and describe the regions of its persons to the kernels."""
    regions["map"] = kernels.crop_maps(centers, scales, input_size)
    regions["width"], regions["height"] = image.width, image.height
    pixels[:] = read_image(image).ravel()


def wait_for(batch: ImageBatch, jobs: Sequence[Future[None]]) -> ImageBatch:
    """A batch whose images have been read, with padding. Raises KitError if an image can't be used."""
    for job in jobs:
        job.result()
    batch.regions[batch.persons:] = batch.regions[0]
    return batch
